"""The same loss and gradients as ``BertForTokenClassification``, and the same checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from scgeneformer import hub, nn
from scgeneformer.model import GeneClassifier, Geneformer
from scgeneformer.nn.checkpoints._layouts import names_of

KEY = "geneformer_tokens"
SIZES = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24, "dropout": 0.1}


@pytest.fixture
def classes(vocabulary):
    genes = vocabulary.ids[4:]
    return {
        "up": genes[::3].tolist(),
        "down": genes[1::5][::2].tolist()[1:],
        "none of both": genes[[2, 5, 17]].tolist(),
    }


@pytest.fixture
def model(cells, vocabulary, classes):
    torch.manual_seed(0)
    GeneClassifier.setup_anndata(cells)
    lists = {
        name: [g for g in genes if not any(g in classes[n] for n in list(classes)[:i])]
        for i, (name, genes) in enumerate(classes.items())
    }
    model = GeneClassifier(cells, lists, Geneformer(vocabulary=vocabulary, **SIZES), head="bert")
    with torch.no_grad():
        for p in model.module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def batch_of(model, cells, rows=slice(0, 9)):
    tokens = cells.obsm[KEY][rows].astype(np.int64)
    codes = model._classes.code_of_token(len(model.vocabulary), np.arange(len(model._classes)))
    batch = {"tokens": tokens, "lengths": (tokens != 0).sum(1), "labels": codes[tokens]}
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def test_loss_and_gradients_are_those_of_transformers(model, cells, tmp_path):
    model.export(tmp_path)
    theirs = BertForTokenClassification.from_pretrained(tmp_path).eval()
    batch = batch_of(model, cells)
    labels = batch["labels"].masked_fill(batch["labels"] < 0, -100)
    expected = theirs(batch["tokens"], attention_mask=(batch["tokens"] != 0).long(), labels=labels)
    expected.loss.backward()
    loss = model.module.eval()(batch)[-1].loss
    loss.backward()
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=0)
    names, gradients = names_of(model.module.network), {name: p.grad for name, p in theirs.named_parameters()}
    compared = 0
    for name, p in model.module.network.named_parameters():
        torch.testing.assert_close(p.grad, gradients.pop(names[name]), atol=1e-5, rtol=0, msg=name)
        compared += 1
    assert compared > 30
    assert not gradients


def test_steps_of_training_are_those_of_transformers(model, cells, tmp_path):
    """Three steps of SGD on changing batches."""
    model.export(tmp_path)
    theirs, ours = BertForTokenClassification.from_pretrained(tmp_path).eval(), model.module.eval()
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (ours, theirs)]
    for step in range(3):
        batch = batch_of(model, cells, slice(10 * step, 10 * step + 10))
        labels = batch["labels"].masked_fill(batch["labels"] < 0, -100)
        losses = [ours(batch)[-1].loss, theirs(batch["tokens"], (batch["tokens"] != 0).long(), labels=labels).loss]
        torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_weights_of_tokens_count_in_the_loss(model, cells):
    batch, module = batch_of(model, cells), model.module.eval()
    module.token_weights = torch.rand(len(model.vocabulary))
    _, generative, output = module(batch)
    where = batch["labels"] >= 0
    errors = [
        -module.token_weights[token] * logits.log_softmax(-1)[label]
        for token, label, logits in zip(
            batch["tokens"][where], batch["labels"][where], generative["logits"], strict=True
        )
    ]
    torch.testing.assert_close(output.loss, torch.stack(errors).mean())
    assert output.n_obs_minibatch == where.sum()
    nothing = module(batch | {"labels": torch.full_like(batch["labels"], -1)})[-1]
    assert nothing.loss == 0


def test_transformers_reads_what_is_exported(model, cells, tmp_path):
    model.is_trained_ = True  # weights as good as any
    model.export(tmp_path)
    theirs, info = BertForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(["up", "down", "none of both"]))
    tokens = torch.from_numpy(cells.obsm[KEY][:5].astype(np.int64))
    with torch.no_grad():
        logits = theirs.eval()(tokens, attention_mask=(tokens != 0).long()).logits
    every = model.predict_genes(indices=np.arange(5), occurrences=True)
    genes = (tokens >= 4).numpy()
    np.testing.assert_allclose(every[list(theirs.config.label2id)], logits.softmax(-1).numpy()[genes], atol=1e-5)
    again = GeneClassifier.from_pretrained(tmp_path, cells)
    assert again.classes == model.classes
    np.testing.assert_allclose(again.predict_genes()["up"], model.predict_genes()["up"], atol=1e-6)
    assert hub.load(tmp_path).encoder.config == model.encoder.config
    model.export(tmp_path / "half", dtype="float16")
    np.testing.assert_allclose(
        GeneClassifier.from_pretrained(tmp_path / "half", cells).predict_genes()["up"],
        model.predict_genes()["up"],
        atol=1e-2,
    )
    with pytest.raises(ValueError, match="dtype='int8'"):
        model.export(tmp_path, dtype="int8")


def test_checkpoints_of_others(cells, vocabulary, quick, tmp_path):
    config = nn.EncoderConfig(vocab_size=44, n_layers=1, width=16, n_heads=2, feed_forward=16, max_length=64)
    labels = {0: "sensitive", 1: "insensitive"}
    theirs = BertForTokenClassification(BertConfig(**config.to_hf(), id2label=labels)).eval()
    theirs.save_pretrained(tmp_path)
    GeneClassifier.setup_anndata(cells)
    model = GeneClassifier.from_pretrained(tmp_path, cells, vocabulary=vocabulary)
    assert model.classes == {"sensitive": [], "insensitive": []}
    tokens = torch.from_numpy(cells.obsm[KEY][:1].astype(np.int64))
    with torch.no_grad():
        proba = theirs(tokens, attention_mask=(tokens != 0).long()).logits.softmax(-1).numpy()[(tokens >= 4).numpy()]
    found = model.predict_genes(indices=[0], occurrences=True)
    np.testing.assert_allclose(found[["sensitive", "insensitive"]], proba, atol=1e-6)
    with pytest.raises(ValueError, match=r"from_pretrained\(\.\.\., classes=\)"):
        model.train(1, **quick)
    genes = {"sensitive": vocabulary.ids[4:14], "insensitive": vocabulary.ids[14:44]}
    with_genes = GeneClassifier.from_pretrained(tmp_path, cells, classes=genes, vocabulary=vocabulary)
    with_genes.train(1, **quick)
    assert with_genes.trained_genes
    with pytest.raises(ValueError, match="distinguishes 2 classes"):
        GeneClassifier.from_pretrained(tmp_path, classes=genes | {"third": []}, vocabulary=vocabulary)
    theirs.config.id2label = None
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert list(GeneClassifier.from_pretrained(tmp_path, vocabulary=vocabulary).classes) == ["LABEL_0", "LABEL_1"]
