"""No gene and no family leaks, for any list of pairs; negatives are true negatives, with the degrees of the positives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scgeneformer.model.pairs._negatives import (
    degree_matched_negatives,
    negatives_of_fold,
    occurring,
    uniform_negatives,
)
from scgeneformer.model.pairs._pairs import pair_keys
from scgeneformer.model.pairs._splits import SPLITS, pair_folds

N_GENES = 40


@st.composite
def tables(draw):
    """Different pairs of genes, families, and whether the pairs are directed."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    directed = draw(st.booleans())
    pairs = rng.integers(0, N_GENES, (draw(st.integers(60, 150)), 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = pairs[np.unique(pair_keys(pairs, N_GENES, directed=directed), return_index=True)[1]]
    families = rng.integers(0, draw(st.sampled_from([15, 30, 10_000])), N_GENES)
    return rng.permutation(pairs), np.unique(families, return_inverse=True)[1], directed, draw(st.integers(2, 3))


def folds_of(table, split, rng=0):
    pairs, families, directed, n_folds = table
    try:
        return pair_folds(pairs, np.ones(len(pairs), np.int64), families, n_folds, split, directed=directed, rng=rng)
    except ValueError:  # too few to test or to learn from
        assume(False)


@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from(SPLITS))
def test_no_gene_or_family_leaks_and_no_pair_is_tested_twice(table, split):
    pairs, families, directed, _ = table
    folds = folds_of(table, split)
    tested = np.concatenate([fold.test for fold in folds])
    assert len(np.unique(tested)) == len(tested)
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        in_training = occurring(pairs[fold.train], N_GENES)
        assert not (in_training & fold.unseen).any()
        seen_families = set(families[in_training])
        if split == "both_unseen":
            assert not seen_families & set(families[pairs[fold.test]].ravel())
        if split == "one_unseen":
            assert (in_training[pairs[fold.test]].sum(axis=1) == 1).all()
            unseen = pairs[fold.test][~in_training[pairs[fold.test]]]
            assert not seen_families & set(families[unseen])
            if directed:
                assert not in_training[pairs[fold.test, 0]].any()
    if split == "random":
        assert len(tested) == len(pairs)


@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from(SPLITS), st.sampled_from(["degree", "uniform"]))
def test_negatives_of_a_fold_are_of_its_genes_and_of_no_known_pair(table, split, kind):
    pairs, _, directed, _ = table
    known = set(pair_keys(pairs, N_GENES, directed=directed))
    for fold in folds_of(table, split):
        train, test = negatives_of_fold(
            kind,
            pairs,
            fold,
            sided=split == "one_unseen",
            n_genes=N_GENES,
            directed=directed,
            rng=np.random.default_rng(0),
        )
        keys = [pair_keys(part, N_GENES, directed=directed) for part in (train, test)]
        for part, of_part in zip((train, test), keys, strict=True):
            assert (part[:, 0] != part[:, 1]).all()
            assert not known & set(of_part)
            assert len(set(of_part)) == len(of_part)
        assert not set(keys[0]) & set(keys[1])
        assert len(train) <= len(fold.train)
        assert len(test) <= len(fold.test)
        assert not fold.unseen[train].any()
        n_unseen = {"both_unseen": 2, "one_unseen": 1, "random": 0}[split]
        assert (fold.unseen[test].sum(axis=1) == n_unseen).all()
        if split == "one_unseen":
            assert (occurring(pairs[fold.train], N_GENES)[test].sum(axis=1) == 1).all()
            if directed:
                assert fold.unseen[test[:, 0]].all()


@pytest.mark.parametrize(("directed", "sided"), [(False, False), (True, True), (False, True)])
def test_every_gene_is_in_as_many_degree_matched_negatives_as_positives(directed, sided):
    rng, n = np.random.default_rng(0), 300
    weights = 1 / np.arange(1, n + 1) ** 0.7  # hubs
    pairs = rng.choice(n, (900, 2), p=weights / weights.sum())
    if sided and not directed:
        pairs[:, 1] += n  # the sides have no gene in common
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    keys = pair_keys(pairs, 2 * n, directed=directed)
    pairs = pairs[np.unique(keys, return_index=True)[1]]
    negatives = degree_matched_negatives(pairs, keys, n_genes=2 * n, directed=directed, sided=sided, rng=rng)
    assert len(negatives) == len(pairs)
    ends = [(0,), (1,)] if sided else [(0, 1)]
    for end in ends:
        degrees = [np.bincount(part[:, end].ravel(), minlength=2 * n) for part in (pairs, negatives)]
        np.testing.assert_array_equal(*degrees)
    assert not set(keys) & set(pair_keys(negatives, 2 * n, directed=directed))


def test_uniform_negatives_are_spread_over_all_free_pairs():
    genes = np.arange(6)
    excluded = pair_keys(np.array([[0, 1], [2, 3]]), 6, directed=False)
    draws = [
        uniform_negatives(4, (genes, genes), excluded, n_genes=6, directed=False, rng=np.random.default_rng(seed))
        for seed in range(400)
    ]
    keys, counts = np.unique(pair_keys(np.concatenate(draws), 6, directed=False), return_counts=True)
    assert len(keys) == 13
    expected = 1600 / 13
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    everything = uniform_negatives(
        99, (genes, genes), excluded, n_genes=6, directed=False, rng=np.random.default_rng(0)
    )
    assert len(everything) == 13


def test_pairs_within_a_family_are_not_tested_more_often_than_others():
    """Of cross-family pairs one in `n_folds` is tested; of those within a family, which always share a group, all would be."""
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(400), 3)
    across = rng.integers(0, 1200, (4000, 2))
    across = across[families[across[:, 0]] != families[across[:, 1]]]
    within = np.stack([np.arange(1200), np.arange(1200) // 3 * 3 + (np.arange(1200) + 1) % 3], axis=1)
    pairs = np.concatenate([across, within])
    alike = families[pairs[:, 0]] == families[pairs[:, 1]]
    folds = pair_folds(pairs, np.ones(len(pairs), np.int64), families, 4, "both_unseen", directed=False)
    tested = np.concatenate([fold.test for fold in folds])
    assert alike[tested].mean() == pytest.approx(alike.mean(), abs=0.04)


def test_a_class_with_fewer_pairs_than_folds_is_named():
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    with pytest.raises(ValueError, match=r"fewer pairs than the 3 folds: 'up' \(1\). Use fewer folds \(n_folds=\)"):
        pair_folds(
            pairs,
            np.array([0, 0, 0, 1]),
            np.arange(5),
            3,
            "random",
            directed=False,
            classes=["down", "up"],
        )
    with pytest.raises(ValueError, match=r"Fold \d of split 'both_unseen' has .* n_folds="):
        pair_folds(pairs, np.ones(4, np.int64), np.arange(5), 2, "both_unseen", directed=False)
    with pytest.raises(ValueError, match=r"cannot be dealt to 2 folds by family: .*family=None"):
        pair_folds(pairs, np.ones(4, np.int64), np.zeros(5, np.int64), 2, "both_unseen", directed=False)
