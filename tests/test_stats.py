from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.mixture import GaussianMixture
from statsmodels.stats.multitest import multipletests

from scgeneformer import stats

N_GROUPS = 9  # the last one stays empty


@pytest.fixture(params=["distinct", "tied"])
def sample(request) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    groups = rng.choice(N_GROUPS - 1, 400, p=np.array([1, 1, 2, 4, 8, 16, 32, 64]) / 128)
    groups[:8] = np.arange(8)
    values = rng.normal(size=400) + 0.2 * groups
    return (values if request.param == "distinct" else np.round(values, 1)), groups


def test_rank_sum_against_everything_is_scipys(sample) -> None:
    values, groups = sample
    result = stats.rank_sum(values, groups, N_GROUPS, pool="all")
    for g in range(N_GROUPS - 1):
        z, p = scipy_stats.ranksums(values[groups == g], values)
        np.testing.assert_allclose([result.score[g], result.pvalue[g]], [z, p], rtol=1e-12)
    assert np.isnan([result.score[-1], result.pvalue[-1]]).all()


def test_rank_sum_against_others_is_scipys(sample) -> None:
    values, groups = sample
    result = stats.rank_sum(values, groups, N_GROUPS)
    for g in range(N_GROUPS - 1):
        own, rest = values[groups == g], values[groups != g]
        p = scipy_stats.mannwhitneyu(own, rest, method="asymptotic", use_continuity=False).pvalue
        np.testing.assert_allclose(result.pvalue[g], p, rtol=1e-10)
        assert np.sign(result.score[g]) == np.sign(scipy_stats.ranksums(own, rest).statistic)


@pytest.mark.parametrize("ties", [True, False])
def test_rank_sum_against_null_is_scipys(sample, ties) -> None:
    values, groups = sample
    rng = np.random.default_rng(4)
    null_values, null_groups = rng.permutation(values)[:200] + 0.1, rng.integers(1, N_GROUPS, 200)
    result = stats.rank_sum_null(values, groups, null_values, null_groups, N_GROUPS, ties=ties)
    for g in range(1, N_GROUPS - 1):
        a, b = values[groups == g], null_values[null_groups == g]
        expected = (
            scipy_stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False)
            if ties
            else scipy_stats.ranksums(a, b)
        )
        np.testing.assert_allclose(result.pvalue[g], expected.pvalue, rtol=1e-10)
    assert np.isnan(result.pvalue[[0, -1]]).all()  # no values in the null, no values of its own


def test_equal_values_are_no_evidence() -> None:
    result = stats.rank_sum(np.full(12, 0.3), np.arange(12) % 3, 3)
    np.testing.assert_array_equal(result.score, 0)
    np.testing.assert_array_equal(result.pvalue, 1)


def test_a_single_group_has_no_pool() -> None:
    assert np.isnan(stats.rank_sum(np.arange(5.0), np.zeros(5, int), 1).pvalue).all()


def test_no_values_at_all() -> None:
    nothing, no_groups = np.empty(0), np.empty(0, dtype=int)
    assert np.isnan(stats.rank_sum(nothing, no_groups, 2).pvalue).all()
    n, mean = stats.group_means(nothing, no_groups, 2)
    np.testing.assert_array_equal(n, 0)
    assert np.isnan(mean).all()


values_and_groups = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(values_and_groups, st.randoms(use_true_random=False), st.sampled_from(["others", "all"]))
def test_rank_sum_laws(pairs, random, pool) -> None:
    """Order does not matter; a rising transformation changes nothing; negation turns the scores around."""
    values, groups = np.array(pairs, dtype=float).T
    groups = groups.astype(int)
    order = list(range(len(values)))
    random.shuffle(order)
    base = stats.rank_sum(values, groups, 5, pool=pool)
    for other, sign in [
        (stats.rank_sum(values[order], groups[order], 5, pool=pool), 1),
        (stats.rank_sum(values**3, groups, 5, pool=pool), 1),
        (stats.rank_sum(-values, groups, 5, pool=pool), -1),
    ]:
        np.testing.assert_allclose(other.score, sign * base.score, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.pvalue, base.pvalue, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(values_and_groups)
def test_two_groups_mirror_each_other(pairs) -> None:
    values, groups = np.array(pairs, dtype=float).T
    result = stats.rank_sum(values, groups.astype(int) % 2, 2)
    np.testing.assert_allclose(result.score[0], -result.score[1], atol=1e-12)


def test_donor_test_is_scipys_over_donors() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"gene": rng.integers(0, 6, 500), "donor": rng.integers(0, 4, 500), "x": rng.normal(size=500)})
    frame = frame[~((frame.gene == 5) & (frame.donor != 2))]  # gene 5 in one donor only
    frame = frame[~((frame.gene == 4) & (frame.donor == 1))]
    result, n_donors = stats.donor_test(frame.x.to_numpy(), frame.gene.to_numpy(), frame.donor.to_numpy(), 7, 4)
    for gene in range(5):
        differences = [
            d.x[d.gene == gene].mean() - d.x[d.gene != gene].mean()
            for _, d in frame.groupby("donor")
            if (d.gene == gene).any()
        ]
        expected = scipy_stats.ttest_1samp(differences, 0)
        np.testing.assert_allclose([result.score[gene], result.pvalue[gene]], expected, rtol=1e-10)
    np.testing.assert_array_equal(n_donors, [4, 4, 4, 4, 3, 1, 0])
    assert np.isnan(result.pvalue[5:]).all()


