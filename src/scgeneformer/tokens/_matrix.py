"""Cells x genes in any of the forms that AnnData holds, read as CSR rows without ever making the whole dense."""

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
    """Whether `X` lies in a file or is yet to be computed: dask, or a data set of an open h5ad or zarr file."""
    return not (isinstance(X, np.ndarray) or sparse.issparse(X))


def check_matrix(X: Any, slot: str) -> None:
    """Raise unless `X` is a matrix of numbers."""
    if (
        getattr(X, "ndim", len(getattr(X, "shape", ()))) != 2
        or np.dtype(getattr(X, "dtype", object)).kind not in "biuf"
    ):
        msg = f"{slot} must be a cells x genes matrix of real numbers, not {type(X).__name__} of {getattr(X, 'dtype', 'no dtype')}."
        raise TypeError(msg)


def as_rows(X: Any) -> Any:
    """Return `X` so that rows can be cut out of it cheaply: matrices in columns are turned once, files become dask arrays."""
    if sparse.issparse(X):
        return X.tocsr()
    if isinstance(X, np.ndarray):
        return np.asarray(X)
    if getattr(X, "format", None) == "csc":
        msg = "This file stores the matrix by genes (CSC), which cannot be read by cells: it is loaded whole. Store it as CSR."
        warnings.warn(msg, UserWarning, stacklevel=3)
        return X.to_memory().tocsr()
    return _as_dask(X)


def _as_dask(X: Any) -> da.Array:
    """A dask array with whole rows in each block. What is in a file is read by one thread at a time."""
    import dask.array as da

    if not isinstance(X, da.Array):
        meta = None if getattr(X, "format", None) is None else sparse.csr_matrix((0, 0), dtype=X.dtype)
        stored = getattr(X, "group", X)
        source = _InFile(stored.file.filename, stored.name, X.shape, X.dtype) if hasattr(stored, "file") else X
        # name=False: what is in a file now need not be in it later, so that dask must not take two of them for one
        X = da.from_array(source, (slab_rows(X), X.shape[1]), name=False, lock=True, asarray=meta is None, meta=meta)
    return X if X.numblocks[1] == 1 else X.rechunk({1: -1})


@dataclass(frozen=True)
class _InFile:
    """A matrix in an HDF5 file, opened for each block that is read: AnnData closes its own handle when it is written elsewhere."""

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
    """How many rows to take at a time."""
    if sparse.issparse(X):
        return _SLAB_ROWS
    if getattr(X, "format", None) is not None:  # each read costs some time, whatever its size
        return 4 * _SLAB_ROWS
    return int(np.clip(_SLAB_BYTES // max(1, X.shape[1] * X.dtype.itemsize), 16, _SLAB_ROWS))


class Rows(NamedTuple):
    """A block of rows in CSR's three arrays. SciPy's own class copies them when it is made of parts of larger ones."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]

    def scipy(self) -> sparse.csr_array:
        """The same as a SciPy matrix."""
        return sparse.csr_array((self.data, self.indices, self.indptr), shape=self.shape)


def slabs(X: Any) -> Iterator[tuple[int, Rows]]:
    """Cut rows of an array or CSR matrix in memory: pairs of the first row and the block, a view where `X` is CSR."""
    step = slab_rows(X)
    for start in range(0, X.shape[0], step):
        stop = min(start + step, X.shape[0])
        if isinstance(X, np.ndarray):
            yield start, to_rows(X[start:stop])
            continue
        first, last = X.indptr[start], X.indptr[stop]
        indptr = X.indptr[start : stop + 1] - first
        yield start, Rows(indptr, X.indices[first:last], _known(X.data[first:last]), (stop - start, X.shape[1]))


def to_rows(block: Any) -> Rows:
    """One block of rows, dense or sparse."""
    csr = block.tocsr() if sparse.issparse(block) else sparse.csr_array(_known(np.asarray(block)))
    return Rows(csr.indptr, csr.indices, _known(csr.data), csr.shape)


def _known(data: np.ndarray) -> np.ndarray:
    """Values as numbers that SciPy and the kernels know."""
    if data.dtype.kind == "b" or data.dtype in (np.float16, np.longdouble):
        return data.astype(np.float64)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))
