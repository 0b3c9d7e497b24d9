"""Perturb-seq labels as a second task of the classifier whose encoder is then perturbed in silico."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

import scgeneformer as sg

STATE, GENE = "perturbation_2", "perturbation"


@pytest.fixture
def screen(shared):
    """Cells of a CROP-seq screen with and without stimulation: some guides, and controls."""
    cells = sc.read_h5ad(shared / "data" / "datlinger_scperturb" / "datlinger_cropseq_2000genes.h5ad")
    sg.pp.tokenize(cells, "default")
    cells = cells[cells.obs["n_tokens"] > 8]
    most = cells.obs[GENE].value_counts().index[:4]
    cells = cells[cells.obs[GENE].isin(most)]
    return cells[np.random.default_rng(0).permutation(cells.n_obs)[:160]].copy()


def test_perturbed_cells_train_the_encoder_that_is_perturbed(screen):
    """Cells of the screen have both labels, cells of a patient only a state: both train one encoder, which `tl.perturb` takes."""
    patients = np.arange(screen.n_obs) % 2 == 0
    screen.obs.loc[patients, GENE] = np.nan
    sg.model.CellClassifier.setup_anndata(screen, [STATE, GENE])
    torch.manual_seed(0)
    model = sg.model.CellClassifier(screen, "default", task_weights={STATE: 1.0, GENE: 0.5})
    assert [task.name for task in model.tasks] == [STATE, GENE]
    model.train(2, recipe="plain", token_budget=1024, precision="32-true", accelerator="cpu", enable_progress_bar=False)
    assert {f"validation_{STATE}_loss", f"validation_{GENE}_loss"} <= set(model.history)
    told = model.predict(task=GENE, soft=True)
    assert set(told) == set(screen.obs[GENE].dropna())

    for key, start in (("before", "default"), ("after", model)):
        sg.tl.perturb(screen, start, groupby=STATE, source="unstimulated", target="stimulated", key_added=key)
        sg.tl.rank_shifts(screen, key=key)
        assert np.isfinite(sg.get.shifts(screen, key=key)["effect"]).all()
    before, after = screen.layers["before"], screen.layers["after"]
    assert before.nnz == after.nnz > 0
    assert not np.allclose(before.data, after.data)
    assert isinstance(screen.varm["after"], pd.DataFrame)
    hashes = [screen.uns[key]["params"]["weights_sha256"] for key in ("before", "after")]
    assert hashes[0] != hashes[1]
    assert hashes[1] == model.to_pretrained().sha256