def test_cells_of_one_donor_do_not_count_as_replicates() -> None:
    """Donors that shift at random look significant over cells and are not over donors."""
    rng = np.random.default_rng(1)
    n_cells, n_genes, donors = 400, 60, np.arange(400) % 4
    donor_effect = rng.normal(size=(4, n_genes))
    x = donor_effect[donors] + 0.1 * rng.normal(size=(n_cells, n_genes))
    genes, cells = np.tile(np.arange(n_genes), n_cells), np.repeat(np.arange(n_cells), n_genes)
    by_cell = stats.rank_sum(x.ravel(), genes, n_genes)
    by_donor, _ = stats.donor_test(x.ravel(), genes, donors[cells], n_genes, 4)
    assert np.mean(by_cell.pvalue < 0.05) > 0.6
    assert np.mean(by_donor.pvalue < 0.05) < 0.15


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), min_size=1, max_size=50))
def test_benjamini_hochberg_is_statsmodels_and_monotone(pvalues) -> None:
    p = np.array(pvalues)
    fdr, tested = stats.benjamini_hochberg(p), ~np.isnan(p)
    np.testing.assert_array_equal(np.isnan(fdr), ~tested)
    if tested.any():
        np.testing.assert_allclose(fdr[tested], multipletests(p[tested], method="fdr_bh")[1], rtol=1e-10, atol=1e-300)
        assert (fdr[tested] >= p[tested] * (1 - 1e-12)).all()
        order = np.argsort(p[tested])
        assert (np.diff(fdr[tested][order]) >= 0).all()


def test_mixture_finds_both_components_in_any_order_and_unit() -> None:
    rng = np.random.default_rng(0)
    upper = rng.random(2000) < 0.2
    x = np.where(upper, rng.normal(5, 0.7, 2000), rng.normal(1, 0.5, 2000))
    mixture = stats.two_components(x)
    np.testing.assert_allclose(mixture.means, [1, 5], atol=0.1)
    np.testing.assert_allclose(mixture.sds, [0.5, 0.7], atol=0.06)
    np.testing.assert_allclose(mixture.weights, [0.8, 0.2], atol=0.03)
    assert np.mean(mixture.upper(x) == upper) > 0.995
    small = stats.two_components(rng.permutation(x) * 1e-5)
    np.testing.assert_allclose(small.means, mixture.means * 1e-5, rtol=1e-9)
    np.testing.assert_array_equal(small.upper(x * 1e-5), mixture.upper(x))


def test_mixture_is_sklearns_fit_and_posterior_between_the_means() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(-1, 1, 300), rng.normal(2, 0.5, 200)])
    mixture = stats.two_components(x)
    reference = GaussianMixture(2, random_state=0, tol=1e-3).fit(x[:, None])
    order = np.argsort(reference.means_[:, 0])
    np.testing.assert_allclose(mixture.means, reference.means_[order, 0], rtol=0.02)
    reference.means_, reference.weights_ = mixture.means[:, None], mixture.weights
    reference.precisions_cholesky_ = (1 / mixture.sds)[:, None, None]
    between = x[(x > mixture.means[0]) & (x < mixture.means[1])]
    np.testing.assert_array_equal(mixture.upper(between), reference.predict(between[:, None]) == 1)


def test_mixture_is_monotone() -> None:
    """A wide component has more density than a narrow one on both its sides, and yet gets only one of them."""
    mixture = stats.Mixture(means=np.array([0.0, 1.0]), sds=np.array([0.1, 10.0]), weights=np.array([0.5, 0.5]))
    answers = mixture.upper(np.linspace(-50, 50, 2001))
    assert not answers[0]
    assert answers[-1]
    assert (np.diff(answers.astype(int)) >= 0).all()


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0]])
def test_mixture_needs_two_values(x) -> None:
    with pytest.raises(ValueError, match="at least two different values"):
        stats.two_components(np.array(x))
