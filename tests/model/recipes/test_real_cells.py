"""On real cells, the classifier that is kept is not worse than the probe on test cells either, within their uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

import scgeneformer as sg
from scgeneformer import evaluation


def facs(data, rng):
    """Ten sorted types of PBMC: cells to train and validate on, and others to test on."""
    cells = sc.read_h5ad(data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad")
    return cells[rng.permutation(cells.n_obs)[:500]].copy(), "celltype", np.arange(300, 500)


def kang(data, rng):
    """Interferon or not, tested on the other donor."""
    cells = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    first = (cells.obs["sample_id"].astype(str).str[-3:] == "101").to_numpy()
    parts = [rng.permutation(np.flatnonzero(which))[:n] for which, n in ((first, 300), (~first, 200))]
    return cells[np.concatenate(parts)].copy(), "group_id", np.arange(300, 500)


@pytest.mark.parametrize("make", [facs, kang])
def test_macro_f1_on_test_cells(shared, make):
    cells, labels, test = make(shared / "data", np.random.default_rng(0))
    sg.pp.tokenize(cells, "default", max_length=96)
    codes = pd.Categorical(cells.obs[labels]).codes.astype(np.int64)
    codes[test] = -1
    inner = evaluation.split(codes, train_size=0.7, validation_size=0.3, test_size=0.0)
    split = evaluation.Split(inner.train, inner.validation, test)
    sg.model.CellClassifier.setup_anndata(cells, labels)
    scores = {}
    for recipe, options in {"probe": {}, "auto": {"max_steps": 60}}.items():
        torch.manual_seed(0)
        model = sg.model.CellClassifier(cells, "default")
        quiet = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False}
        model.train(recipe=recipe, split=split, **options, **quiet)
        sg.tl.evaluate(cells, model, baselines=False)
        scores[recipe] = sg.get.evaluation(cells)["macro_f1"].iloc[0]
    assert list(model.selected.table.index) == ["probe", "B" if make is kang else "A"]
    assert scores["auto"] >= scores["probe"] - 0.02
    assert scores["auto"] > {facs: 0.55, kang: 0.9}[make]
