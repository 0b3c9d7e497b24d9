"""Positions of cells on the axis between two states, against a loop over donors."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scanpy import logging as logg
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import scgeneformer as sg
from scgeneformer.evaluation import embeddings

AXIS = {"groupby": "state", "source": "sick", "target": "well"}
COLUMNS = ("state_score", "state_score_centered", "state_score_expression")


@pytest.fixture
def cells(tokenized):
    """Forty cells of four donors in three states, which the embedding separates; donors are far from each other."""
    rng = np.random.default_rng(0)
    tokenized.obs["donor"] = [f"d{i % 4}" for i in range(40)]
    codes = tokenized.obs["state"].cat.codes.to_numpy()
    points = rng.normal(size=(40, 6)) + 3 * np.eye(6)[codes] + 4 * rng.normal(size=(4, 6))[np.arange(40) % 4]
    points[3] = np.nan
    tokenized.obsm["X_geneformer"] = points.astype(np.float32)
    return tokenized


def by_loop(points, states, donors):
    positions = []
    for point, donor in zip(points, donors, strict=True):
        ends = []
        for state in (0, 1):
            others = [d for d in np.unique(donors) if d != donor and ((donors == d) & (states == state)).any()]
            ends.append(np.mean([points[(donors == d) & (states == state)].mean(0) for d in others], axis=0))
        direction = ends[1] - ends[0]
        positions.append((point - ends[0]) @ direction / (direction @ direction))
    return np.array(positions)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_positions_against_a_loop(form):
    rng = np.random.default_rng(1)
    points, states, donors = rng.normal(size=(90, 4)), rng.integers(-1, 2, 90), rng.choice(list("abcde"), 90)
    states[donors == "e"] = 1  # which has no cell of the source
    found = embeddings.held_out_positions(form(points), states, donors)
    np.testing.assert_allclose(found, by_loop(points, states, donors), atol=1e-10)


def test_positions_do_not_know_the_cell_itself():
    """In data without signal, cells of both states have similar positions, with and without donors."""
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(40):
        points, states = rng.normal(size=(60, 200)), rng.permutation(np.repeat([0, 1], 30))
        for donors in (None, np.arange(60) % 6):
            scores.append(roc_auc_score(states, embeddings.held_out_positions(points, states, donors)))
    assert abs(np.mean(scores) - 0.5) < 0.06


def test_slots_scores_and_files(cells, tmp_path):
    sg.tl.state_score(cells, **AXIS, donor="donor")
    assert cells.obs.loc[cells.obs_names[3], list(COLUMNS)].isna().all()
    rows = np.delete(np.arange(40), 3)
    states = cells.obs["state"].map({"sick": 0, "well": 1}).astype(float).fillna(-1).to_numpy(dtype=int)[rows]
    donors = cells.obs["donor"].to_numpy()[rows]
    points = cells.obsm["X_geneformer"][rows].astype(np.float64)
    np.testing.assert_allclose(cells.obs["state_score"].iloc[rows], by_loop(points, states, donors), rtol=1e-5)
    table = cells.uns["state_score"]["scores"]
    ends = states >= 0
    assert table.loc["embedding", "auroc"] == roc_auc_score(states[ends], cells.obs["state_score"].iloc[rows][ends])
    assert table.loc["embedding, centred by donor", "auroc"] > 0.9
    assert (table["auroc_low"] <= table["auroc"]).all()
    assert (table["auroc"] <= table["auroc_high"]).all()
    assert cells.uns["state_score"]["params"]["resampled"] == "donors"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(again.uns["state_score"]["scores"], table)
    sg.tl.state_score(cells, **AXIS)  # without donors; the centred column goes
    assert COLUMNS[1] not in cells.obs
    assert cells.uns["state_score"]["params"]["resampled"] == "cells"


def test_in_mudata(cells):
    data = mudata.MuData({"rna": cells, "prot": cells[:, :5].copy()})
    data.mod["prot"].obs["gate"] = np.where(np.arange(40) % 3, "up", "down")
    sg.tl.state_score(data, "prot:gate", source="down", target="up", donor="donor")
    assert "state_score" in data.mod["rna"].obs


BAD = {
    "same": ({"target": "sick"}, ValueError, "source and target are both 'sick'"),
    "no state": ({"target": "dead"}, ValueError, r"No cell .* is 'dead' in \.obs\['state'\], which has"),
    "no column": ({"groupby": "disease"}, KeyError, "No column 'disease'"),
    "one donor": ({"donor": "patient"}, ValueError, r"cannot be compared across \.obs\['patient'\]: .*one group only"),
    "no embedding": ({"use_rep": "X_none"}, KeyError, "No representation"),
    "no layer": ({"layer": "counts"}, KeyError, "No layer 'counts'.*`layer=`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(cells, name):
    cells.obs["patient"] = np.where(cells.obs["state"] == "sick", "p1", "p2")
    changed, error, words = BAD[name]
    before = list(cells.obs)
    with pytest.raises(error, match=words):
        sg.tl.state_score(cells, **AXIS | changed)
    assert list(cells.obs) == before
    assert "state_score" not in cells.uns


def test_places_that_follow_depth_are_told(cells, monkeypatch):
    messages = []
    monkeypatch.setattr(logg, "warning", messages.append)
    sg.tl.state_score(cells, **AXIS, n_bootstrap=0)
    table = cells.uns["state_score"]["scores"]
    placed = cells.obs["state_score"].notna()
    n_genes = (cells.X.toarray() > 0).sum(1)
    for name, column in (("embedding", "state_score"), ("expression", "state_score_expression")):
        expected = [
            spearmanr(
                cells.obs.loc[placed & (cells.obs["state"] == state), column],
                n_genes[placed & (cells.obs["state"] == state)],
            )[0]
            for state in ("sick", "well")
        ]
        assert table.loc[name, "depth"] == pytest.approx(np.mean(expected))
    assert messages == []
    cells.obsm["X_geneformer"] = (n_genes[:, None] + [[0.0, 1.0]]).astype(np.float32)
    cells.obsm["X_geneformer"][cells.obs["state"] == "well"] += 1
    sg.tl.state_score(cells, **AXIS, n_bootstrap=0)
    assert abs(cells.uns["state_score"]["scores"].loc["embedding", "depth"]) > 0.9
    assert any("follow the number of genes detected" in text for text in messages)
