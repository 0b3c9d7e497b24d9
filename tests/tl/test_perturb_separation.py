"""Checks once per run: whether source and target are separated, with donors held out, and whether they are of one cell type."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scanpy import logging as logg

import scgeneformer as sg
from scgeneformer import evaluation

STATES = {"groupby": "state", "source": "sick", "target": "well"}


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(logg, "warning", messages.append)
    return messages


def test_separation_is_that_of_the_embedding_and_of_log_expression(tokenized, folder):
    """Whatever order cells come in: folds are drawn by their number, so this one is the same."""
    sg.tl.perturb(tokenized, genes=["SYM1"], n_reference=0, **STATES)
    separation = tokenized.uns["shift"]["separation"]
    assert separation["held_out"] == "cells"
    run = tokenized.uns["shift"]["params"]
    sg.tl.embed(tokenized, folder, pooling=run["pooling"], emb_layer=run["emb_layer"])
    profile = tokenized.copy()
    sc.pp.normalize_total(profile, target_sum=1e4)
    sc.pp.log1p(profile)
    for name, values in (("embedding", tokenized.obsm["X_geneformer"]), ("expression", profile.X)):
        mean = np.mean([evaluation_of(tokenized, values, seed) for seed in range(20)])
        assert separation[name] == pytest.approx(mean, abs=0.12)


def evaluation_of(adata, values, seed: int) -> float:
    rows = np.flatnonzero(adata.obs["state"].isin(["well", "sick"]))
    return evaluation.separation(values[rows], (adata.obs["state"] == "well").to_numpy()[rows], rng=seed)


def test_states_that_are_no_states_are_warned_of(tokenized, warned):
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) % 2, "sick", "well")
    sg.tl.screen(tokenized, **STATES)
    assert sum("'sick' and 'well' are hardly separated in the embedding: AUROC" in text for text in warned) == 1


def test_states_that_differ_are_not(adata, folder, warned):
    counts = adata.X.toarray()  # each state lacks genes that the other has
    counts[:20, :10] = counts[20:, 10:20] = 0
    adata.X = counts
    adata.obs["state"] = np.where(np.arange(40) < 20, "sick", "well")
    sg.pp.tokenize(adata, folder)
    sg.tl.screen(adata, **STATES)
    assert adata.uns["shift"]["separation"]["embedding"] > 0.75
    assert adata.uns["shift"]["separation"]["expression"] > 0.9
    assert not any("hardly separated" in text for text in warned)


def test_donors_are_held_out_where_there_are_some(tokenized):
    tokenized.obs["donor"] = [f"donor {i % 5}" for i in range(tokenized.n_obs)]
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    sg.tl.screen(tokenized, **STATES)
    assert tokenized.uns["shift"]["separation"]["held_out"] == "donors"
    tokenized.obs["donor"] = np.where(np.arange(tokenized.n_obs) < 20, "a", "b")  # each of one state: not held out
    sg.tl.screen(tokenized, **STATES)
    assert tokenized.uns["shift"]["separation"]["held_out"] == "cells"


def test_each_group_has_its_own(tokenized, tmp_path):
    import anndata as ad

    tokenized.obs["half"] = np.where(np.arange(tokenized.n_obs) % 2, "b/c", "a")
    sg.tl.screen(tokenized, within="half", **STATES)
    assert set(tokenized.uns["shift"]["separation"]) == {"a", "b|c"}
    sg.tl.rank_shifts(tokenized)
    tokenized.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["shift"]["separation"]
    assert again["a"] == tokenized.uns["shift"]["separation"]["a"]


@pytest.mark.parametrize("change", ["no source", "given", "no counts"])
def test_what_cannot_be_said_is_left_out(tokenized, change):
    states = dict(STATES)
    if change == "no source":
        del states["source"]
    if change == "given":
        states["centroids"] = {"well": np.ones(16), "sick": np.arange(16.0)}
    if change == "no counts":
        tokenized.X = None
    sg.tl.screen(tokenized, **states)
    separation = tokenized.uns["shift"].get("separation", {})
    assert set(separation) == ({"embedding", "held_out"} if change == "no counts" else set())


def test_types_within_a_state_are_pointed_out(tokenized, warned):
    tokenized.obs["cell_type"] = pd.Categorical(np.where(np.arange(tokenized.n_obs) % 4, "B", "T"))
    sg.tl.screen(tokenized, **STATES)
    about = [text for text in warned if "of 2 types in .obs['cell_type']" in text]
    assert len(about) == 1
    assert "Perturb within='cell_type'." in about[0]
    shares = [tokenized.obs["cell_type"][tokenized.obs["state"] == state].eq("T").mean() for state in ("sick", "well")]
    differ = abs(shares[0] - shares[1])
    assert (f"by {differ:.0%} of the cells" in about[0]) == (differ >= 0.05)
    warned.clear()
    sg.tl.screen(tokenized, within="cell_type", **STATES)
    sg.tl.screen(tokenized[tokenized.obs["cell_type"] == "B"].copy(), **STATES)
    assert not any("types in" in text for text in warned)
