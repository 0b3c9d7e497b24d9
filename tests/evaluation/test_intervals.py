"""Bootstrap intervals have the right coverage, and are wider if items of a group are similar."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scgeneformer import evaluation


def mean_of(values: np.ndarray):
    return lambda rows: pd.Series({"mean": values[rows].mean()})


def test_intervals_cover_a_mean():
    covered = []
    for seed in range(100):
        values = np.random.default_rng(seed).normal(2.0, 1.0, 60)
        low, high = evaluation.bootstrap(mean_of(values), 60, n_bootstrap=200, rng=seed).loc["mean"]
        covered.append(low < 2.0 < high)
    assert 0.87 <= np.mean(covered) <= 0.99


def test_groups_are_drawn_as_a_whole():
    """Items of a group are copies of one draw: intervals over groups cover its mean, those over items are too narrow."""
    covered = {"groups": [], "items": []}
    for seed in range(60):
        of_group = np.random.default_rng(seed).normal(size=15)
        values, groups = np.repeat(of_group, 20), np.repeat([f"donor {i}" for i in range(15)], 20)
        for name, given in (("groups", groups), ("items", None)):
            low, high = evaluation.bootstrap(mean_of(values), 300, groups=given, n_bootstrap=100, rng=seed).loc["mean"]
            covered[name].append(low < 0 < high)
    assert np.mean(covered["groups"]) > 0.8
    assert np.mean(covered["items"]) < 0.6


def test_unequal_groups_and_scores_that_are_not_always_defined():
    groups = ["a", "b", "b", "b", "c"]
    drawn = []

    def score(rows: np.ndarray) -> pd.Series:
        drawn.append(rows)
        return pd.Series({"n": float(len(rows)), "only without b": np.nan if 1 in rows else 1.0, "never": np.nan})

    table = evaluation.bootstrap(score, 5, groups=groups, n_bootstrap=200)
    assert all(np.bincount(rows, minlength=5)[1] == np.bincount(rows, minlength=5)[3] for rows in drawn)
    assert table.loc["only without b"].tolist() == [1, 1]
    assert table.loc["never"].isna().all()
    assert 3 <= table.loc["n", "low"] <= table.loc["n", "high"] <= 9
