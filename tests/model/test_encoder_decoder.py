"""The encoder-decoder variant in all uses of a model."""

from __future__ import annotations

import copy
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F
from transformers import BertModel

import scgeneformer as sg
from scgeneformer import hub, nn
from scgeneformer.model import Geneformer
from scgeneformer.model.data._masking import Masking

KEY = "geneformer_tokens"
SIZES = {"n_layers": 2, "n_decoder_layers": 2, "width": 32, "n_heads": 2, "feed_forward": 32, "dropout": 0.0}


@pytest.fixture
def model(cells, vocabulary):
    torch.manual_seed(0)
    Geneformer.setup_anndata(cells)
    return Geneformer(cells, vocabulary=vocabulary, positions="sinusoidal", **SIZES)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def test_learns_to_write_cells(model, quick):
    positions = model.encoder.embedding.position.weight.clone()
    model.train(14, learning_rate=1e-2, warmup=10, validation_size=0.2, optimizer="adam", weight_decay=0.01, **quick)
    loss = model.history["validation_loss"]["validation_loss"]
    assert loss.iloc[0] > 2.5  # ln(44) = 3.78 for guessing
    assert loss.iloc[-1] < 0.9  # genes follow each other; where a cell ends has to be read off the encoder
    assert model.history["validation_accuracy"].iloc[-1].item() > 0.75
    assert set(model.history) == {
        "train_loss_step",
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    }
    assert torch.equal(model.encoder.embedding.position.weight, positions)


def test_loss_is_over_all_tokens_and_accuracy_over_the_hidden_ones(model, cells, vocabulary):
    tokens = cells.obsm[KEY][:9].astype(np.int64)
    inputs, where = map(torch.from_numpy, Masking.over(vocabulary)(tokens, np.arange(9), 0))
    lengths, original = torch.from_numpy((tokens != 0).sum(1)), torch.from_numpy(tokens)
    mask = original != 0
    with torch.no_grad():
        network = model.module.eval().network
        logits = network(inputs, mask, original) @ network.encoder.embedding.gene.weight.T + network.bias
        batch = {"tokens": inputs, "lengths": lengths, "where": where, "targets": original[where]}
        output = model.module(batch)[-1]
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[mask], original[mask]))
    assert output.n_obs_minibatch == mask.sum()
    assert output.extra_metrics["accuracy"] == (logits[where].argmax(-1) == original[where]).float().mean()


def test_saved_and_loaded(model, cells, quick, tmp_path, capsys):
    model.train(1, **quick)
    model.save(tmp_path / "saved")
    again = Geneformer.load(tmp_path / "saved", cells)
    assert torch.equal(weights(again), weights(model))
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
    assert again.module.network.config == model.module.network.config
    repr(again)  # scvi-tools prints it
    assert "2 + 2 layers" in capsys.readouterr().out
    again.train(1, **quick)
    assert len(again.history["validation_loss"]) == 2
    assert not again.encoder.embedding.position.weight.requires_grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exported_encoder_is_a_bert_with_a_decoder_beside_it(model, cells, quick, tmp_path, dtype):
    model.train(2, learning_rate=1e-2, **quick)
    model.export(tmp_path, dtype=dtype)
    assert json.loads((tmp_path / "config.json").read_text())["n_decoder_layers"] == 2
    tolerance = {"float32": 1e-5, "bfloat16": 0.2}[dtype]
    tokens = torch.from_numpy(cells.obsm[KEY][:5].astype(np.int64))
    there = tokens != 0
    theirs = BertModel.from_pretrained(tmp_path, add_pooling_layer=False, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model.encoder(tokens, there)
        for encoder in (nn.load_encoder(tmp_path), hub.load(tmp_path).encoder):
            torch.testing.assert_close(encoder(tokens, there)[there], expected[there], rtol=0, atol=tolerance)
        found = theirs(tokens, attention_mask=there.long()).last_hidden_state
        torch.testing.assert_close(found[there], expected[there], rtol=0, atol=tolerance)
    again = Geneformer.from_pretrained(tmp_path, cells)
    assert again.module.network.config == model.module.network.config
    torch.testing.assert_close(weights(again), weights(model), rtol=0.01 if dtype == "bfloat16" else 0, atol=0)
    if dtype == "float32":
        again.train(1, learning_rate=0.0, **quick)  # the decoder came along: the loss is where it was
        last = model.history["validation_loss"].iloc[-1].item()
        assert again.history["validation_loss"].iloc[0].item() == pytest.approx(last, abs=1e-5)


def test_copies_of_a_model_share_nothing(model, cells, quick):
    other = Geneformer.from_pretrained(model, cells)
    assert torch.equal(weights(other), weights(model))
    before = copy.deepcopy(weights(model))
    other.train(1, **quick)
    assert torch.equal(weights(model), before)
    assert not torch.equal(weights(other), before)


def test_resumed_run_is_the_run_that_never_stopped(model, cells, quick, tmp_path):
    quick |= {"learning_rate": 1e-2, "batch_size": 30, "plan_kwargs": {"total_steps": 8}, "checkpoint_every": 1}
    twin, third = (Geneformer.from_pretrained(model, cells) for _ in range(2))
    model.train(max_steps=8, **quick)
    twin.train(max_steps=5, checkpoints=tmp_path, **quick)
    third.train(max_steps=8, ckpt_path=tmp_path / "last.ckpt", **quick)
    assert torch.equal(weights(third), weights(model))


def test_activations_computed_again_give_the_same_weights(model, cells, quick):
    other = Geneformer.from_pretrained(model, cells)
    for each, again in ((model, False), (other, True)):
        torch.manual_seed(1)
        each.train(max_steps=4, learning_rate=1e-2, checkpoint_activations=again, **quick)
    assert torch.equal(weights(other), weights(model))
    assert not other.encoder.checkpoint_activations


def test_compiled_blocks_train_as_eager_ones(model, cells, quick, monkeypatch):
    other, compiled, compile_ = Geneformer.from_pretrained(model, cells), [], torch.compile

    def light(function, **options):  # torch's own compiler takes half a minute
        compiled.append(function)
        return compile_(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", light)
    for each, compile in ((model, False), (other, True)):
        each.train(max_steps=3, warmup=0, train_size=1.0, compile=compile, **quick)
    assert len(compiled) == 4  # two blocks of the encoder, two of the decoder
    torch.testing.assert_close(weights(other), weights(model), rtol=0, atol=1e-4)
    assert other.module.state_dict().keys() == model.module.state_dict().keys()


def test_embeddings_and_perturbations_read_the_encoder(tmp_path):
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1.0, (16, 12)).astype(np.float32))
    adata = ad.AnnData(counts, var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(12)]))
    vocabulary = sg.Vocabulary.from_adata(adata, name="own", max_length=64, special_tokens=True)
    torch.manual_seed(0)
    model = Geneformer(vocabulary=vocabulary, positions="sinusoidal", initializer_range=0.3, **SIZES)
    nn.save_checkpoint(tmp_path, model.encoder)
    vocabulary.save(tmp_path / "vocabulary.json")
    found, expected = adata.copy(), adata.copy()
    for data, source in ((found, model), (expected, tmp_path)):
        sg.pp.tokenize(data, vocabulary)
        sg.tl.embed(data, source)
        sg.tl.perturb(data, source)
    np.testing.assert_array_equal(found.obsm["X_geneformer"], expected.obsm["X_geneformer"])
    np.testing.assert_array_equal(found.layers["shift"].toarray(), expected.layers["shift"].toarray())
    assert found.layers["shift"].nnz == counts.nnz
    assert found.layers["shift"].data.std() > 0
