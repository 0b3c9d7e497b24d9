from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
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


def test_rank_sum_against_a_pool_is_scipys(sample) -> None:
    values, groups = sample
    pool = np.round(np.random.default_rng(1).normal(0.3, 1, 150), 1)
    result = stats.rank_sum_pool(values, groups, pool, N_GROUPS)
    for g in range(N_GROUPS - 1):
        own = values[groups == g]
        p = scipy_stats.mannwhitneyu(own, pool, method="asymptotic", use_continuity=False).pvalue
        np.testing.assert_allclose(result.pvalue[g], p, rtol=1e-10)
        assert np.sign(result.score[g]) == np.sign(scipy_stats.ranksums(own, pool).statistic)
    assert np.isnan([result.score[-1], result.pvalue[-1]]).all()
    assert np.isnan(stats.rank_sum_pool(values, groups, np.empty(0), N_GROUPS).pvalue).all()


def test_auroc_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.exponential(size=(60, 12)) * (rng.random((60, 12)) < 0.5), 1)
    values[:, 3] = 0
    positive = rng.random(60) < 0.4
    expected = [roc_auc_score(positive, column) for column in values.T]
    np.testing.assert_allclose(stats.auroc(sparse.csc_array(values), positive), expected, rtol=1e-12)
    assert np.isnan(stats.auroc(sparse.csc_array(values), np.ones(60, bool))).all()


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


def donor_test(values, groups, donors, n_groups, n_donors) -> tuple[stats.GroupTest, np.ndarray]:
    over = stats.summarise(*stats.donor_differences(values, groups, donors, n_groups, n_donors), n_groups)
    return stats.t_test(over), over.n


def test_donor_differences_are_tested_as_by_scipy() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"gene": rng.integers(0, 6, 500), "donor": rng.integers(0, 4, 500), "x": rng.normal(size=500)})
    frame = frame[~((frame.gene == 5) & (frame.donor != 2))]  # gene 5 in one donor only
    frame = frame[~((frame.gene == 4) & (frame.donor == 1))]
    result, n_donors = donor_test(frame.x.to_numpy(), frame.gene.to_numpy(), frame.donor.to_numpy(), 7, 4)
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


def test_donor_means_are_pandas() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"gene": rng.integers(0, 6, 40), "donor": rng.integers(0, 9, 40), "x": rng.normal(size=40)})
    values, groups = stats.donor_means(frame.x.to_numpy(), frame.gene.to_numpy(), frame.donor.to_numpy(), 7, 10)
    expected = frame.groupby(["donor", "gene"])["x"].mean()
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_array_equal(groups, expected.index.get_level_values("gene"))


def test_cells_of_one_donor_do_not_count_as_replicates() -> None:
    """Donors that shift at random look significant over cells and are not over donors."""
    rng = np.random.default_rng(1)
    n_cells, n_genes, donors = 400, 60, np.arange(400) % 4
    donor_effect = rng.normal(size=(4, n_genes))
    x = donor_effect[donors] + 0.1 * rng.normal(size=(n_cells, n_genes))
    genes, cells = np.tile(np.arange(n_genes), n_cells), np.repeat(np.arange(n_cells), n_genes)
    by_cell = stats.rank_sum(x.ravel(), genes, n_genes)
    by_donor, _ = donor_test(x.ravel(), genes, donors[cells], n_genes, 4)
    assert np.mean(by_cell.pvalue < 0.05) > 0.6
    assert np.mean(by_donor.pvalue < 0.05) < 0.15


