"""Likelihoods against a slow loop, of decoders and of encoders with a masked-gene head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scgeneformer as sg
from scgeneformer import engine
from scgeneformer.engine import _likelihood


@pytest.fixture
def masked_folder(vocabulary, tmp_path):
    torch.manual_seed(1)
    sizes = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24}
    model = sg.nn.MaskedGeneModel(sg.nn.EncoderConfig(len(vocabulary), max_length=vocabulary.max_length, **sizes))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    sg.nn.save_checkpoint(tmp_path / "masked", model)
    vocabulary.save(tmp_path / "masked" / "vocabulary.json")
    return tmp_path / "masked"


def slowly(rows, guess):
    """Mean of the log-probabilities that `guess` gives for each rank of each cell, by cell and by token."""
    of_cells, of_tokens = [], {}
    for row in rows:
        row = row[row > 0].astype(np.int64)
        values = []
        for rank in np.flatnonzero(row >= 4):
            with torch.inference_mode():
                values.append(float(guess(row, rank).double().log_softmax(-1)[row[rank]]))
            of_tokens.setdefault(row[rank], []).append(values[-1])
        of_cells.append(np.mean(values) if values else np.nan)
    return np.array(of_cells), {token: np.mean(values) for token, values in of_tokens.items()}


def compare(adata, expected, by_token):
    np.testing.assert_allclose(adata.obs["geneformer_loglik"], expected, rtol=0, atol=1e-5)
    for token, value, n in adata.var[["token_id", "geneformer_loglik", "geneformer_loglik_n"]].to_numpy():
        if token in by_token:
            assert value == pytest.approx(by_token[token], abs=1e-5)
            assert n == (adata.obsm["geneformer_tokens"] == token).any(1).sum()
        else:
            assert np.isnan(value)
            assert n == 0


def test_of_a_decoder(adata, llama_folder, monkeypatch):
    monkeypatch.setattr(_likelihood, "_SCORES", 200)  # a few positions at a time
    adata = adata[:6].copy()
    adata.X[5] = 0
    with pytest.warns(UserWarning, match="no gene of the vocabulary"):
        sg.pp.tokenize(adata, llama_folder)
    model = sg.hub.load(llama_folder).next_gene_model()
    sg.tl.likelihood(adata, genes=True)
    compare(
        adata,
        *slowly(adata.obsm["geneformer_tokens"], lambda row, rank: model(torch.from_numpy(row[None, :rank]))[0, -1]),
    )
    params = adata.uns["geneformer_loglik"]["params"]
    assert params["kind"] == "causal"
    assert "pooling" not in params


def test_of_masked_genes(adata, masked_folder):
    adata = adata[:5].copy()
    sg.pp.tokenize(adata, masked_folder)
    model, rows = sg.hub.load(masked_folder).masked_gene_model(), adata.obsm["geneformer_tokens"]
    rng = np.random.default_rng(5)
    pass_of_rank = np.concatenate([rng.permutation(4) for _ in range(rows.shape[1] // 4)])
    sg.tl.likelihood(adata, genes=True, n_passes=4, rng=5)

    def guess(row, rank):
        together = (pass_of_rank[: len(row)] == pass_of_rank[rank]) & (row >= 4)
        return model(torch.from_numpy(np.where(together, 1, row)[None]))[0, rank]

    compare(adata, *slowly(rows, guess))
    assert adata.uns["geneformer_loglik"]["params"]["kind"] == "pseudo"


@pytest.mark.parametrize("which", ["llama_folder", "masked_folder"])
def test_a_cell_does_not_depend_on_others_or_on_batches(adata, which, request):
    folder = request.getfixturevalue(which)
    sg.pp.tokenize(adata, folder)
    few = adata[[7, 3]].copy()
    sg.tl.likelihood(adata)
    with sg.settings.override(token_budget=40):
        sg.tl.likelihood(few)
    np.testing.assert_allclose(few.obs["geneformer_loglik"], adata.obs["geneformer_loglik"].iloc[[7, 3]], atol=1e-5)


@pytest.mark.parametrize("which", ["llama_folder", "masked_folder"])
def test_lazy_tokens_are_read_block_by_block(adata, which, request):
    import dask.array as da

    folder = request.getfixturevalue(which)
    sg.pp.tokenize(adata, folder)
    lazy, tokens = adata.copy(), adata.obsm["geneformer_tokens"]
    lazy.obsm["geneformer_tokens"] = da.from_array(tokens, chunks=((13, 13, 1, 13), (20, tokens.shape[1] - 20)))
    for each in (adata, lazy):
        sg.tl.likelihood(each, genes=True, rng=3)
    np.testing.assert_allclose(lazy.obs["geneformer_loglik"], adata.obs["geneformer_loglik"], atol=1e-5)
    for column in ("geneformer_loglik", "geneformer_loglik_n"):
        np.testing.assert_allclose(lazy.var[column], adata.var[column], atol=1e-5)


def test_every_gene_is_masked_once_and_as_many_in_each_pass(adata, masked_folder):
    sg.pp.tokenize(adata, masked_folder)
    tokens, seen = adata.obsm["geneformer_tokens"][:1], []
    model = sg.hub.load(masked_folder).masked_gene_model()
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    passes = engine.passes_of_ranks(tokens.shape[1], 5, np.random.default_rng(0))
    engine.masked_likelihood(model, tokens, n_special=4, mask_id=1, pass_of_rank=passes)
    masked = torch.cat(seen) == 1
    genes = torch.from_numpy(tokens[:, : masked.shape[1]].astype(np.int64))[0] >= 4
    assert torch.equal(masked.sum(0), genes.long())
    assert int(masked.sum(1).max() - masked.sum(1).min()) <= 2


def test_bad_requests(adata, folder, llama_folder, vocabulary):
    sg.pp.tokenize(adata, folder)
    with pytest.raises(TypeError, match="an encoder without a head.*not a model with a masked-gene head"):
        sg.tl.likelihood(adata)
    bare = sg.hub.Pretrained("bare", vocabulary, model=sg.hub.load(llama_folder).encoder)
    with pytest.raises(TypeError, match="no scores of the next gene"):
        sg.tl.likelihood(adata, bare)
    with pytest.raises(ValueError, match="n_passes=1"):
        sg.tl.likelihood(adata, n_passes=1)
    adata.obs["geneformer_loglik"] = 1.0
    with pytest.raises(ValueError, match="not a result of scgeneformer"):
        sg.tl.likelihood(adata, llama_folder)
    assert "geneformer_loglik" not in adata.uns
