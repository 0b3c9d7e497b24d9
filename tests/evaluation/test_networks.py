"""Scores of edges against scikit-learn and short loops; rewired networks keep what they must."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from scgeneformer import evaluation
from scgeneformer.evaluation import CandidatePairs, RankedPairs

SOURCES, TARGETS = np.arange(3, 15), np.arange(40)


@pytest.fixture
def pairs():
    """Hubs among sources and targets; some pairs were not measured."""
    rng = np.random.default_rng(0)
    chance = np.outer(rng.random(12) ** 2, rng.random(40)) * 0.9
    measured = rng.random((12, 40)) < 0.9
    return CandidatePairs.of_matrix(rng.random((12, 40)) < chance, SOURCES, TARGETS, measured=measured)


@pytest.fixture
def unordered():
    rng = np.random.default_rng(1)
    is_edge = np.triu(rng.random((40, 40)) < 0.1, 1)
    return CandidatePairs.of_matrix(is_edge.T, TARGETS, TARGETS, directed=False)


def test_pairs_are_all_but_those_of_a_gene_with_itself(pairs, unordered):
    assert (pairs.source != pairs.target).all()
    assert (unordered.source < unordered.target).all()
    assert len(unordered.source) == 40 * 39 / 2
    whole = CandidatePairs.of_matrix(np.zeros((12, 40), bool), SOURCES, TARGETS)
    assert len(whole.source) == 12 * 39
    both = CandidatePairs.of_matrix(
        np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool), [0, 1, 2, 3], [0, 1, 2, 3], directed=False
    )
    assert both.is_edge.sum() == 3


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_areas_are_those_of_scikit_learn(pairs, ties, weighted):
    rng = np.random.default_rng(2)
    scores = pairs.is_edge + rng.normal(size=len(pairs.source))
    scores = scores.round() if ties else scores
    weights = rng.integers(0, 4, len(scores)) if weighted else None
    found = RankedPairs(scores).scores(pairs.is_edge, weights)
    assert found["auroc"] == pytest.approx(roc_auc_score(pairs.is_edge, scores, sample_weight=weights))
    precision = average_precision_score(pairs.is_edge, scores, sample_weight=weights)
    assert found["average_precision"] == pytest.approx(precision)
    rate = np.average(pairs.is_edge, weights=weights)
    assert found["ap_ratio"] == pytest.approx(precision / rate)


def test_first_pairs_by_hand():
    is_edge = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0], bool)
    found = RankedPairs(np.arange(10)[::-1]).scores(is_edge)
    assert found["epr"] == pytest.approx((2 / 3) / 0.3)  # two of the first three
    assert found["odds_ratio"] == pytest.approx((2.5 * 6.5) / (1.5 * 1.5))
    tied = RankedPairs(np.zeros(10)).scores(is_edge)
    assert tied["epr"] == pytest.approx(1)
    assert tied["auroc"] == 0.5
    assert RankedPairs(np.arange(10)).scores(np.zeros(10, bool)).isna().all()


@pytest.mark.parametrize("which", ["pairs", "unordered"])
def test_rewired_networks_keep_every_degree(which, request):
    candidates = request.getfixturevalue(which)
    drawn = evaluation.rewire(candidates, rng=3)
    assert (drawn & candidates.is_edge).sum() < 0.6 * candidates.is_edge.sum()
    ends = lambda edges: [np.bincount(x[edges], minlength=40) for x in (candidates.source, candidates.target)]
    before, after = ends(candidates.is_edge), ends(drawn)
    if which == "unordered":
        before, after = [sum(before)], [sum(after)]
    np.testing.assert_array_equal(after, before)


def test_rewired_networks_are_drawn_evenly():
    """Of the three perfect matchings of four genes each comes a third of the time."""
    one = CandidatePairs.of_matrix(
        np.array([[0, 1, 0, 0], [0] * 4, [0, 0, 0, 1], [0] * 4], bool), range(4), range(4), directed=False
    )
    rng = np.random.default_rng(0)
    found = [tuple(evaluation.rewire(one, rng=rng)) for _ in range(300)]
    counts = [found.count(network) for network in set(found)]
    assert len(counts) == 3
    assert min(counts) > 70


def test_degrees_of_the_other_half(pairs):
    """The score of a pair does not depend on the pair itself, nor on others in its half."""
    half = np.random.default_rng(5).random(len(pairs.source)) < 0.5
    found = evaluation.degree_of_other_half(pairs, rng=5)
    for i in range(0, len(half), 37):
        other = pairs.is_edge & (half != half[i])
        n = [(other & (x == x[i])).sum() for x in (pairs.source, pairs.target)]
        assert found[i] == pytest.approx(np.log1p(n).sum())
    assert roc_auc_score(pairs.is_edge, found) > 0.6


def test_a_table_of_predictors(pairs):
    rng = np.random.default_rng(4)
    good = pairs.is_edge + rng.normal(size=len(pairs.source))
    partly = np.where(pairs.target < 20, good, np.nan)
    degree = evaluation.degree_of_other_half(pairs)
    table = evaluation.score_pairs(
        pairs, {"good": good, "partly": partly, "degree": degree}, n_bootstrap=100, n_permutations=50
    )
    row = table.loc["good"]
    assert row["auroc"] == pytest.approx(roc_auc_score(pairs.is_edge, good))
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert row["base_rate"] == pytest.approx(pairs.is_edge.mean())
    assert row["p_auroc"] == pytest.approx(1 / 51)
    own = [(pairs.is_edge[pairs.source == gene], good[pairs.source == gene]) for gene in SOURCES]
    own = [(edges, scores) for edges, scores in own if edges.sum() >= 10]
    assert row["n_sources"] == len(own) > 0
    assert row["source_auroc"] == pytest.approx(np.median([roc_auc_score(*part) for part in own]))
    assert table.loc["partly", "n_pairs"] == (pairs.target < 20).sum()
    assert table.loc["partly", "auroc"] == pytest.approx(
        roc_auc_score(pairs.is_edge[pairs.target < 20], good[pairs.target < 20])
    )
    assert table.loc["degree", "null_auroc"] > 0.6  # networks with the same hubs are told as well


def test_intervals_draw_sources_and_both_genes_of_unordered_pairs(pairs, unordered):
    n_times = np.zeros(40, int)
    n_times[[4, 5]] = 2, 1
    weights = pairs.weights(n_times)
    assert set(pairs.source[weights > 0]) == {4, 5}
    of_both = unordered.weights(n_times)
    assert of_both.sum() == 2
    assert (unordered.source[of_both > 0], unordered.target[of_both > 0]) == (4, 5)
