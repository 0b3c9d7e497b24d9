from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from scgeneformer import evaluation
from scgeneformer.evaluation._balance import Balance

SIZES = st.sampled_from(
    [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.5, 0.0, 0.5), (0.9, 0.1, 0.0), (0.2, 0.4, 0.4)]
)


def names_of(split: evaluation.Split, n: int) -> np.ndarray:
    sets = np.full(n, -1)
    for s, name in enumerate(("train", "validation", "test")):
        sets[getattr(split, name)] = s
    return sets


def cut(labels, sizes, **options) -> evaluation.Split:
    return evaluation.split(labels, train_size=sizes[0], validation_size=sizes[1], test_size=sizes[2], **options)


@settings(deadline=None, max_examples=60)
@given(members=st.lists(st.integers(2, 60), min_size=2, max_size=8), sizes=SIZES, seed=st.integers(0, 99))
def test_each_set_gets_its_share_of_every_class(members, sizes, seed) -> None:
    labels = np.random.default_rng(seed).permutation(
        np.concatenate([np.repeat(np.arange(len(members)), members), [-1] * 9])
    )
    split = cut(labels, sizes, rng=seed)
    sets = names_of(split, len(labels))
    np.testing.assert_array_equal(sets >= 0, labels >= 0)
    used = np.flatnonzero(sizes)
    for code, n in enumerate(members):
        table = np.bincount(sets[labels == code], minlength=3)
        assert table[0] >= 1
        if n >= len(used):
            assert (table[used] >= 1).all()
            enough = n * np.array(sizes)[used].min() >= 1  # no share had to be raised to one member
            if enough:
                assert np.abs(table - n * np.array(sizes)).max() < 1 + 1e-6
        assert table[np.array(sizes) == 0].sum() == 0
    if min(members) * np.array(sizes)[used].min() >= 1:
        assert np.abs(np.bincount(sets[sets >= 0], minlength=3) - sum(members) * np.array(sizes)).max() < 3


@settings(deadline=None, max_examples=40)
@given(n_groups=st.integers(3, 15), n_classes=st.integers(2, 5), sizes=SIZES, seed=st.integers(0, 999))
def test_no_group_is_in_two_sets_and_every_class_is_trained_on(n_groups, n_classes, sizes, seed) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, 120)
    labels = rng.integers(-1, n_classes, 120)
    labels[rng.random(120) < 0.5] = 0  # rare classes are in few groups
    alone = any(len(set(groups[labels == c])) == 1 for c in range(n_classes))
    try:
        split = cut(labels, sizes, groups=groups, rng=seed)
    except ValueError:
        assert alone or len(set(groups[labels >= 0])) < np.sum(np.array(sizes) > 0)
        return
    evaluation.check_disjoint(groups, split)
    sets = names_of(split, 120)
    np.testing.assert_array_equal(sets >= 0, labels >= 0)
    assert set(np.unique(sets[sets >= 0])) == set(np.flatnonzero(sizes))
    assert set(labels[split.train]) == set(labels[labels >= 0])


def test_groups_of_equal_size_and_content_are_split_exactly() -> None:
    groups = np.repeat([f"donor{i}" for i in range(10)], 30)
    labels = np.tile(np.arange(3), 100)
    split = evaluation.split(labels, groups=groups)
    assert [len(s) for s in (split.train, split.validation, split.test)] == [240, 30, 30]


def test_rounding_of_classes_does_not_add_up() -> None:
    """Of 15 members, 1.5 belong to validation and test each: half of the classes give one more to either."""
    split = evaluation.split(np.repeat(np.arange(20), 15))
    assert [len(s) for s in (split.train, split.validation, split.test)] == [240, 30, 30]


