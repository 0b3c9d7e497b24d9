from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brute
from scipy.special import log_softmax, softmax

from scgeneformer import evaluation


def drawn(temperature: float, n: int = 20_000, n_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax, then logits multiplied by `temperature`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, n_classes))
    truth = (rng.random((n, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    return temperature * logits, np.minimum(truth, n_classes - 1)


def loss(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth].mean()


@pytest.mark.parametrize("by", [1.2, 2.4])
def test_temperature_recovers_what_logits_were_multiplied_by(by: float) -> None:
    logits, truth = drawn(by)
    np.testing.assert_allclose(evaluation.temperature(logits, truth), by, rtol=0.05)
    once = evaluation.temperature(logits, truth)
    np.testing.assert_allclose(evaluation.temperature(2 * logits, truth), 2 * once, rtol=1e-4)
    np.testing.assert_allclose(evaluation.temperature(logits + 7, truth), once, rtol=1e-4)  # softmax does not see it


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
@example(seed=1133, n=1)  # the largest is best
def test_no_temperature_of_a_grid_is_better(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(n, 3)) * rng.uniform(0.1, 9), rng.integers(0, 3, n)
    found = evaluation.temperature(logits, truth)
    assert loss(logits, truth, found) <= loss(logits, truth, 1.0)
    best = brute(lambda t: loss(logits, truth, np.exp(t[0])), [(0, np.log(5))], Ns=200, finish=None)
    assert loss(logits, truth, found) <= loss(logits, truth, np.exp(best)) + 1e-6
    np.testing.assert_array_equal((logits / found).argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.parametrize("gap", [0.1, 3.0, 40.0])
def test_separable_items_do_not_make_a_classifier_surer(gap: float) -> None:
    truth = np.arange(12) % 3
    assert evaluation.temperature(gap * np.eye(3)[truth], truth) == 1.0


def test_temperature_stays_below_its_bound() -> None:
    truth = np.arange(12) % 3
    np.testing.assert_allclose(evaluation.temperature(60 * np.eye(3)[truth], (truth + 1) % 3), 5, rtol=1e-4)


def test_temperature_calibrates() -> None:
    logits, truth = drawn(3.0)
    before = evaluation.reliability(truth, softmax(logits, axis=1)).error
    after = evaluation.reliability(truth, softmax(logits / evaluation.temperature(logits, truth), axis=1)).error
    assert before > 0.1
    assert after < 0.02


def test_temperature_leaves_unlabelled_items_out_and_refuses_others() -> None:
    logits, truth = drawn(2.0, n=500)
    more = np.vstack([logits, np.full((1, 4), np.nan)])
    assert evaluation.temperature(more, np.append(truth, -1)) == evaluation.temperature(logits, truth)
    with pytest.raises(ValueError, match="1 labelled items have logits that are NaN"):
        evaluation.temperature(more, np.append(truth, 0))
    with pytest.raises(ValueError, match="Nothing is labelled"):
        evaluation.temperature(logits, np.full(500, -1))
    np.testing.assert_allclose(evaluation.temperature(np.zeros((5, 2)), np.zeros(5, dtype=int)), 1)


@pytest.mark.parametrize("n_bins", [15, 4])
def test_reliability_is_a_loop_over_bins(n_bins: int) -> None:
    logits, truth = drawn(2.0, n=700)
    proba = softmax(logits, axis=1)
    proba[:5] = [0.5, 0.5, 0, 0]  # on the edge of a bin, which has its upper end
    proba[5:9] = [1, 0, 0, 0]
    found = evaluation.reliability(truth, proba, n_bins=n_bins)
    sure, right = proba.max(axis=1), proba.argmax(axis=1) == truth
    error = 0.0
    for b in range(n_bins):
        inside = (sure > b / n_bins) & (sure <= (b + 1) / n_bins)
        assert found.n[b] == inside.sum()
        if inside.any():
            np.testing.assert_allclose(found.confidence[b], sure[inside].mean())
            np.testing.assert_allclose(found.accuracy[b], right[inside].mean())
            error += inside.sum() * abs(right[inside].mean() - sure[inside].mean()) / 700
        else:
            assert np.isnan(found.confidence[b])
    np.testing.assert_allclose(found.error, error)
    assert found.edges[[0, -1]].tolist() == [0, 1]


def test_probabilities_that_are_right_have_no_error() -> None:
    truth = np.arange(3).repeat(4)
    assert evaluation.reliability(truth, np.eye(3)[truth]).error == 0
    always_half = np.tile([0.5, 0.25, 0.25], (12, 1))
    np.testing.assert_allclose(evaluation.reliability(truth, always_half).error, 0.5 - 4 / 12)
