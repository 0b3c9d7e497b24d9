"""The report of a reference against slow loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

K = 15


def look(states, labels, state, others) -> tuple[float, str, float]:
    """Mean distance to the nearest of `others`, their label for the cell, and its share of the votes."""
    distances = np.linalg.norm(states[others] - state, axis=1)
    nearest = np.argsort(distances)[:K]
    votes = pd.Series(1 / distances[nearest]).groupby(labels[others][nearest]).sum()
    return distances[nearest].mean(), votes.idxmax(), votes.max() / votes.sum()


@pytest.mark.parametrize("donor", [None, "donor"])
def test_tables_are_slow_loops(make_cells, donor) -> None:
    annotated = make_cells(150, 1)
    tables = sg.Reference.from_adata(annotated, "type", donor=donor).report(n_bootstrap=20)
    states, labels = annotated.obsm["X_geneformer"].astype(float), annotated.obs["type"].astype(str).to_numpy()
    unit = np.arange(150) if donor is None else annotated.obs["donor"].to_numpy()

    answers = [look(states, labels, states[i], unit != unit[i]) for i in range(150)]
    right = np.array([told == label for (_, told, _), label in zip(answers, labels, strict=True)])
    share = np.array([s for _, _, s in answers])
    overall = tables["overall"]
    np.testing.assert_allclose(overall.loc["accuracy", "value"], right.mean())
    np.testing.assert_allclose(
        overall.loc["most_frequent", "value"], pd.Series(labels).value_counts(normalize=True).max()
    )
    bins = np.clip(np.ceil(share * 15).astype(int), 1, 15)
    error = sum(abs(right[bins == b].mean() - share[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins))
    np.testing.assert_allclose(overall.loc["calibration_error", "value"], error, rtol=1e-5)
    assert (overall["low"] <= overall["value"] + 0.1).all()
    assert (overall["high"] >= overall["low"]).all()
    assert overall["n_cells"].eq(150).all()
    assert overall["n_donors"].isna().all() if donor is None else overall["n_donors"].eq(5).all()

    for name, row in tables["labels"].iterrows():
        missing = labels == name
        rest = ~missing
        far, told, _ = (
            np.array(x)
            for x in zip(*(look(states, labels, states[i], rest & (unit != unit[i])) for i in range(150)), strict=True)
        )
        strange = np.empty(150)
        for i in range(150):
            alike = far[rest & (told == told[i])]
            strange[i] = 1 - (1 + sum(alike >= far[i])) / (len(alike) + 1)
        np.testing.assert_allclose(row["novelty_auroc"], roc_auc_score(missing, strange), atol=0.01)
        np.testing.assert_allclose(row["accuracy"], right[missing].mean())
        assert row["n_cells"] == missing.sum()
        assert row["novelty_auroc_low"] <= row["novelty_auroc_high"]


def test_isotonic_regression_learns_from_other_donors_only(make_cells, monkeypatch) -> None:
    fitted: list[int] = []

    class Spy(IsotonicRegression):
        def fit(self, x, y):
            fitted.append(len(x))
            return super().fit(x, y)

    monkeypatch.setattr("sklearn.isotonic.IsotonicRegression", Spy)
    annotated = make_cells(150, 1, n_donors=5)
    sg.Reference.from_adata(annotated, "type", donor="donor").report(n_bootstrap=2)
    assert sorted(fitted) == sorted(150 - annotated.obs["donor"].value_counts())  # five donors, a fold each


def test_isotonic_regression_mends_votes_that_are_too_sure(make_cells) -> None:
    annotated = make_cells(1500, 1)
    rng = np.random.default_rng(0)
    shuffled = annotated.obs["type"].to_numpy().copy()
    rows = rng.choice(1500, 500, replace=False)
    shuffled[rows] = rng.permutation(shuffled[rows])
    annotated.obs["type"] = shuffled
    overall = sg.Reference.from_adata(annotated, "type", n_neighbors=2).report(n_bootstrap=2)["overall"]["value"]
    assert overall["calibration_error_isotonic"] < 0.5 * overall["calibration_error"]


def test_few_cells_and_few_donors(make_cells) -> None:
    annotated = make_cells(300, 1, n_donors=2)
    annotated.obs["type"] = annotated.obs["type"].astype(str)
    annotated.obs.loc[annotated.obs["donor"] == "donor 1", "type"] = "only here"
    reference = sg.Reference.from_adata(annotated, "type", donor="donor")
    labels = reference.report(n_bootstrap=3)["labels"]
    assert np.isnan(labels.loc["only here", "novelty_auroc"])  # without it there is one donor
    assert labels.loc["only here", "accuracy"] == 0
    assert reference.report(max_cells=40, n_bootstrap=3)["labels"]["n_cells"].sum() == 40
    with pytest.raises(ValueError, match="max_cells=1: a single cell cannot be judged"):
        reference.report(max_cells=1)
