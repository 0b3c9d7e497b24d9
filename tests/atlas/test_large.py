"""Large references hold out some cells to calibrate novelty; they are not searched, but stay in the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer import stats


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "LARGEST_EXACT", 100)


@pytest.mark.parametrize("donor", [None, "donor"])
def test_held_out_cells_are_the_standard(make_cells, tmp_path, small_is_large, donor) -> None:
    annotated, query = make_cells(500, 1, n_donors=20), make_cells(60, 2)
    reference = sg.Reference.from_adata(annotated, "type", exact=True, donor=donor, obs=["age", "donor"])
    assert reference.n_held_out == 50
    assert sorted(reference.cells.index) == sorted(annotated.obs_names)
    rows = annotated.obs_names.get_indexer(reference.cells.index)
    np.testing.assert_array_equal(reference.points, annotated.obsm["X_geneformer"][rows])
    np.testing.assert_array_equal(reference.cells["age"], annotated.obs["age"].iloc[rows])
    result = reference.query(query, key_added="new", copy=True)

    searched, standard = rows[:450], rows[450:]
    states, labels = annotated.obsm["X_geneformer"].astype(float), annotated.obs["type"].astype(str).to_numpy()
    donors = annotated.obs["donor"].to_numpy()

    def look(state: np.ndarray, others: np.ndarray) -> tuple[float, str]:
        distances = np.linalg.norm(states[others] - state, axis=1)
        nearest = np.argsort(distances)[:15]
        votes = pd.Series(1 / distances[nearest]).groupby(labels[others][nearest]).sum()
        return distances[nearest].mean(), votes.idxmax()

    left_out = [
        look(states[i], searched if donor is None else searched[donors[searched] != donors[i]]) for i in standard
    ]
    for i in range(60):
        distance, told = look(query.obsm["X_geneformer"][i].astype(float), searched)
        assert result.obs["new"].iloc[i] == told
        alike = np.array([d for d, name in left_out if name == told])
        np.testing.assert_allclose(result.obs["new_novelty"].iloc[i], (1 + sum(alike >= distance)) / (len(alike) + 1))

    reference.save(tmp_path / "atlas")
    again = sg.Reference.load(tmp_path / "atlas").query(query, key_added="new", copy=True)
    pd.testing.assert_frame_equal(again.obs, result.obs)
    assert reference.report(n_bootstrap=5)["overall"].loc["accuracy", "n_cells"] == 50


def test_a_rare_label_keeps_a_voter(make_cells, small_is_large) -> None:
    annotated = make_cells(2000, 1)
    types = annotated.obs["type"].astype(str)
    types.iloc[[4, 5]] = "rare"
    annotated.obs["type"] = pd.Categorical(types)
    for seed in range(30):
        reference = sg.Reference.from_adata(annotated, "type", rng=seed)
        assert set(reference.cells["type"].iloc[: -reference.n_held_out]) == set(types)


def test_known_cells_of_a_large_reference_are_unknown_at_most_as_often_as_asked_for(make_cells, small_is_large) -> None:
    shares = []
    for seed in range(8):
        reference = sg.Reference.from_adata(make_cells(2500, 2 * seed), "type", exact=True)
        result = reference.query(make_cells(500, 2 * seed + 1), unknown=0.1, key_added="new", copy=True)
        shares.append(np.mean(result.obs["new"] == "unknown"))
    assert 0.03 < np.mean(shares) < 0.1 + 3 * np.std(shares) / np.sqrt(len(shares))
