"""Cells of two or four types and a small model, with enough validation cells for a choice."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

from scgeneformer import evaluation
from scgeneformer.model import CellClassifier, Geneformer

TOKENS = "geneformer_tokens"


def save_as_before_heads(model, folder, attributes):
    """Save `model` in the format from when all heads were BERT's, without the later `attributes`."""
    model.save(folder)
    path = folder / "scgeneformer.json"
    content = json.loads(path.read_text())
    del content["state"]["init_params_"]["non_kwargs"]["head"]
    for name in attributes:
        del content["state"][name]
    path.write_text(json.dumps(content))


def balanced_loss(task, scores: np.ndarray, codes: np.ndarray) -> float:
    """Mean over classes of the mean negative log-likelihood of their items, after the best temperature and offsets, by SLSQP without gradients."""
    scores = scores.astype(np.float64)

    def loss(x: np.ndarray) -> float:
        log_proba = task.log_proba(torch.from_numpy(x[0] * scores + x[1:])).numpy()
        return float(np.mean([-log_proba[codes == code, code].mean() for code in np.unique(codes)]))

    slope = (0.2, 1.0) if task.kind == "categorical" else (1.0, 1.0)
    bounds = [slope, *[(None, None)] * scores.shape[1]]
    return minimize(loss, np.eye(len(bounds))[0], method="SLSQP", bounds=bounds, options={"ftol": 1e-12}).fun


@pytest.fixture
def cells(toy, vocabulary):
    """Types and halves of types with one label in ten wrong, ordered doses, and ages; some of each are missing."""
    adata = toy[1](260, vocabulary)
    rng = np.random.default_rng(0)
    kind = (adata.obsm[TOKENS][:, 1].astype(int) - 4) // 10
    shown = np.where(rng.random(260) < 0.1, rng.integers(0, 4, 260), kind)
    adata.obs["type"] = pd.Categorical([f"type {k}" for k in shown])
    adata.obs["half"] = np.where(shown < 2, "low", "high")
    adata.obs["dose"] = pd.Categorical(shown, categories=[0, 1, 2, 3], ordered=True)
    adata.obs["age"] = 10.0 * kind + rng.normal(size=260)
    adata.obs.loc[adata.obs_names[1::9], "age"] = np.nan
    adata.obs.loc[adata.obs_names[2::9], "dose"] = np.nan
    adata.obs["donor"] = [f"donor {i % 13}" for i in range(260)]
    return adata


@pytest.fixture
def split() -> evaluation.Split:
    return evaluation.Split(np.arange(160), np.arange(160, 240), np.arange(240, 260))


@pytest.fixture
def start(vocabulary):
    torch.manual_seed(0)
    shape = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 16, "dropout": 0.1}
    return Geneformer(vocabulary=vocabulary, **shape)


@pytest.fixture
def make(cells, start):
    def make(labels="half", *, sample=None, **kwargs) -> CellClassifier:
        CellClassifier.setup_anndata(cells, labels, sample_key=sample)
        torch.manual_seed(1)
        return CellClassifier(cells, start, **kwargs)

    return make


@pytest.fixture
def short(quick, split) -> dict:
    """A short run on the split; without `token_budget` the batches are the recipe's."""
    return quick | {"split": split, "max_epochs": 2, "token_budget": None}
