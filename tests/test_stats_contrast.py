"""Contrasts of two states against scipy's tests, permuted labels and their own level, with cells and with donors as replicates."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats as scipy_stats

from scgeneformer import stats

from . import test_stats_permuted_labels

world = partial(test_stats_permuted_labels.world, every=3)  # states of unequal size


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def places(cells: np.ndarray, *, step: float = 1e-6) -> np.ndarray:
    """The centroid at length 1, and how it moves if its mean moves towards each cell, by finite differences."""
    mean = cells.mean(axis=0)
    return np.stack([unit(mean) + (unit(mean + step * (cell - mean)) - unit(mean)) / step for cell in cells])


def test_cells_are_compared_by_welch():
    directions, cells, is_target = world(0, distance=1.0)
    found = stats.contrast(directions, cells, is_target)
    test = stats.t_test(found)
    target, source = (places(cells[is_target == state]) for state in (True, False))
    for group in range(len(directions) - 1):
        expected = scipy_stats.ttest_ind(target @ directions[group], source @ directions[group], equal_var=False)
        np.testing.assert_allclose(test.score[group], expected.statistic, rtol=1e-4)
        np.testing.assert_allclose(test.pvalue[group], expected.pvalue, rtol=1e-3)
        interval = expected.confidence_interval(0.95)
        np.testing.assert_allclose([found.low[group], found.high[group]], interval, rtol=1e-3, atol=1e-6)
    centroids = [unit(cells[is_target == state].mean(axis=0)) for state in (True, False)]
    np.testing.assert_allclose(found.mean[:-1], directions[:-1] @ (centroids[0] - centroids[1]), atol=1e-12)
    assert np.isnan([found.mean[-1], found.low[-1], test.score[-1], test.pvalue[-1]]).all()


def test_agrees_with_permuted_labels():
    directions, cells, is_target = world(1, n=400)
    permuted = stats.permuted_labels(
        directions, cells, is_target, n_permutations=4000, rng=np.random.default_rng(0)
    ).of_contrast
    score = stats.t_test(stats.contrast(directions, cells, is_target)).score
    np.testing.assert_allclose(score[:-1], permuted.score[:-1], atol=0.15)


def by_donor(cells, is_target, donors, state):
    """Place of each donor that has cells of the state."""
    at = is_target == state
    of_state, names = places(cells[at]), donors[at]
    return {name: of_state[names == name].mean(axis=0) for name in np.unique(names)}


def test_donors_of_both_states_are_paired():
    directions, cells, is_target = world(2, distance=0.5)
    donors = np.arange(60) % 5
    donors[(donors == 4) & is_target] = 5  # one of the source only, and one of the target only
    target, source = (by_donor(cells, is_target, donors, state) for state in (True, False))
    assert set(target) & set(source) == {0, 1, 2, 3}
    for group in range(3):  # alone, a variance has nothing to be moderated by
        found = stats.contrast(directions[[group]], cells, is_target, donors=donors)
        values = np.array([[of_state[d] @ directions[group] for d in range(4)] for of_state in (target, source)])
        expected = scipy_stats.ttest_rel(*values)
        np.testing.assert_allclose(stats.t_test(found).score, expected.statistic, rtol=1e-3)
        np.testing.assert_allclose(stats.t_test(found).pvalue, expected.pvalue, rtol=1e-3)
        np.testing.assert_allclose(
            [found.low[0], found.high[0]], expected.confidence_interval(0.95), rtol=1e-3, atol=1e-6
        )


def test_donors_of_one_state_each_are_two_samples():
    directions, cells, is_target = world(3, distance=0.5)
    donors = np.arange(60) % 4 + 4 * is_target
    donors[(donors == 7) & is_target] = 6
    target, source = (by_donor(cells, is_target, donors, state) for state in (True, False))
    for group in range(3):
        found = stats.contrast(directions[[group]], cells, is_target, donors=donors)
        values = [[place @ directions[group] for place in of_state.values()] for of_state in (target, source)]
        assert [len(of_state) for of_state in values] == [3, 4]
        expected = scipy_stats.ttest_ind(*values)
        np.testing.assert_allclose(stats.t_test(found).score, expected.statistic, rtol=1e-3)
        np.testing.assert_allclose(stats.t_test(found).pvalue, expected.pvalue, rtol=1e-3)
        np.testing.assert_allclose(
            [found.low[0], found.high[0]], expected.confidence_interval(0.95), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("nested", [False, True])
def test_variances_over_donors_are_moderated(nested):
    directions, cells, is_target = world(4)
    donors = np.arange(60) % 4 + 4 * is_target * nested
    alone = [stats.contrast(directions[[group]], cells, is_target, donors=donors) for group in range(39)]
    together = stats.contrast(directions, cells, is_target, donors=donors)
    sd, df = (np.concatenate([getattr(one, name) for one in alone]) for name in ("sd", "df"))
    moderated = stats.moderate(stats.Summary(np.ones(39), together.mean[:39], sd, df, sd, sd))
    np.testing.assert_allclose(together.sd[:39], moderated.sd)
    np.testing.assert_allclose(together.df[:39], moderated.df)
    assert np.isnan(together.sd[39])


@pytest.mark.parametrize("design", ["two of both states", "one of both states", "one of each", "mixed"])
def test_too_few_donors_have_a_mean_only(design):
    directions, cells, _ = world(5)
    number = np.arange(60)
    is_target = number < 30
    donors = {
        "two of both states": number % 2,
        "one of both states": number * 0,
        "one of each": is_target * 1,
        "mixed": np.where(number % 5 == 0, 0, number % 5 + 5 * is_target),
    }[design]
    found = stats.contrast(directions, cells, is_target, donors=donors)
    assert np.isfinite(found.mean[:-1]).all()
    assert np.isnan([found.sd, found.low, found.high, stats.t_test(found).pvalue]).all()


@pytest.mark.parametrize("design", ["cells", "paired", "one state each"])
def test_holds_its_level(design):
    """Donors differ from each other, and paired ones in what a state does to them as well."""
    pvalues, over_cells = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        directions, cells, is_target = world(seed, n=90, n_groups=3)
        donors = None
        if design != "cells":
            donors = rng.integers(0, 6, 90)
            if design == "one state each":
                is_target = donors < 3
            of_donor = donors if design == "one state each" else donors + 6 * is_target
            cells = cells + rng.normal(size=(12, 8))[of_donor]
        test = stats.t_test(stats.contrast(directions, cells, is_target, donors=donors))
        pvalues.append(test.pvalue[0])
        over_cells.append(stats.t_test(stats.contrast(directions, cells, is_target)).pvalue[0])
    assert scipy_stats.kstest(pvalues, "uniform").pvalue > 1e-3
    assert np.mean(np.array(pvalues) < 0.05) <= 0.1
    if design != "cells":
        assert np.mean(np.array(over_cells) < 0.05) > 0.2  # as if the cells of a donor were independent


def test_errors_of_two_samples_are_those_of_welch():
    """The mean of one sample with the error of another in addition is the difference of the two, if the other has the mean 0."""
    rng = np.random.default_rng(0)
    values, others = rng.normal(size=(5, 8)) + 1, rng.normal(size=(5, 30)) * 3
    others -= others.mean(axis=1, keepdims=True)
    summaries = [
        stats.summarise(x.ravel(), np.repeat(np.arange(5), x.shape[1]), 6) for x in (values, others)
    ]  # the last group is empty
    found = stats.add_error(*summaries)
    expected = scipy_stats.ttest_ind(values, others, axis=1, equal_var=False)
    test = stats.t_test(found)
    np.testing.assert_allclose(test.score[:5], expected.statistic)
    np.testing.assert_allclose(test.pvalue[:5], expected.pvalue)
    np.testing.assert_allclose(np.stack([found.low, found.high])[:, :5], expected.confidence_interval(0.95))
    assert np.isnan([test.pvalue[5], found.low[5]]).all()


def test_principal_axes_hold_most_of_the_error():
    """They are orthogonal, along each the error is an eigenvalue of its covariance, and no other axis has a larger one."""
    _, cells, is_target = world(2, distance=1.0)
    width = cells.shape[1]
    covariance = sum(
        np.cov(places(cells[is_target == state]).T) / (is_target == state).sum() for state in (True, False)
    )
    eigenvalues = np.linalg.eigvalsh(covariance)[::-1]
    axes = stats.principal_axes(cells, is_target, width + 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(width), atol=1e-10)
    along = stats.contrast(axes, cells, is_target)
    np.testing.assert_allclose(along.sd**2 / along.n, eigenvalues, rtol=1e-3, atol=1e-6 * eigenvalues[0])
    np.testing.assert_allclose(np.abs((stats.principal_axes(cells, is_target, 2) * axes[:2]).sum(axis=1)), 1)