def of_few_donors(rng, n_groups: int, n: int, d0: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of no effect, with variances from the scaled inverse chi-square distribution that moderation assumes."""
    variance = scale * d0 / rng.chisquare(d0, n_groups)
    return (rng.normal(size=(n_groups, n)) * np.sqrt(variance)[:, None]).ravel(), np.repeat(np.arange(n_groups), n)


def test_moderation_finds_the_prior_and_holds_the_level() -> None:
    d0, scale, n = 8.0, 2.5, 3
    values, groups = of_few_donors(np.random.default_rng(0), 20_000, n, d0, scale)
    plain = stats.summarise(values, groups, 20_000)
    moderated = stats.moderate(plain)
    found = moderated.df[0] - (n - 1)
    assert found == pytest.approx(d0, rel=0.1)
    common = (moderated.sd**2 * moderated.df - plain.sd**2 * plain.df) / found
    np.testing.assert_allclose(common, common[0])  # one for all
    assert common[0] == pytest.approx(scale, rel=0.05)
    pvalue = stats.t_test(moderated).pvalue
    for level in (0.001, 0.01, 0.05):
        assert abs(np.mean(pvalue < level) / level - 1) < 0.3
    assert np.mean((moderated.low < 0) & (0 < moderated.high)) == pytest.approx(0.95, abs=0.01)


def test_moderation_of_equal_variances_is_one_variance() -> None:
    """If variances spread less than by chance, all degrees of freedom are pooled, and no more than that."""
    values = np.tile([-1.0, 0.0, 1.0], 50) + np.repeat(np.arange(50.0), 3)
    moderated = stats.moderate(stats.summarise(values, np.repeat(np.arange(50), 3), 51))
    np.testing.assert_allclose(moderated.sd[:50], moderated.sd[0])
    np.testing.assert_array_equal(moderated.df[:50], 100)
    assert np.isnan(moderated.sd[50])
    assert moderated.df[50] == 0


def test_two_donors_that_agree_by_accident_are_no_discovery() -> None:
    values, groups = of_few_donors(np.random.default_rng(1), 200, 2, 10.0, 1.0)
    values[:2] = 0.5, 0.5 + 1e-6
    plain = stats.summarise(values, groups, 200)
    assert stats.t_test(plain).pvalue[0] < 1e-5
    assert stats.t_test(stats.moderate(plain)).pvalue[0] > 0.2


def test_a_single_variance_is_not_moderated() -> None:
    plain = stats.summarise(np.array([1.0, 2.0, 5.0]), np.array([0, 0, 1]), 2)
    assert stats.moderate(plain) is plain


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_intervals_and_t_test_are_scipys(sample, level: float) -> None:
    values, groups = sample
    summary = stats.summarise(values, groups, N_GROUPS, level=level)
    result = stats.t_test(summary)
    for g in range(N_GROUPS - 1):
        own = values[groups == g]
        assert summary.n[g] == len(own)
        np.testing.assert_allclose(summary.mean[g], own.mean(), rtol=1e-12)
        if len(own) == 1:
            assert np.isnan([summary.sd[g], summary.low[g], summary.high[g], result.score[g], result.pvalue[g]]).all()
            continue
        expected = scipy_stats.ttest_1samp(own, 0)
        np.testing.assert_allclose(summary.sd[g], own.std(ddof=1), rtol=1e-12)
        np.testing.assert_allclose([summary.low[g], summary.high[g]], expected.confidence_interval(level), rtol=1e-10)
        np.testing.assert_allclose([result.score[g], result.pvalue[g]], expected, rtol=1e-9)
    assert summary.n[-1] == 0
    assert np.isnan([summary.mean[-1], summary.sd[-1], summary.low[-1], result.pvalue[-1]]).all()


def test_t_test_of_equal_values() -> None:
    """All 0 is no evidence; all equal to another value gives scipy's limit, an infinite score."""
    result = stats.t_test(stats.summarise(np.array([0.0, 0.0, 0.5, 0.5]), np.array([0, 0, 1, 1]), 2))
    np.testing.assert_array_equal(result.score, [0, np.inf])
    np.testing.assert_array_equal(result.pvalue, [1, 0])


def test_small_spread_around_a_large_mean_is_kept() -> None:
    values = 1 + np.array([1.0, 2.0, 3.0]) * 2**-40
    np.testing.assert_allclose(stats.summarise(values, np.zeros(3, int), 1).sd, [2**-40], rtol=1e-6)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    x = np.random.default_rng(0).normal(3, 2, (4000, 6))
    summary = stats.summarise(x.ravel(), np.repeat(np.arange(4000), 6), 4000)
    assert abs(np.mean((summary.low <= 3) & (summary.high >= 3)) - 0.95) < 0.015


def test_matched_groups_are_the_nearest_in_ranks() -> None:
    rng = np.random.default_rng(0)
    detection, position = rng.lognormal(size=80), rng.random(80)
    near = stats.matched_groups(detection, position, 9)
    ranks = np.column_stack([scipy_stats.rankdata(detection), scipy_stats.rankdata(position)])
    distance = np.linalg.norm(ranks[:, None] - ranks[None], axis=2)
    np.testing.assert_allclose(np.sort(np.take_along_axis(distance, near, 1)), np.sort(distance)[:, :10])
    same = stats.matched_groups(np.log(detection), 7 - 3 * position, 9)  # unit and direction do not matter
    np.testing.assert_array_equal(np.sort(same), np.sort(near))


def test_many_groups_at_one_point_hold_themselves() -> None:
    near = stats.matched_groups(np.ones(50), np.ones(50), 4)
    assert (near == np.arange(50)[:, None]).any(axis=1).all()
    assert all(len(set(row)) == 5 for row in near)


def test_matched_test_is_a_loop() -> None:
    rng = np.random.default_rng(0)
    effects, near = rng.normal(size=60), stats.matched_groups(rng.random(60), rng.random(60), 20)
    result, percentile = stats.matched_test(effects, near)
    for g in range(60):
        others = effects[near[g][near[g] != g]]
        assert len(others) == 20
        # two samples of equal variance, of which one has a single value, are this prediction interval
        expected = scipy_stats.ttest_ind([effects[g]], others)
        np.testing.assert_allclose([result.score[g], result.pvalue[g]], expected, rtol=1e-9)
        np.testing.assert_allclose(percentile[g], scipy_stats.percentileofscore(others, effects[g], "mean"))


def test_matched_test_takes_away_what_detection_explains() -> None:
    """Effects increase with detection: the gene that exceeds its neighbours stands out, although others have larger effects.

    Within a neighbourhood effects still increase, so p is conservative; if they do not, p is uniform.
    """
    rng = np.random.default_rng(0)
    detection = rng.random(3000)
    effects = 10 * detection + rng.normal(0, 0.1, 3000)
    odd = np.argmin(detection)
    effects[odd] += 3
    near = stats.matched_groups(detection, rng.random(3000), 100)
    result, percentile = stats.matched_test(effects, near)
    assert effects[odd] < np.median(effects)
    assert stats.benjamini_hochberg(result.pvalue)[odd] < 0.05
    assert percentile[odd] == 100
    assert result.score[odd] > 3
    assert np.mean(result.pvalue <= 0.1) < 0.1
    assert abs(np.mean(stats.matched_test(rng.normal(size=3000), near)[0].pvalue <= 0.1) - 0.1) < 0.02


def test_a_single_null_value_tests_nothing() -> None:
    result, percentile = stats.draw_test(np.array([1.0, 2.0]), np.array([[1.0], [2.0]]))
    assert np.isnan([result.score, result.pvalue, percentile]).all()


@pytest.mark.parametrize("n_matched", [0, 5])
def test_matched_groups_need_enough_groups(n_matched: int) -> None:
    with pytest.raises(ValueError, match="n_matched"):
        stats.matched_groups(np.arange(5.0), np.arange(5.0), n_matched)


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


def test_official_mixture_is_sklearns_and_its_rule_a_loop() -> None:
    """Scikit-learn's order of components is arbitrary; where it is swapped, impact ends at the lower mean."""
    rng = np.random.default_rng(2)
    orders = set()
    for _ in range(10):
        x = np.concatenate([rng.normal(0.9, 0.02, 300), rng.normal(0.7, 0.05, 60)])
        rng.shuffle(x)
        mixture = stats.two_components(x, compat="official")
        reference = GaussianMixture(2, random_state=0).fit(x[:, None])
        np.testing.assert_array_equal(mixture.means, reference.means_[:, 0])
        first, second = reference.means_[:, 0]
        predicted = reference.predict(x[:, None])
        expected = [v <= second and (v < first or p == 0) for v, p in zip(x, predicted, strict=True)]
        np.testing.assert_array_equal(mixture.official_impact(x), expected)
        orders.add(bool(first < second))
        ours = stats.two_components(-x)  # effects, whose upper component has impact
        if first < second:
            assert np.mean(ours.upper(-x) == expected) > 0.99
        else:
            assert np.sum(ours.upper(-x)) > 1.5 * np.sum(expected)
    assert orders == {True, False}


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0, 2.0]])
def test_mixture_needs_two_values(x) -> None:
    with pytest.raises(ValueError, match="at least two different values"):
        stats.two_components(np.array(x))
