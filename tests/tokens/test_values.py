"""Values of tokens against NumPy and scanpy, and samples of genes against their distribution."""

from __future__ import annotations

from itertools import permutations

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scgeneformer as sg
from scgeneformer.tokens import encode, read_tokens

KEY = "geneformer_tokens"
N_GENES = 40  # of the vocabulary; data have ten more


def vocabulary(max_length: int = 64) -> sg.Vocabulary:
    genes = [f"GENE{i}" for i in range(N_GENES)]
    ids = np.array(["<pad>", "<mask>", "<cls>", *genes])
    return sg.Vocabulary("values", ids, np.r_[[np.nan] * 3, np.ones(N_GENES)], max_length, values=True)


def cells(seed: int = 0, n: int = 12, rate: float = 1.5) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(rate, (n, N_GENES + 10)).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts))
    adata.var_names = [f"GENE{i}" for i in range(N_GENES + 10)]
    return adata


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), max_length=st.integers(4, 50), rate=st.floats(0.05, 5))
def test_values_are_those_of_scanpy_on_genes_of_the_vocabulary(seed, max_length, rate):
    adata = cells(seed, 4, rate)
    if adata[:, :N_GENES].X.sum() == 0:
        return
    sg.pp.tokenize(adata, vocabulary(), max_length=max_length)
    expected = adata[:, :N_GENES].copy()
    totals = np.asarray(expected.X.sum(1)).ravel()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    expected = expected.X.toarray()
    tokens, values = adata.obsm[KEY].astype(int), adata.obsm[f"{KEY}_values"]
    for row, value, of_cell, total in zip(tokens, values, expected, totals, strict=True):
        genes = row[row >= 3] - 3
        assert row[0] == 2
        assert value[0] == pytest.approx(np.log1p(total / 1000), rel=1e-6)
        np.testing.assert_allclose(value[1 : 1 + len(genes)], of_cell[genes], rtol=1e-6)
        assert (np.diff(value[1 : 1 + len(genes)]) <= 0).all()  # highest first
        assert len(genes) == min((of_cell > 0).sum(), max_length - 1)
        assert not value[1 + len(genes) :].any()
        assert of_cell[genes].min(initial=np.inf) >= np.delete(of_cell, genes).max(initial=0) - 1e-6


@pytest.mark.parametrize("rng", [None, 5])
def test_lazy_data_and_the_order_of_genes_do_not_matter(rng):
    adata, words = cells(), vocabulary(16)
    sg.pp.tokenize(adata, words, rng=rng)
    lazy = ad.AnnData(da.from_array(adata.X.toarray(), chunks=(5, 50)), var=adata.var[[]])
    sg.pp.tokenize(lazy, words, rng=rng)
    turned = adata[:, ::-1].copy()
    sg.pp.tokenize(turned, words, rng=rng)
    for key in (KEY, f"{KEY}_values"):
        np.testing.assert_array_equal(lazy.obsm[key].compute(), adata.obsm[key])
        np.testing.assert_array_equal(turned.obsm[key], adata.obsm[key])
    read, read_lazily = (read_tokens(data, KEY, words, model="m") for data in (adata, lazy))
    np.testing.assert_array_equal(read_lazily.compute(), read)
    np.testing.assert_array_equal(read["token"], adata.obsm[KEY])


def test_genes_are_drawn_without_replacement_in_proportion_to_their_values():
    counts = np.tile(np.array([1.0, 10.0, 100.0, 1000.0], np.float32), (4000, 1))
    ids = np.array(["<pad>", "<mask>", "<cls>", "A", "B", "C", "D"])
    words = sg.Vocabulary("four", ids, np.r_[[np.nan] * 3, np.ones(4)], 5, values=True)
    drawn = encode(counts, np.arange(3, 7), words, max_length=4, seed=1).tokens[:, 1:]
    left_out = [(~(drawn == token).any(1)).mean() for token in range(3, 7)]
    np.testing.assert_allclose(left_out, chances_to_be_left(np.log1p(counts[0] / counts[0].sum() * 1e4)), atol=0.03)
    assert (np.diff(drawn.astype(int), axis=1) < 0).all()  # in the order of their ranks
    other = encode(counts, np.arange(3, 7), words, max_length=4, seed=2).tokens[:, 1:]
    assert not np.array_equal(other, drawn)
    whole = encode(counts, np.arange(3, 7), words, max_length=5, seed=1).tokens[:, 1:]
    assert (whole == [6, 5, 4, 3]).all()  # there is room for all


