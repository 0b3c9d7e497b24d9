"""Matrices that are not counts, or are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from scipy import sparse

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "geneformer_tokens"


def _as_dask(x: np.ndarray) -> da.Array:
    return da.from_array(x, chunks=(7, -1))


FORMS: dict[str, Callable[[np.ndarray], object]] = {
    "dense": lambda x: x,
    "CSR": sparse.csr_matrix,
    "CSC": sparse.csc_matrix,
    "CSR array": sparse.csr_array,
    "dask": _as_dask,
    "dask CSR": lambda x: _as_dask(x).map_blocks(sparse.csr_matrix),
}
VALUES = {"negative": -1.0, "NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf, "fraction below 0": -0.5}
DTYPES = ("float16", "float64", "int8", "uint8", "int64", "uint16", ">f4", ">i2")
NO_NUMBERS = ("complex64", "U3", "datetime64[s]", "timedelta64[s]", "object")


def _tokens(adata: object) -> np.ndarray:
    return np.asarray(adata.obsm[KEY])


def tokenize(X: object, name: str, *, same: bool = False, **options: object) -> Case:
    """A case of `pp.tokenize`; with `same` the answer is that of the undamaged counts."""
    adata = world.cells(X)

    def call() -> np.ndarray:
        sg.pp.tokenize(adata, world.model(), **options)
        return _tokens(adata)

    expected = _tokens(world.tokenized())
    return Case(name, call, adata, (lambda found: np.array_equal(found, expected)) if same else None)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 250 of them."""
    clean = world.counts()
    for form, make in FORMS.items():
        yield tokenize(make(clean), f"sound {form}", same=True)
        for what, value in VALUES.items():
            for _ in range(3):
                x = clean.copy()
                x[rng.integers(len(x)), rng.integers(x.shape[1])] = value
                yield tokenize(make(x), f"{what} value in {form}")
        for what, x in {
            "log-normalised": np.log1p(1e4 * clean / clean.sum(1, keepdims=True)),
            "log twice": np.log1p(np.log1p(1e4 * clean / clean.sum(1, keepdims=True))),
            "scaled": (clean - clean.mean(0)) / (clean.std(0) + 1),
        }.items():
            yield tokenize(make(x.astype(np.float32)), f"{what} {form}")
    for dtype in DTYPES:
        for form in ("dense", "CSC"):
            x = clean.astype(dtype)
            if form == "dense" or x.dtype not in (np.float16, np.dtype(">f4"), np.dtype(">i2")):
                yield tokenize(FORMS[form](x), f"{dtype} {form}", same=True)
    for dtype in NO_NUMBERS:
        yield tokenize(clean.astype(int).astype(dtype), f"dense {dtype}")
    yield tokenize(np.asfortranarray(clean), "Fortran order", same=True)
    yield tokenize(np.repeat(clean, 2, axis=1)[:, ::2], "strided", same=True)
    read_only = clean.copy()
    read_only.flags.writeable = False
    yield tokenize(read_only, "read-only", same=True)
    yield from _damaged_sparse(clean, rng)
    yield from _options()


def _damaged_sparse(clean: np.ndarray, rng: np.random.Generator) -> Iterator[Case]:
    shuffled = sparse.csr_matrix(clean)
    for row in range(len(clean)):
        part = slice(shuffled.indptr[row], shuffled.indptr[row + 1])
        order = rng.permutation(part.stop - part.start)
        shuffled.indices[part], shuffled.data[part] = shuffled.indices[part][order], shuffled.data[part][order]
    shuffled.has_sorted_indices = False
    yield tokenize(shuffled, "unsorted indices", same=True)
    zeros = sparse.csr_matrix(np.ones_like(clean))
    zeros.data[:] = clean.ravel()
    yield tokenize(zeros, "explicit zeros", same=True)
    for make in (sparse.csr_matrix, sparse.csc_matrix):
        for value in (10**6, -1, 2**31 - 1, clean.shape[1] if make is sparse.csr_matrix else clean.shape[0]):
            for _ in range(5):
                x = make(clean)
                x.indices[rng.integers(len(x.indices))] = value
                yield tokenize(x, f"index {value} in {make.__name__}")
        for value in (-1, 10**6, 2**31 - 1):
            for _ in range(3):
                x = make(clean)
                x.indptr[rng.integers(1, len(x.indptr))] = value
                yield tokenize(x, f"pointer {value} in {make.__name__}")


def _options() -> Iterator[Case]:
    given: dict[str, tuple[object, ...]] = {
        "layer": ("none", 3, ["a"], ""),
        "gene_ids": ("none", 3, "", ["a"]),
        "counts": ("log", "", None, 1),
        "max_length": (0, 1, -5, 2.5, "5", 10**9, True),
        "key_added": ("", "a/b", None, 3),
        "mod": (3, None),
        "total_counts": ("none", "state", 3),
        "keep_counts": ("yes", 2),
        "copy": ("yes", 1),
    }
    for name, values in given.items():
        for value in values:
            yield tokenize(sparse.csr_matrix(world.counts()), f"{name}={value!r}", **{name: value})
    for model in ("none", "", 3, object(), [], "/", "../nowhere", b"default"):
        adata = world.cells()
        yield Case(f"model={model!r}", lambda a=adata, m=model: sg.pp.tokenize(a, m), adata)
