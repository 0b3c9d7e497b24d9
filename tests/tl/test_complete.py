"""Completed cells against a slow loop without a cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scgeneformer as sg
from scgeneformer.engine._complete import _draw


@pytest.fixture
def adata(adata, llama_folder):
    adata = adata[:7].copy()
    sg.pp.tokenize(adata, llama_folder)
    return adata


def slowly(model, prompt, vocabulary, max_length, top_k, draws):
    """One cell, read as a whole for each gene."""
    row = list(prompt)
    while row[-1] != 3:
        with torch.inference_mode():
            scores = model(torch.tensor([row]))[0, -1].double().numpy()
        scores[:3] = -np.inf
        scores[[token for token in row if token != 3]] = -np.inf
        best = np.argsort(-scores, kind="stable")[: top_k or len(vocabulary)]
        weights = np.zeros_like(scores)
        weights[best] = np.exp(scores[best] - scores.max())
        parts = np.cumsum(weights) / weights.sum()
        row.append(3 if len(row) == max_length - 1 else int(np.searchsorted(parts, draws[len(row)], side="right")))
    return row


@pytest.mark.parametrize("top_k", [None, 1, 5])
@pytest.mark.parametrize("max_length", [None, 12])
def test_a_cache_and_batches_change_nothing(adata, llama_folder, vocabulary, top_k, max_length):
    model = sg.hub.load(llama_folder).next_gene_model()
    with sg.settings.override(token_budget=150):  # two cells at once
        sg.tl.complete(adata, n_genes=6, top_k=top_k, max_length=max_length, rng=3)
    found, longest = adata.obsm["geneformer_completed"], max_length or vocabulary.max_length
    draws = np.random.default_rng(3).random((len(found), longest))
    for row, completed, draw in zip(adata.obsm["geneformer_tokens"], found, draws, strict=True):
        prompt = row[:7][(row[:7] > 0) & (row[:7] != 3)].tolist()
        expected = slowly(model, prompt, vocabulary, longest, top_k, draw)
        assert completed[completed > 0].tolist() == expected
        assert len(set(expected)) == len(expected)
    assert found.shape == (7, longest)


def test_the_result_is_read_as_tokens(adata, llama_folder):
    adata.X = adata.X.toarray()
    adata.X[2] = 0
    with pytest.warns(UserWarning, match="no gene of the vocabulary"):
        sg.pp.tokenize(adata, llama_folder)
    sg.tl.complete(adata, n_genes=4)
    assert adata.obsm["geneformer_completed"][2].tolist()[:3] == [2, 3, 0]
    with pytest.warns(UserWarning, match="1 cells have no gene"):
        sg.tl.embed(adata, tokens_key="geneformer_completed", key_added="completed")
    assert np.isfinite(np.delete(adata.obsm["X_completed"], 2, 0)).all()
    sg.tl.complete(adata, n_genes=4)
    assert adata.uns["geneformer_completed"]["params"]["n_genes"] == 4


def test_lazy_tokens_are_read_as_far_as_they_are_kept(adata):
    import dask.array as da

    lazy, tokens = adata.copy(), adata.obsm["geneformer_tokens"]
    lazy.obsm["geneformer_tokens"] = da.from_array(tokens, chunks=(3, 20))
    for each in (adata, lazy):
        sg.tl.complete(each, n_genes=4, top_k=3, rng=1)
    np.testing.assert_array_equal(lazy.obsm["geneformer_completed"], adata.obsm["geneformer_completed"])


def test_bad_requests(adata, folder, llama_folder):
    before = set(adata.obsm)
    with pytest.raises(ValueError, match=r"tl\.complete needs completion of cells, but this model is a BERT encoder"):
        sg.tl.complete(adata, folder, n_genes=4)
    for arguments, message in (
        ({"n_genes": 0}, "n_genes=0"),
        ({"n_genes": 4, "top_k": 0}, "top_k=0"),
        ({"n_genes": 4, "max_length": 6}, "max_length=6 must be above n_genes=4"),
        ({"n_genes": 4, "max_length": 65}, "at most 64"),
    ):
        with pytest.raises(ValueError, match=message):
            sg.tl.complete(adata, **arguments)
    assert set(adata.obsm) == before


def test_draws_follow_the_probabilities():
    scores = np.log(
        np.tile([0.0, 0.5, 0.3, 0.2], (4000, 1)),
        where=np.array([False, True, True, True]),
        out=np.full((4000, 4), -np.inf),
    )
    draws = np.random.default_rng(0).random(4000)
    np.testing.assert_allclose(
        np.bincount(_draw(scores, draws, None), minlength=4) / 4000, [0, 0.5, 0.3, 0.2], atol=0.03
    )
    np.testing.assert_allclose(
        np.bincount(_draw(scores, draws, 2), minlength=4) / 4000, [0, 0.625, 0.375, 0], atol=0.03
    )
    assert set(_draw(scores, draws, 1)) == {1}
