"""Predictors of hits and effects: scores as in scikit-learn, intervals with the right coverage, and no increment for noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from scgeneformer import evaluation


def hits_and_noise(n: int = 200, n_hits: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n) < n_hits
    return truth, truth + rng.normal(size=n), rng.normal(size=n)


def test_scores_are_those_of_scikit_learn():
    truth, informative, noise = hits_and_noise()
    table = evaluation.predictors(truth, {"informative": informative, "noise": noise}, n_bootstrap=100)
    for name, x in (("informative", informative), ("noise", noise)):
        assert table.loc[name, "auroc"] == pytest.approx(roc_auc_score(truth, x))
        assert table.loc[name, "average_precision"] == pytest.approx(average_precision_score(truth, x))
        assert table.loc[name, "auroc_low"] < table.loc[name, "auroc"] < table.loc[name, "auroc_high"]
    assert table.loc["informative", "auroc_low"] > 0.5 > table.loc["noise", "auroc_low"]
    first = truth[np.argsort(-informative)]
    assert table.loc["informative", ["ppv_10", "ppv_50"]].tolist() == [first[:10].mean(), first[:50].mean()]


def test_effects_are_scored_by_rank_correlation():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=50)
    x = effects + rng.normal(size=50)
    table = evaluation.predictors(effects, {"x": x, "constant": np.ones(50)}, n_bootstrap=50)
    assert table.loc["x", "spearman"] == pytest.approx(spearmanr(effects, x).statistic)
    assert list(table) == ["spearman", "spearman_low", "spearman_high"]
    assert table.loc["constant"].isna().all()


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 3), min_size=12, max_size=12), k=st.integers(1, 11))
def test_ties_count_in_proportion(values, k):
    """The fraction among the first k is its mean over all orders of tied items."""
    truth, x = np.arange(12) < 5, np.array(values, float)
    rng = np.random.default_rng(0)
    orders = [np.lexsort((rng.random(12), -x))[:k] for _ in range(400)]
    expected = np.mean([truth[order].mean() for order in orders])
    found = evaluation.predictors(truth, {"x": x}, n_top=[k], n_bootstrap=0)[f"ppv_{k}"].item()
    assert found == pytest.approx(expected, abs=0.1)


def test_intervals_cover_what_they_estimate():
    """Two normal distributions one standard deviation apart have an area of Phi(1 / sqrt 2)."""
    expected, covered = 0.76025, 0
    for seed in range(40):
        truth, informative, _ = hits_and_noise(seed=seed)
        low, high = evaluation.predictors(truth, {"x": informative}, n_bootstrap=60, rng=seed).loc[
            "x", ["auroc_low", "auroc_high"]
        ]
        covered += low <= expected <= high
    assert covered >= 33  # of 38 expected


def test_noise_adds_nothing_and_information_does():
    truth, informative, noise = hits_and_noise(400, 100)
    other = truth + np.random.default_rng(5).normal(size=400)
    alone = evaluation.together(truth, {"other": other}, n_repeats=2)
    with_noise = evaluation.together(truth, {"other": other, "noise": noise}, n_repeats=2)
    with_more = evaluation.together(truth, {"other": other, "informative": informative}, n_repeats=2)
    of_noise, of_more = (evaluation.increment(truth, alone, x, n_bootstrap=200) for x in (with_noise, with_more))
    assert of_noise["auroc_low"] < 0.01
    assert of_more["auroc_low"] > 0.02
    assert of_more["auroc"] == pytest.approx(roc_auc_score(truth, with_more) - roc_auc_score(truth, alone))


def test_no_item_predicts_itself():
    """Many columns do not predict random labels, as they would with a model that had seen the labels."""
    rng = np.random.default_rng(0)
    truth, columns = rng.random(60) < 0.5, {str(i): rng.normal(size=60) for i in range(30)}
    assert abs(roc_auc_score(truth, evaluation.together(truth, columns, n_repeats=3)) - 0.5) < 0.2
    effects = rng.normal(size=60)
    assert abs(spearmanr(effects, evaluation.together(effects, columns, n_repeats=3)).statistic) < 0.4


@pytest.mark.parametrize(
    ("truth", "x", "message"),
    [
        (np.zeros(5, bool), np.arange(5.0), "0 of 5 items are hits"),
        (np.array([True, True, False, False]), np.array([1, 2, np.nan, 3]), "NaN for 1 items"),
        (np.array([True, True, False, False]), np.arange(5.0), "must have the same shape"),
        (np.array([1.0, np.nan, 2.0]), np.arange(3.0), "finite numbers"),
    ],
)
def test_refused(truth, x, message):
    with pytest.raises(ValueError, match=message):
        evaluation.predictors(truth, {"x": x})
