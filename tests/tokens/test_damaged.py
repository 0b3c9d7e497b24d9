"""Matrices with wrong indices are refused by name, and never reach a kernel (which would read and write outside its arrays)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import dask
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scgeneformer as sg
from scgeneformer.tokens import Vocabulary, encode, inspect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCABULARY = Vocabulary(
    "own", np.array(["<pad>", "<mask>", *(f"ENSG{i:011d}" for i in range(20))]), np.r_[np.nan, np.nan, np.ones(20)], 24
)
TOKEN_ID = np.arange(2, 22, dtype=np.int32)


def counts(kind: type = sparse.csr_matrix) -> Any:
    return kind(np.random.default_rng(0).poisson(1.0, (30, 20)).astype(np.float32))


def column(value: int) -> Callable:
    def damage(X: Any) -> None:
        X.indices[len(X.indices) // 2] = value

    return damage


def pointers(place: int, value: int) -> Callable:
    def damage(X: Any) -> None:
        X.indptr[place] = value

    return damage


DAMAGES = {
    "column beyond": column(20),
    "column far beyond": column(2**31 - 1),
    "column below zero": column(-1),
    "column far below zero": column(-(2**31)),
    "pointer beyond": pointers(-1, 10**6),
    "pointer far beyond": pointers(5, 10**9),
    "pointer descends": pointers(7, 0),
    "pointer below zero": pointers(3, -4),
    "last pointer below zero": pointers(-1, -1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array])
def test_in_memory(kind: type, damage: str) -> None:
    X = counts(kind)
    if kind in (sparse.csc_matrix, sparse.csc_array) and damage == "column beyond":
        X.indices[0] = 30  # the other axis has 30
    else:
        DAMAGES[damage](X)
    with pytest.raises(ValueError, match=r"\.layers\['raw'\] is damaged"):
        inspect(X, TOKEN_ID, slot=".layers['raw']")
    with pytest.raises(ValueError, match="is damaged"):
        encode(X, TOKEN_ID, VOCABULARY)


@pytest.mark.parametrize("damage", DAMAGES)
def test_blocks_of_dask(damage: str) -> None:
    """The first pass sees intact blocks, the second damaged ones, as from a file that changed in between."""
    whole, damaged = counts(), counts()
    DAMAGES[damage](damaged)
    now = [whole]
    X = da.from_delayed(
        dask.delayed(lambda: now[0], pure=False)(),
        (30, 20),
        dtype=np.float32,
        meta=sparse.csr_matrix((0, 0)),
    )
    encoded = encode(X, TOKEN_ID, VOCABULARY)
    now[0] = damaged
    with pytest.raises(ValueError, match="is damaged"):
        encoded.tokens.compute(scheduler="synchronous")
    with pytest.raises(ValueError, match=r"\.X is damaged"):
        inspect(X, TOKEN_ID, slot=".X")


@given(place=st.integers(0, 10**6), value=st.integers(-(2**31), 2**31 - 1), of_pointers=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_index(place: int, value: int, of_pointers: bool) -> None:
    """Any number at any place gives an error, or the tokens of a matrix that is valid by definition."""
    X = counts()
    array = X.indptr if of_pointers else X.indices
    array[place % len(array)] = value
    starts, ends = X.indptr[:-1].tolist(), X.indptr[1:].tolist()
    ascending = starts[0] == 0 and all(a <= b for a, b in zip(starts, ends, strict=True)) and ends[-1] <= len(X.indices)
    if ascending and all(0 <= j < 20 for j in X.indices[: ends[-1]].tolist()):
        assert (encode(X, TOKEN_ID, VOCABULARY).lengths <= 20).all()
    else:
        with pytest.raises(ValueError, match="is damaged"):
            encode(X, TOKEN_ID, VOCABULARY)


def damaged_file(folder: Path, index: int) -> Path:
    var = pd.DataFrame(index=VOCABULARY.ids[2:])
    ad.AnnData(counts(), var=var).write_h5ad(folder / "cells.h5ad")
    with h5py.File(folder / "cells.h5ad", "r+") as file:
        file["X/indices"][100] = index
    return folder / "cells.h5ad"


@pytest.mark.parametrize("index", [20, -3, 10**9])
def test_files(tmp_path: Path, index: int) -> None:
    path = damaged_file(tmp_path, index)
    for backed in (None, "r"):
        adata = ad.read_h5ad(path, backed=backed)
        before = adata.obs.copy(), list(adata.obsm), list(adata.uns)
        with pytest.raises(ValueError, match=r"\.X is damaged: it has a value in column"):
            sg.pp.tokenize(adata, VOCABULARY)
        assert (list(adata.obs), list(adata.obsm), list(adata.uns)) == (list(before[0]), before[1], before[2])
        if backed:
            adata.file.close()
    for total_counts in (None, "n"):
        adata = ad.read_h5ad(path)
        adata.obs["n"] = 100.0
        with pytest.raises(ValueError, match="is damaged"):
            sg.Vocabulary.from_adata(adata, name="new", max_length=24, total_counts=total_counts)
    with pytest.raises(ValueError, match="is damaged"):
        sg.Vocabulary.from_adata(path, name="new", max_length=24)
    with pytest.raises(ValueError, match="is damaged"):
        list(sg.model.Corpus(path, VOCABULARY, block_cells=8, token_budget=80)._files[0].read(h5py.File(path), 0, 30))


def test_a_matrix_of_other_genes() -> None:
    with pytest.raises(ValueError, match="has 20 columns, but there are 7 genes"):
        inspect(counts(), TOKEN_ID[:7])
