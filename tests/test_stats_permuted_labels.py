"""Permuted labels against a loop over permutations, their level without an effect, and cases that cannot be permuted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kstest

from scgeneformer import stats


def world(seed: int, *, n: int = 60, n_groups: int = 40, width: int = 8, distance: float = 0.0, every: int = 2):
    """Cells of two states, `distance` apart, one in `every` cells of the target, and directions of groups, the last of which is missing."""
    rng = np.random.default_rng(seed)
    is_target = rng.permutation(np.arange(n) % every == 0)
    cells = rng.normal(size=(n, width)) + 3 + distance * is_target[:, None] * np.eye(width)[0]
    directions = rng.normal(size=(n_groups, width)) / 100
    directions[-1] = np.nan
    return directions, cells, is_target


def shifts(directions, cells, is_target):
    target, source = (cells[is_target == state].mean(0) for state in (True, False))
    target, source = target / np.linalg.norm(target), source / np.linalg.norm(source)
    return directions @ target, directions @ target - directions @ source


def test_equals_all_permutations():
    """Few cells have few labelings: mean and standard deviation of many permutations are those of all."""
    directions, cells, _ = world(0, n=8)
    is_target = np.arange(8) < 4
    found = stats.permuted_labels(directions, cells, is_target, n_permutations=4000, rng=np.random.default_rng(0))
    labelings = [np.isin(np.arange(8), chosen) for chosen in itertools.combinations(range(8), 4)]
    for observed, test, drawn in zip(
        shifts(directions, cells, is_target),
        (found.of_shift, found.of_contrast),
        zip(*(shifts(directions, cells, labels) for labels in labelings), strict=True),
        strict=True,
    ):
        expected = (observed - np.mean(drawn, axis=0)) / np.std(drawn, axis=0)
        np.testing.assert_allclose(test.score, expected, atol=0.08)
    np.testing.assert_allclose(found.shift, shifts(directions, cells, is_target)[0])
    np.testing.assert_allclose(found.contrast, shifts(directions, cells, is_target)[1])
    assert np.isnan(found.of_shift.pvalue[-1])


def test_holds_its_level():
    pvalues = []
    for seed in range(150):
        directions, cells, is_target = world(seed, n_groups=3)
        found = stats.permuted_labels(directions, cells, is_target, n_permutations=200, rng=np.random.default_rng(seed))
        pvalues.append((found.of_shift.pvalue[0], found.of_contrast.pvalue[0]))
    for of_one in np.array(pvalues).T:
        assert np.mean(of_one < 0.05) <= 0.1
        assert kstest(of_one, "uniform").pvalue > 1e-3


def test_finds_what_there_is():
    """The group that points along the difference of the states is the one that is found."""
    directions, cells, is_target = world(0, distance=4.0)
    directions[0] = np.eye(8)[0] / 100
    found = stats.permuted_labels(directions, cells, is_target, rng=np.random.default_rng(0))
    assert found.of_contrast.score[0] == np.nanmax(found.of_contrast.score)
    assert found.of_contrast.pvalue[0] < 1e-4


def test_labels_stay_within_donors():
    """Donors differ, with states in equal parts: permutation across donors adds their differences as noise, permutation within donors does not."""
    rng = np.random.default_rng(0)
    donor, is_target = np.repeat(np.arange(4), 10), np.tile([True, False], 20)
    cells = rng.normal(size=(40, 8)) * 0.05 + 3 + 3 * rng.normal(size=(4, 8))[donor]
    directions = rng.normal(size=(20, 8))
    across, within = (
        stats.permuted_labels(directions, cells, is_target, blocks=blocks, rng=np.random.default_rng(0))
        for blocks in (None, donor)
    )
    assert np.median(np.abs(within.of_contrast.score)) > 5 * np.median(np.abs(across.of_contrast.score))
    shuffled = rng.permutation(40)
    again = stats.permuted_labels(
        directions, cells[shuffled], is_target[shuffled], blocks=donor[shuffled], rng=np.random.default_rng(1)
    )
    np.testing.assert_allclose(again.of_contrast.score, within.of_contrast.score, atol=0.5)


def test_donors_of_one_state_each_cannot_be_permuted():
    directions, cells, is_target = world(0)
    found = stats.permuted_labels(
        directions, cells, is_target, blocks=is_target.astype(int), rng=np.random.default_rng(0), n_permutations=20
    )
    assert np.isnan(found.of_contrast.pvalue).all()


@pytest.mark.parametrize("summary", [np.mean, np.median])
def test_centroids_are_what_they_are_said_to_be(summary):
    directions, cells, is_target = world(3)
    found = stats.permuted_labels(
        directions, cells, is_target, summary=summary, n_permutations=2, rng=np.random.default_rng(0)
    )
    target = summary(cells[is_target], axis=0)
    np.testing.assert_allclose(found.shift, directions @ target / np.linalg.norm(target))
