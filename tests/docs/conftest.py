"""Inputs for the examples of the documentation: a few cells, and a small model in place of the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N_DONORS, N_CELLS = 8, 4  # cells of each donor
NAMED = ("STAT1", "STAT2", "IRF9")


@pytest.fixture(scope="session")
def make_cells() -> Callable[..., ad.AnnData]:
    """Cells of eight donors, four of them ill, with counts of 40 genes of the bundled model, half of which differ in the ill."""
    symbols = sg.hub.vocabulary("default").symbols
    names = [*NAMED, *[name for name in symbols[10:] if name and name not in NAMED][:37]]

    def make(seed: int = 0) -> ad.AnnData:
        rng = np.random.default_rng(seed)
        donor = np.repeat(np.arange(N_DONORS), N_CELLS)
        ill = donor % 2 == 1
        rate = np.full((len(donor), len(names)), 1.5)
        rate[ill, : len(names) // 2] *= 4
        obs = pd.DataFrame(
            {
                "disease": pd.Categorical(np.where(ill, "dcm", "nf")),
                "donor": pd.Categorical([f"donor {i}" for i in donor]),
                "cell_type": pd.Categorical(np.tile(["fibroblast", "myocyte"], len(donor) // 2)),
            },
            index=[f"cell {i}" for i in range(len(donor))],
        )
        counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
        return ad.AnnData(
            counts, obs=obs, var=pd.DataFrame(index=names), obsm={"X_umap": rng.normal(size=(len(obs), 2))}
        )

    return make


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with narrow untrained models of the bundled vocabulary, two encoders and a decoder, as deep as the pages need."""
    import torch

    vocabulary, models = sg.hub.vocabulary("default"), tmp_path_factory.mktemp("models")
    shape = {
        "vocab_size": len(vocabulary),
        "max_length": vocabulary.max_length,
        "width": 8,
        "n_heads": 2,
        "feed_forward": 8,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "V2-104M": sg.nn.MaskedGeneModel(sg.nn.EncoderConfig(n_layers=7, **shape)),
            "V1-10M_CellClassifier_cardiomyopathies": sg.nn.CellClassifier(
                sg.nn.EncoderConfig(n_layers=2, **shape), n_outputs=3, head="bert"
            ),
            "MaxToki-217M": sg.nn.NextGeneModel(sg.nn.LlamaConfig(n_layers=2, n_kv_heads=1, head_width=4, **shape)),
        }
    for name, network in networks.items():
        sg.nn.save_checkpoint(models / name, network)
        vocabulary.save(models / name / "vocabulary.json.gz")
    return [models / name for name in networks]


@pytest.fixture
def names(make_cells: Callable[..., ad.AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Names that every example may use without defining them; examples run in an empty folder, without display, and train on the CPU."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with sg.settings.override(device="cpu", precision="float32", progress=False):
        yield {"sg": sg, "sc": sc, "ad": ad, "np": np, "pd": pd, "adata": make_cells()}
    plt.close("all")
