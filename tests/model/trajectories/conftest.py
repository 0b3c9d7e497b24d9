"""Cells whose genes change with time, so that a small decoder can read the time."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest

N_TIMES = 4


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel("ERROR")


@pytest.fixture
def make_timed(vocabulary):
    """Cells of four times, two days apart, of eight donors and two types."""

    def make(n: int = 240, seed: int = 0) -> ad.AnnData:
        rng = np.random.default_rng(seed)
        tokens, time = np.zeros((n, 64), np.uint16), rng.permutation(n) % N_TIMES
        for row, of_cell in zip(tokens, time, strict=True):
            level = np.sin(2 * np.pi * (np.arange(40) / 40 - of_cell / 6)) + rng.normal(0, 0.3, 40)
            genes = 4 + np.argsort(-level)[: rng.integers(8, 13)]
            row[: len(genes) + 2] = [2, *genes, 3]
        donor = rng.permutation(n) % 8
        obs = pd.DataFrame(
            {"day": 3 + 2.0 * time, "donor": [f"donor {i}" for i in donor], "type": rng.choice(["T", "B"], n)},
            index=[f"cell{i}" for i in range(n)],
        )
        cells = ad.AnnData(obs=obs, obsm={"geneformer_tokens": tokens})
        params = {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}
        cells.uns["geneformer_tokens"] = {"params": params}
        return cells

    return make


@pytest.fixture
def first_stage(vocabulary):
    """A small decoder with random weights."""
    import torch

    from scgeneformer import hub, nn

    shape = {"n_layers": 1, "width": 24, "n_heads": 4, "n_kv_heads": 2, "head_width": 8, "feed_forward": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.NextGeneModel(nn.LlamaConfig(len(vocabulary), max_length=vocabulary.max_length, **shape)).eval()
    return hub.Pretrained("first stage", vocabulary, model=network)