@pytest.mark.parametrize("seed", range(8))
def test_few_assignments_of_groups_are_better(seed: int) -> None:
    """Compared with all assignments: none leaves out fewer classes, and few of these are closer to the sizes."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(7), rng.integers(5, 40, 7))
    labels = np.where(rng.random(len(groups)) < 0.9, groups % 2, rng.integers(0, 4, len(groups)))
    counts = np.zeros((7, 4))
    np.add.at(counts, (groups, labels), 1)
    sizes = np.array([0.6, 0.2, 0.2])
    totals = np.append(counts.sum(axis=0), counts.sum())

    def judge(sets: np.ndarray) -> tuple[int, float]:
        table = np.stack([counts[sets == s].sum(axis=0) for s in range(3)])
        if not table[0].all() or not table.any(axis=1).all():
            return 99, np.inf
        share = np.column_stack([table, table.sum(axis=1)]) / totals
        return int(np.sum(table == 0)), float(np.sum((share - sizes[:, None]) ** 2))

    every = sorted(judge(np.array(sets)) for sets in itertools.product(range(3), repeat=7))
    sets = names_of(cut(labels, sizes, groups=groups, rng=seed), len(groups))
    found = judge(np.array([sets[groups == g][0] for g in range(7)]))
    assert found[0] == every[0][0]
    possible = [away for left_out, away in every if left_out == found[0]]
    assert found[1] <= possible[len(possible) // 50] + 1e-9


def test_a_group_that_alone_has_a_class_is_trained_on_and_others_test_what_they_can() -> None:
    labels = np.concatenate([np.tile([0, 1], 40), [2, 2]])
    groups = np.concatenate([np.repeat(np.arange(8), 10), [3, 3]])
    for seed in range(20):
        split = evaluation.split(labels, groups=groups, rng=seed)
        assert set(labels[split.train]) == {0, 1, 2}
        assert set(labels[split.test]) == {0, 1} == set(labels[split.validation])


def test_groups_of_one_class_each_leave_no_class_out() -> None:
    """Donors of a case-control study: each is all disease or all healthy."""
    labels = np.repeat([0, 0, 0, 0, 1, 1, 1, 1], 25)
    groups = np.repeat(np.arange(8), 25)
    for seed in range(20):
        split = evaluation.split(labels, groups=groups, train_size=0.5, validation_size=0.25, test_size=0.25, rng=seed)
        assert {len(set(labels[s])) for s in (split.train, split.validation, split.test)} == {2}


def test_continuous_labels_are_split_at_random_by_their_number() -> None:
    labels = np.random.default_rng(0).normal(size=110)
    labels[:10] = np.nan
    split = evaluation.split(labels)
    assert [len(s) for s in (split.train, split.validation, split.test)] == [80, 10, 10]
    assert min(map(min, (split.train, split.validation, split.test))) >= 10
    assert evaluation.split(labels, groups=np.arange(110) // 10).balance is None


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    labels = np.tile([0, 1], 50)
    a, b, c = (evaluation.split(labels, rng=seed).test for seed in (1, np.random.default_rng(1), 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("by_group", [False, True])
def test_balance_takes_a_better_split_than_chance_and_reports_scipys_p(by_group: bool) -> None:
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(24), 10)
    labels = rng.integers(0, 2, 240)
    units = np.arange(24) if by_group else np.arange(240)
    age, sex = rng.normal(size=len(units)), rng.choice(["F", "M"], len(units))
    covariates = pd.DataFrame({"age": age, "sex": sex})
    if by_group:
        covariates = covariates.iloc[donor].reset_index(drop=True)
        covariates["age"] += np.tile([9.0] + 9 * [-1.0], 24) * np.repeat(rng.random(24), 10)  # with the same means
    options = {"groups": donor} if by_group else {}
    split = evaluation.split(labels, balance=covariates, **options)
    unit_of = donor if by_group else np.arange(240)
    sets = names_of(split, 240)
    set_of = np.array([sets[unit_of == u][0] for u in units])
    numeric = scipy_stats.kruskal(*(age[set_of == s] for s in range(3))).pvalue
    table = pd.crosstab(sex, set_of)
    np.testing.assert_allclose(
        split.balance[["age", "sex"]],
        [numeric, scipy_stats.chi2_contingency(table, correction=False).pvalue],
        rtol=1e-9,
    )
    by_chance = []
    for seed in range(30):
        chance = evaluation.split(labels, rng=seed, **options)
        at = names_of(chance, 240)
        at = np.array([at[unit_of == u][0] for u in units])
        by_chance.append(Balance(pd.DataFrame({"age": age, "sex": sex})).pvalues(at, 3).min())
    assert split.balance.min() > np.max(by_chance)


def test_pvalues_of_covariates_with_ties_missing_values_and_constants_are_scipys() -> None:
    rng = np.random.default_rng(1)
    sets = rng.integers(0, 3, 200)
    age = np.round(rng.normal(size=200) + 0.3 * sets)
    age[:20] = np.nan
    site = pd.Series(rng.choice(["a", "b", "c"], 200))
    site[:30] = None
    frame = pd.DataFrame({"age": age, "site": pd.Categorical(site), "one": 1.0, "same": "x", "flag": sets > 0})
    p = dict(zip(frame, Balance(frame).pvalues(sets, 3), strict=True))
    known = ~np.isnan(age)
    expected = scipy_stats.kruskal(*(age[known & (sets == s)] for s in range(3))).pvalue
    np.testing.assert_allclose(p["age"], expected, rtol=1e-9)
    expected = scipy_stats.chi2_contingency(pd.crosstab(site[30:], sets[30:]), correction=False).pvalue
    np.testing.assert_allclose(p["site"], expected, rtol=1e-9)
    assert p["one"] == p["same"] == 1
    assert p["flag"] < 1e-20


def test_check_disjoint_names_what_is_shared() -> None:
    groups = np.array(["d1", "d1", "d2", "d3", "d3"])
    with pytest.raises(ValueError, match="train and test: d1"):
        evaluation.check_disjoint(groups, evaluation.Split([0], [3], [1, 2]))
    with pytest.raises(ValueError, match="validation and test: d3"):
        evaluation.check_disjoint(groups, evaluation.Split([0, 1], [3], [4]))
    evaluation.check_disjoint(groups, evaluation.Split([1, 0], [2], [4, 3]))
    with pytest.raises(ValueError, match="more than once"):
        evaluation.Split([0, 1], [1], [2])


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ([0, 1] * 20, {"train_size": 0.8, "test_size": 0.3}, "sum to 1"),
        ([0, 1] * 20, {"train_size": 1.2, "test_size": -0.3}, "0 or more"),
        ([0, 1] * 20, {"train_size": 0, "test_size": 0.9}, "train on"),
        ([-1] * 20, {}, "Nothing is labelled"),
        ([np.nan] * 20, {}, "Nothing is labelled"),
        ([1, 1, -1, 1], {"classes": ["A", "B"]}, "3 labelled items are of class 'B'"),
        ([0] * 20 + [1] * 20 + [2], {"classes": "ABC"}, "single member.*'C'"),
        ([0, 1] * 20, {"groups": ["a", "b"] * 20}, "2 groups cannot be split into 3 sets: at least 3 groups"),
        ([0, 1] * 20, {"groups": ["a", None] * 20}, "20 labelled items have no group"),
        ([0, 1] * 20, {"groups": ["a"] * 3}, "40 labels but 3 groups"),
        ([0, 1, 2] * 20, {"groups": ["a", "b", "c"] * 20, "classes": ["X", "Y", "Z"]}, "one group only.*'X', 'Y', 'Z'"),
        ([0, 1] * 20, {"balance": pd.DataFrame({"a": [1]})}, "balance has shape"),
        (np.zeros((4, 2), dtype=int), {}, "one dimension"),
        ([0.1, 0.2], {}, "2 labelled items cannot be split into 3 sets"),
    ],
)
def test_bad_input(labels, options, match) -> None:
    with pytest.raises(ValueError, match=match):
        evaluation.split(np.array(labels), **options)
