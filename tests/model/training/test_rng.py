"""`rng` alone decides what a training draws, and torch's own generator is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgeneformer.model import CellClassifier, GeneClassifier, Geneformer

KEY = "geneformer_tokens"
CLASSIFIERS = {
    "linear": {},
    "bert": {"head": "bert", "freeze": 1},
    "attention": {"pooling": "attention", "dropout": 0.3},
    "lora": {"lora": 2},
}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def trained(make, seed, **options):
    torch.manual_seed(seed)
    model = make()
    torch.manual_seed(seed + 1)
    before = torch.get_rng_state()
    model.train(**options)
    assert torch.equal(torch.get_rng_state(), before)
    return weights(model)


@pytest.mark.parametrize("name", [*CLASSIFIERS, "genes", "auto"])
def test_new_classifiers_are_trained_alike(ranked, vocabulary, start, quick, name):
    if name == "lora":
        pytest.importorskip("peft")
    ranked.obs["half"] = np.where(ranked.obsm[KEY][:, 1] < 10, "low", "high")
    lists = {"late": vocabulary.ids[16:28].tolist(), "early": vocabulary.ids[4:16].tolist()}

    def make():
        if name == "genes":
            GeneClassifier.setup_anndata(ranked)
            return GeneClassifier(ranked, lists, start, dropout=0.2)
        CellClassifier.setup_anndata(ranked, "half")
        return CellClassifier(ranked, start, **{"dropout": 0.2} | CLASSIFIERS.get(name, {}))

    options = quick | {"max_epochs": 1, "batch_size": 12, "learning_rate": 1e-2}
    options |= {} if name == "genes" else {"recipe": "auto" if name == "auto" else "plain"}
    first = trained(make, 1, **options, rng=7)
    assert torch.equal(first, trained(make, 2, **options, rng=7))
    assert not torch.equal(first, trained(make, 1, **options, rng=8))


def test_a_trained_head_is_trained_further(ranked, start, quick):
    ranked.obs["half"] = np.where(ranked.obsm[KEY][:, 1] < 10, "low", "high")
    CellClassifier.setup_anndata(ranked, "half")
    model = CellClassifier(ranked, start)
    model.train(recipe="probe")
    head = model.module.network.classifier.weight.detach().clone()
    model.train(1, recipe="plain", learning_rate=0.0, keep_best=None, **quick)
    assert torch.equal(model.module.network.classifier.weight, head)


def test_dropout_of_pretraining(cells, vocabulary, quick):
    def make():
        torch.manual_seed(0)  # of which the weights of a new model are drawn
        Geneformer.setup_anndata(cells)
        return Geneformer(cells, vocabulary=vocabulary, n_layers=1, width=16, n_heads=2, feed_forward=16, dropout=0.3)

    options = quick | {"max_epochs": 1, "learning_rate": 1e-2}
    assert torch.equal(trained(make, 1, **options, rng=7), trained(make, 2, **options, rng=7))
