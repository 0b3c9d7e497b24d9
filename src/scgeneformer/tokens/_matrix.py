"""Matrices of cells x genes in any form that AnnData holds, read as CSR rows; the whole is never made dense."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dask.array as da

_SLAB_ROWS = 1024
_SLAB_BYTES = 64 * 2**20  # of a dense slab


def is_lazy(X: Any) -> bool:
    """Whether `X` is a dask array or a data set of an open h5ad or zarr file."""
    return not (isinstance(X, np.ndarray) or sparse.issparse(X))


def check_matrix(X: Any, slot: str) -> None:
    """Raise unless `X` is a matrix of numbers."""
    if (
        getattr(X, "ndim", len(getattr(X, "shape", ()))) != 2
        or np.dtype(getattr(X, "dtype", object)).kind not in "biuf"
    ):
        msg = f"{slot} must be a cells x genes matrix of real numbers, not {type(X).__name__} of {getattr(X, 'dtype', 'no dtype')}."
        raise TypeError(msg)


def as_rows(X: Any, slot: str = "X") -> Any:
    """Return `X` in a form whose rows are cheap to slice: CSC matrices are converted once, files become dask arrays."""
    if sparse.issparse(X):
        return _to_csr(X, slot)
    if isinstance(X, np.ndarray):
        return np.asarray(X)
    if getattr(getattr(X, "_meta", X), "format", None) == "csc":  # of a file, or of the blocks of a dask array
        msg = (
            "This file stores the matrix by genes (CSC), so it cannot be read cell by cell and is loaded whole. Store "
            "it as CSR."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
    if getattr(X, "format", None) == "csc":
        return _to_csr(X.to_memory(), slot)
    return _as_dask(X)


def _to_csr(X: Any, slot: str) -> Any:
    """Convert a sparse matrix to CSR after a check, since SciPy's conversion reads and writes out of bounds if indices are wrong."""
    if X.format == "csr":  # its rows are checked block by block, by `slabs` and `to_rows`
        return X
    if X.format == "csc":
        transposed = _with_pointers_checked(Rows(X.indptr, X.indices, X.data, X.shape[::-1]), slot)
        check_columns(transposed, slot, axis="row")
    return X.tocsr()


def _damaged(slot: str, what: str) -> ValueError:
    return ValueError(f"{slot} is damaged: {what}. Read it again from its source, or write the file again.")


def _as_dask(X: Any) -> da.Array:
    """A dask array with whole rows in each block. A file is read by one thread at a time."""
    import dask.array as da

    if not isinstance(X, da.Array):
        meta = None if getattr(X, "format", None) is None else sparse.csr_matrix((0, 0), dtype=X.dtype)
        stored = getattr(X, "group", X)
        source = _InFile(stored.file.filename, stored.name, X.shape, X.dtype) if hasattr(stored, "file") else X
        # name=False: the content of a file may change, so that dask must not identify two arrays by their file
        X = da.from_array(source, (slab_rows(X), X.shape[1]), name=False, lock=True, asarray=meta is None, meta=meta)
    return X if X.numblocks[1] == 1 else X.rechunk({1: -1})


@dataclass(frozen=True)
class _InFile:
    """A matrix in an HDF5 file that is opened for each block, since AnnData closes its own handle when it is written elsewhere."""

    path: str
    name: str
    shape: tuple[int, int]
    dtype: np.dtype
    ndim: int = 2

    def __getitem__(self, block: Any) -> Any:
        import h5py
        from anndata.io import sparse_dataset

        with h5py.File(self.path, "r") as file:
            stored = file[self.name]
            return (sparse_dataset(stored) if isinstance(stored, h5py.Group) else stored)[block]


def slab_rows(X: Any) -> int:
    """Number of rows of a block."""
    if sparse.issparse(X):
        return _SLAB_ROWS
    if getattr(X, "format", None) is not None:  # each read has a fixed cost
        return 4 * _SLAB_ROWS
    return int(np.clip(_SLAB_BYTES // max(1, X.shape[1] * X.dtype.itemsize), 16, _SLAB_ROWS))


class Rows(NamedTuple):
    """A block of rows as the three arrays of CSR. SciPy's class would copy slices of larger arrays."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]

    def scipy(self) -> sparse.csr_array:
        """As a SciPy array."""
        return sparse.csr_array((self.data, self.indices, self.indptr), shape=self.shape)


def slabs(X: Any, slot: str = "X") -> Iterator[tuple[int, Rows]]:
    """Blocks of rows of an array or CSR matrix in memory, each with the number of its first row; views if `X` is CSR.

    Row pointers are checked here. Column indices are checked by `inspect`, which is called first.

    Raises
    ------
    ValueError
        If the row pointers of `X` are invalid; `slot` is named.
    """
    step = slab_rows(X)
    for start in range(0, X.shape[0], step):
        stop = min(start + step, X.shape[0])
        if isinstance(X, np.ndarray):
            yield start, to_rows(X[start:stop], slot)
            continue
        first, last = X.indptr[start], X.indptr[stop]
        stored = slice(max(first, 0), max(last, 0))
        rows = Rows(X.indptr[start : stop + 1] - first, X.indices[stored], X.data[stored], (stop - start, X.shape[1]))
        yield start, _with_pointers_checked(rows, slot)


def to_rows(block: Any, slot: str = "X") -> Rows:
    """One block of rows, dense or sparse.

    Raises
    ------
    ValueError
        If row pointers or column indices are invalid; `slot` is named.
    """
    csr = _to_csr(block, slot) if sparse.issparse(block) else sparse.csr_array(_native(np.asarray(block)))
    rows = _with_pointers_checked(Rows(csr.indptr, csr.indices, csr.data, csr.shape), slot)
    check_columns(rows, slot)
    return rows


def check_columns(rows: Rows, slot: str, axis: str = "column") -> None:
    """Raise if a column index of `rows` is out of bounds; `axis` is the axis of the matrix that it indexes."""
    indices, n_columns = rows.indices, rows.shape[1]
    # as unsigned integers, negative indices are large ones: one pass instead of two
    if len(indices) and indices.view(indices.dtype.str.replace("i", "u")).max() >= n_columns:
        index = indices[(indices < 0) | (indices >= n_columns)][0]
        raise _damaged(slot, f"it has a value in {axis} {index:,}, but {n_columns:,} {axis}s")


def _with_pointers_checked(rows: Rows, slot: str) -> Rows:
    """Check row pointers; return the rows with values of a type that the kernels support."""
    indptr, indices, data, (n_rows, _) = rows
    if len(indptr) != n_rows + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise _damaged(slot, "its row pointers (indptr) do not ascend from 0")
    if not indptr[-1] <= len(indices) or not indptr[-1] <= len(data):
        raise _damaged(slot, f"its row pointers (indptr) end at {indptr[-1]:,} values, but it has {len(data):,}")
    n_stored = indptr[-1]
    return rows._replace(indices=indices[:n_stored], data=_native(data[:n_stored]))


def _native(data: np.ndarray) -> np.ndarray:
    """Values of a type that SciPy and the kernels support."""
    if data.dtype.kind == "b" or data.dtype in (np.float16, np.longdouble):
        return data.astype(np.float64)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))
