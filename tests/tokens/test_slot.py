"""Changed tokens are refused on reading, with the slot and the cure."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scgeneformer as sg
from scgeneformer.tokens import Vocabulary, check_tokens, read_tokens


def rows_of(vocabulary: Vocabulary) -> np.ndarray:
    """Six cells as the tokenizer writes them, one of them empty and one full."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((6, vocabulary.max_length), np.uint16)
    for row, n in zip(tokens, (0, 1, 5, 12, 20, vocabulary.max_length - 2 * vocabulary.has_cls), strict=True):
        genes = rng.permutation(np.arange(vocabulary.n_special, len(vocabulary)))[:n]
        cell = [2, *genes, 3] if vocabulary.has_cls else genes
        row[: len(cell)] = cell
    return tokens


def lengths_of(tokens: np.ndarray) -> np.ndarray:
    return (tokens != 0).sum(axis=1)


def test_whole_tokens_come_back_as_they_are(small: Vocabulary) -> None:
    tokens = rows_of(small)
    assert check_tokens(tokens, small, n_tokens=lengths_of(tokens)) is tokens
    assert check_tokens(tokens, small, n_tokens=None) is tokens
    for dtype in (np.int32, np.int64):
        assert check_tokens(tokens.astype(dtype), small, n_tokens=None).dtype == dtype
    for n_tokens in (None, lengths_of(tokens)):
        lazy = check_tokens(da.from_array(tokens, chunks=(2, 10)), small, n_tokens=n_tokens)
        np.testing.assert_array_equal(lazy.compute(), tokens)
        assert lazy.dtype == np.uint16
    assert check_tokens(tokens[:0], small, n_tokens=np.zeros(0, int)).shape == (0, small.max_length)


CHANGES = {
    "left-padded": (lambda t: np.roll(t, 5, axis=1), "padding between tokens"),
    "gap": (lambda t: put(t, 3, 4, 0), "padding between tokens"),
    "beyond": (lambda t: put(t, 3, 4, 5000), "beyond the"),
    "below": (lambda t: put(t.astype(np.int64), 3, 4, -7), "beyond the"),
    "repeated": (lambda t: put(t, 3, 4, int(t[3, 5])), "a gene twice"),
    "mask within": (lambda t: put(t, 3, 4, 1), "special tokens"),
    "cut": (lambda t: t[:, :10], "has 10 columns, but cells of up to"),
    "one short": (lambda t: put(t, 4, int(lengths_of(t)[4]) - 1, 0), "special tokens|tokens where"),
}


def put(tokens: np.ndarray, row: int, place: int, value: int) -> np.ndarray:
    changed = tokens.copy()
    changed[row, place] = value
    return changed


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_tokens_are_refused(small: Vocabulary, change: str, lazy: bool) -> None:
    tokens = rows_of(small)
    n_tokens = lengths_of(tokens)
    function, message = CHANGES[change]
    changed = function(tokens)
    with pytest.raises(ValueError, match=message) as error:  # noqa: PT012 - lazy tokens are checked when they are computed
        checked = check_tokens(da.from_array(changed, chunks=(4, -1)) if lazy else changed, small, n_tokens=n_tokens)
        checked.compute()
    assert ".obsm['geneformer_tokens']" in str(error.value)
    assert "sg.pp.tokenize" in str(error.value)


@pytest.mark.parametrize("dtype", [float, bool, object, "U4"])
def test_other_types_are_refused(small: Vocabulary, dtype: type) -> None:
    with pytest.raises(TypeError, match="not a matrix of integers"):
        check_tokens(rows_of(small).astype(dtype), small, n_tokens=None)
    with pytest.raises(TypeError, match="not a matrix of integers"):
        check_tokens(rows_of(small)[0], small, n_tokens=None)


@given(row=st.integers(0, 5), place=st.integers(0, 47), value=st.integers(0, 70))
@settings(max_examples=200, deadline=None)
def test_any_change_of_one_token(small: Vocabulary, row: int, place: int, value: int) -> None:
    """What passes could have been written by a tokenizer: the same number of genes, all different, with the special tokens of the vocabulary."""
    tokens = rows_of(small)
    n_tokens = lengths_of(tokens)
    changed = put(tokens, row, place, value)
    n = n_tokens[row]
    inner = changed[row, small.has_cls : n - small.has_cls].tolist()
    right = (
        (lengths_of(changed) == n_tokens).all()
        and not changed[row, n:].any()
        and len(set(inner)) == len(inner)
        and all(small.n_special <= token < len(small) for token in inner)
        and (not small.has_cls or (changed[row, 0], changed[row, n - 1]) == (2, 3))
    )
    if right:
        check_tokens(changed, small, n_tokens=n_tokens)
    else:
        with pytest.raises(ValueError, match="was changed after tokenizing"):
            check_tokens(changed, small, n_tokens=n_tokens)


def normalise(adata):
    import scanpy as sc

    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)


def scale(adata):
    import scanpy as sc

    normalise(adata)
    sc.pp.scale(adata)


LEGAL = {
    "nothing": lambda adata: None,
    "normalised": normalise,
    "scaled": scale,
    "fewer cells": lambda adata: adata._inplace_subset_obs(np.arange(adata.n_obs) % 3 == 0),
    "fewer genes": lambda adata: adata._inplace_subset_var(np.arange(adata.n_vars) % 3 == 0),
    "imputed": lambda adata: setattr(adata, "X", adata.X.toarray() + 0.1),
    "binary": lambda adata: setattr(adata, "X", (adata.X > 0).astype(np.float32)),
    "gone": lambda adata: setattr(adata, "X", None),
}


def tokenized_cells():
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix(rng.poisson(rng.lognormal(-1, 1, 60), (50, 60)).astype(np.float32))
    names = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(60)])
    adata = ad.AnnData(X, var=names, obs=pd.DataFrame(index=[f"c{i}" for i in range(50)]))
    ids = np.array(["<pad>", "<mask>", *names.index])
    vocabulary = Vocabulary("own", ids, np.r_[np.nan, np.nan, np.ones(60)], 64)
    sg.pp.tokenize(adata, vocabulary)
    return adata, vocabulary


@pytest.mark.parametrize("change", LEGAL)
@pytest.mark.filterwarnings("error:.*changed after tokenizing:UserWarning")
def test_tokens_are_not_stale_after_what_scanpy_does(change):
    adata, vocabulary = tokenized_cells()
    LEGAL[change](adata)
    read_tokens(adata, "geneformer_tokens", vocabulary, model="m")


def test_tokens_of_other_counts_are_stale():
    adata, vocabulary = tokenized_cells()
    other = np.random.default_rng(1).permutation(50)
    for X in (adata.X[other], adata.X[other].toarray(), adata.X[:, np.random.default_rng(1).permutation(60)]):
        changed = adata.copy()
        changed.X = X
        with pytest.warns(
            UserWarning, match=r"\.X was changed after tokenizing.*`sg.pp.tokenize\(adata, \"m\"\)` again"
        ):
            read_tokens(changed, "geneformer_tokens", vocabulary, model="m")
    adata.layers["other"] = adata.X[other]
    read_tokens(adata, "geneformer_tokens", vocabulary, model="m")
