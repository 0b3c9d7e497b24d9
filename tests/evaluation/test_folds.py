from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer import evaluation


@settings(deadline=None, max_examples=60)
@given(members=st.lists(st.integers(5, 40), min_size=2, max_size=6), n_folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_every_labelled_item_is_tested_once_and_classes_are_spread(members, n_folds, seed) -> None:
    labels = np.concatenate([np.repeat(np.arange(len(members)), members), [-1] * 7])
    labels = np.random.default_rng(seed).permutation(labels)
    fold = evaluation.folds(labels, n_folds, rng=seed)
    np.testing.assert_array_equal(fold == -1, labels == -1)
    assert np.ptp(np.bincount(fold[fold >= 0], minlength=n_folds)) <= 1
    for code in range(len(members)):
        assert np.ptp(np.bincount(fold[labels == code], minlength=n_folds)) <= 1


@settings(deadline=None, max_examples=30)
@given(n_groups=st.integers(6, 20), n_folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_groups_stay_together_and_folds_are_alike(n_groups, n_folds, seed) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 20)
    labels = rng.integers(0, 3, len(groups))
    fold = evaluation.folds(labels, n_folds, groups=groups, rng=seed)
    of_group = fold.reshape(n_groups, 20)
    assert (of_group == of_group[:, :1]).all()
    per_fold = np.bincount(of_group[:, 0], minlength=n_folds)
    assert per_fold.min() >= 1
    assert np.ptp(per_fold) <= 1
    for number in range(n_folds):
        assert set(labels[fold != number]) == {0, 1, 2}


def test_groups_of_one_class_each_are_spread_over_folds() -> None:
    labels = np.repeat([0, 0, 1, 1, 2, 2], 10)
    fold = evaluation.folds(labels, 2, groups=np.repeat(np.arange(6), 10))
    np.testing.assert_array_equal(np.bincount(fold), [30, 30])
    for number in range(2):
        assert set(labels[fold == number]) == {0, 1, 2}


def test_folds_are_of_like_size_whatever_classes_groups_have() -> None:
    labels = np.repeat(np.arange(5).repeat(2), 10)
    for seed in range(5):
        fold = evaluation.folds(labels, 5, groups=np.repeat(np.arange(10), 10), rng=seed)
        np.testing.assert_array_equal(np.bincount(fold), [20] * 5)


@pytest.mark.parametrize("seed", range(8))
def test_few_assignments_of_groups_are_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(9), rng.integers(5, 60, 9))
    labels = rng.integers(0, 2, len(groups))

    def unlike(fold: np.ndarray) -> float:
        shares = [np.mean(fold[kept] == 0) - 0.5 for kept in (labels == 0, labels == 1, labels >= 0)]
        return float(np.sum(np.square(shares)))

    every = sorted(unlike(np.array(of_group)[groups]) for of_group in itertools.product(range(2), repeat=9))
    assert unlike(evaluation.folds(labels, 2, groups=groups, rng=seed)) <= every[len(every) // 50] + 1e-9


def test_continuous_labels() -> None:
    labels = np.append(np.random.default_rng(0).normal(size=50), np.nan)
    fold = evaluation.folds(labels, 5)
    np.testing.assert_array_equal(np.bincount(fold[:-1]), [10] * 5)
    assert fold[-1] == -1
    assert np.bincount(evaluation.folds(labels[:-1], 5, groups=np.arange(50) // 5)).tolist() == [10] * 5


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ([0, 1] * 10, {"n_folds": 1}, "at least 2"),
        ([0] * 10 + [1] * 3, {"classes": ["A", "B"]}, r"fewer members than the 5 folds: 'B' \(3\)"),
        ([0, 1] * 10, {"groups": [1, 2, 3, 4] * 5}, "4 groups cannot be split into 5 folds"),
        ([0, 0, 1, 0, 0] * 4, {"groups": list(range(5)) * 4, "classes": "AB"}, "one group only.*'B'"),
        ([-1] * 10, {}, "Nothing is labelled"),
        ([2] * 10, {}, "of class 2"),
    ],
)
def test_bad_input(labels, options, match) -> None:
    with pytest.raises(ValueError, match=match):
        evaluation.folds(np.array(labels), **{"n_folds": 5} | options)
