"""Datasets go to workers that are started anew (spawn, forkserver), as on macOS, Windows and Python 3.14."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from scgeneformer.model import CellClassifier, GeneClassifier, Geneformer

TOKENS = "geneformer_tokens"


@pytest.fixture(params=["masked genes", "classes of cells", "classes of genes"])
def model(request, ranked, vocabulary, start):
    # what workers must not be sent
    ranked.obs["half"] = np.where(ranked.obsm[TOKENS][:, 1] < 10, "low", "high")
    ranked.obs["ballast"] = "x" * 100_000
    if request.param == "masked genes":
        Geneformer.setup_anndata(ranked)
        return Geneformer(ranked, vocabulary=vocabulary, n_layers=1, width=8, n_heads=1, feed_forward=8)
    if request.param == "classes of cells":
        CellClassifier.setup_anndata(ranked, "half")
        return CellClassifier(ranked, start)
    lists = {"late": vocabulary.ids[16:28].tolist(), "early": vocabulary.ids[4:16].tolist()}
    return GeneClassifier(ranked, lists, start)


def test_datasets_survive_pickling_and_are_small(model, quick, monkeypatch):
    loaders = []
    init = DataLoader.__init__

    def watch(self, dataset, **kwargs):
        loaders.append((dataset, kwargs))
        init(self, dataset, **kwargs)

    monkeypatch.setattr(DataLoader, "__init__", watch)
    recipe = {} if isinstance(model, Geneformer) else {"recipe": "plain"}
    model.train(max_steps=1, **quick, **recipe)
    assert len(loaders) >= 2
    for dataset, kwargs in loaders:
        sent = pickle.dumps((dataset, kwargs["collate_fn"], kwargs.get("worker_init_fn")))
        assert len(sent) < 50_000
        again, first = pickle.loads(sent)[0], (0, np.arange(3))
        for name, value in dataset[first].items():
            assert torch.equal(again[first][name], value), name


def test_spawned_workers_change_nothing(ranked, vocabulary, start, quick):
    lists = {"late": vocabulary.ids[16:28].tolist(), "early": vocabulary.ids[4:16].tolist()}
    ends = []
    for workers in ({}, {"num_workers": 1, "multiprocessing_context": "spawn"}):
        torch.manual_seed(0)
        model = GeneClassifier(ranked, lists, start)
        sizes = {"train_size": 1, "validation_size": 0, "test_size": 0}
        model.train(max_steps=2, recipe="plain", datasplitter_kwargs=workers, **sizes, **quick)
        ends.append(torch.cat([p.detach().flatten() for p in model.module.parameters()]))
    assert torch.equal(*ends)