def chances_to_be_left(weights: np.ndarray) -> np.ndarray:
    """Of each of four, when three are drawn one by one."""
    out = np.zeros(4)
    for order in permutations(range(4)):
        chance, rest = 1.0, weights.sum()
        for gene in order[:3]:
            chance, rest = chance * weights[gene] / rest, rest - weights[gene]
        out[order[3]] += chance
    return out


def test_deep_cells_are_scaled_down_and_totals_can_be_named():
    adata = cells()
    adata.X = adata.X * 10_000
    sg.pp.tokenize(adata, vocabulary())
    np.testing.assert_allclose(adata.obsm[f"{KEY}_values"][:, 0], np.log1p(100))
    adata = cells()
    adata.obs["n_counts"] = np.arange(1000.0, 1012.0)
    sg.pp.tokenize(adata, vocabulary(), total_counts="n_counts")
    np.testing.assert_allclose(adata.obsm[f"{KEY}_values"][:, 0], np.log1p(adata.obs["n_counts"] / 1000), rtol=1e-6)


def test_logarithms_have_values_but_no_depth():
    adata = cells()
    sg.pp.tokenize(adata, vocabulary())
    logs = adata.copy()
    sc.pp.normalize_total(logs, target_sum=1e4)
    sc.pp.log1p(logs)
    with pytest.warns(UserWarning, match="do not tell how deeply cells were sequenced"):
        sg.pp.tokenize(logs, vocabulary(), counts="log1p")
    found, expected = (data.obsm[f"{KEY}_values"][:, 1:] for data in (logs, adata))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_vocabulary_with_values_is_saved_and_another_than_without(tmp_path):
    words = vocabulary()
    for name in ("v.json", "v.json.gz"):
        words.save(tmp_path / name)
        again = sg.Vocabulary.load(tmp_path / name)
        assert (again == words, again.values, again.n_special, again.n_enclosing, again.eos_id) == (
            True,
            True,
            3,
            1,
            None,
        )
    with pytest.raises(ValueError, match="must start with"):
        sg.Vocabulary("v", words.ids, words.medians, 64)
    with pytest.raises(ValueError, match="medians of a vocabulary with values must be 1"):
        sg.Vocabulary("v", words.ids, 2 * words.medians, 64, values=True)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda a: a.obsm.pop(f"{KEY}_values"), KeyError, "No values in .obsm.*geneformer_tokens_values"),
        (lambda a: put(a, a.obsm[f"{KEY}_values"][:, :5]), TypeError, "must hold a real number for each token"),
        (lambda a: put(a, a.obsm[f"{KEY}_values"].astype(int)), TypeError, "must hold a real number for each token"),
        (lambda a: put(a, a.obsm[f"{KEY}_values"] * np.nan), ValueError, "not finite"),
        (lambda a: put(a, -a.obsm[f"{KEY}_values"]), ValueError, "not above 0"),
    ],
    ids=["missing", "cut", "integers", "NaN", "negative"],
)
def test_values_that_are_not_those_of_the_tokens(damage, error, message):
    adata = cells()
    sg.pp.tokenize(adata, vocabulary())
    damage(adata)
    with pytest.raises(error, match=message):
        read_tokens(adata, KEY, vocabulary(), model="m")


def put(adata: ad.AnnData, values: np.ndarray) -> None:
    adata.obsm[f"{KEY}_values"] = values


def test_options_that_need_values_or_have_no_meaning_with_them():
    adata = cells()
    with pytest.raises(ValueError, match="come with values"):
        sg.pp.tokenize(adata, vocabulary(), keep_counts=True)
    ranks = sg.Vocabulary.from_adata(adata, name="ranks", max_length=64)
    with pytest.raises(ValueError, match="draws genes for models that read values"):
        sg.pp.tokenize(adata, ranks, rng=0)
    assert not adata.obsm.keys()


def test_tokens_of_ranks_after_values_leave_no_values_behind():
    adata = cells()
    sg.pp.tokenize(adata, vocabulary())
    sg.pp.tokenize(adata, sg.Vocabulary.from_adata(adata, name="ranks", max_length=64))
    assert list(adata.obsm) == [KEY]
