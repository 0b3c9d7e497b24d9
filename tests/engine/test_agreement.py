"""The agreement that a screen reports, compared with its true agreement."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from scgeneformer import engine
from scgeneformer.engine.perturb import Perturbation
from scgeneformer.engine.perturb._agreement import Sample, agreement, compare, rank_correlation

STATES = np.random.default_rng(2).normal(size=(2, 16))
OPTIONS = {"pooling": "mean", "n_special": 4, "device": "cpu", "precision": "float32"}


def found_in(outcome, cells, values):
    """Whether each value occurs in its cell."""
    return all(
        np.abs(outcome.values[outcome.cells == cell] - row).max(1).min() < 1e-6
        for cell, row in zip(cells, values, strict=True)
    )


@pytest.mark.parametrize(
    "perturbation",
    [
        Perturbation("delete", genes=np.arange(4, 60)),
        Perturbation("delete", genes=np.arange(4, 60), positions="kept"),
        Perturbation("activate", genes=np.arange(4, 60), ranks=3),
        Perturbation("overexpress", genes=np.arange(4, 60, 2), absent=True),
    ],
)
def test_exact_values_are_those_of_an_exact_run(small, random_cells, perturbation):
    estimates = engine.perturb.run(small, random_cells, perturbation, states=STATES, method="screen", **OPTIONS)
    exact = engine.perturb.run(small, random_cells, perturbation, states=STATES, **OPTIONS)
    sample = compare(
        small,
        random_cells,
        [(perturbation, estimates)],
        states=STATES,
        n_cells=5,
        rng=np.random.default_rng(0),
        **OPTIONS,
    )
    assert len(np.unique(sample.cells)) == 5
    assert np.bincount(sample.cells).max() <= 8
    assert found_in(exact, sample.cells, sample.exact)
    assert found_in(estimates, sample.cells, sample.estimated)


def test_perturbations_of_one_cell_count_together(small, random_cells):
    """A few listed genes, and random genes in addition."""
    long = random_cells[(random_cells > 0).sum(1) > 25]
    parts = [np.arange(4, 20), np.arange(20, 60)]
    screened = []
    for genes in parts:
        perturbation = Perturbation("delete", genes=genes)
        outcome = engine.perturb.run(small, long, perturbation, states=STATES, method="screen", **OPTIONS)
        screened.append((perturbation, outcome))
    whole = Perturbation("delete", genes=np.arange(4, 60))
    exact = engine.perturb.run(small, long, whole, states=STATES, **OPTIONS)
    sample = compare(small, long, screened, states=STATES, n_cells=3, rng=np.random.default_rng(0), **OPTIONS)
    assert np.bincount(sample.cells).max() == 8
    assert found_in(exact, sample.cells, sample.exact)
    few = [
        (
            screened[0][0],
            engine.perturb.run(small, long[:, :8], screened[0][0], states=STATES, method="screen", **OPTIONS),
        )
    ]
    none = compare(small, long[:, :8], few, states=STATES, n_cells=3, rng=np.random.default_rng(0), **OPTIONS)
    assert len(none.cells) == 0


def test_the_correlation_has_no_bias():
    """Samples of a population of 400. The correlation within the sample itself is too low."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400) * 0.3
    truth = spearmanr(x, y).statistic
    draws = [rng.permutation(400)[:8] for _ in range(2000)]
    plain = np.mean([spearmanr(x[i], y[i]).statistic for i in draws])
    corrected = np.mean([rank_correlation(x[i], y[i]) for i in draws])
    assert plain < truth - 0.02
    assert corrected == pytest.approx(truth, abs=0.004)
    assert np.isnan(rank_correlation(np.zeros(8), np.arange(8.0)))


@pytest.mark.parametrize("n_cells", [6, 24])
@pytest.mark.parametrize("noise", [0.03, 0.1])
def test_intervals_cover(n_cells, noise):
    """Cells differ in the quality of their estimates. The interval from a few contains the mean over all in about 90 % of the runs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 200))
    slope = rng.normal(1.1, 0.1, size=(100, 1))
    y = slope * x + rng.gamma(2.0, noise, size=(100, 1)) * rng.normal(size=x.shape)
    truth = np.mean([spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    centred = [v - v.mean(1, keepdims=True) for v in (x, y)]
    true_slope = (centred[0] * centred[1]).sum() / (centred[0] ** 2).sum()
    inside = []
    for _ in range(100):
        cells = rng.permutation(100)[:n_cells]
        genes = [rng.permutation(200)[:8] for _ in cells]
        rows = np.repeat(np.arange(n_cells), 8)
        estimated, exact = (
            np.concatenate([v[c, g] for c, g in zip(cells, genes, strict=True)])[:, None] for v in (x, y)
        )
        row = agreement([Sample(rows, estimated, exact)]).iloc[0]
        inside.append(
            [row["spearman_low"] <= truth <= row["spearman_high"], row["slope_low"] <= true_slope <= row["slope_high"]]
        )
    assert (np.mean(inside, axis=0) > 0.85).all()


def test_samples_of_groups_are_joined():
    rng = np.random.default_rng(0)
    one, other = (Sample(np.repeat([0, 3], 8), rng.normal(size=(16, 2)), rng.normal(size=(16, 2))) for _ in range(2))
    joined = agreement([one, other])
    assert joined["n_cells"].tolist() == [4, 4]
    alone = [agreement([sample])["spearman"] for sample in (one, other)]
    np.testing.assert_allclose(joined["spearman"], (alone[0] + alone[1]) / 2)
    same = agreement([Sample(one.cells, one.estimated, one.estimated * 2)])
    np.testing.assert_allclose(same[["spearman", "slope"]], [[1, 2], [1, 2]])
    nothing = agreement([Sample(one.cells, one.estimated, np.zeros_like(one.exact))])
    assert nothing["spearman"].isna().all()
    alone = agreement([Sample(np.zeros(8, int), one.estimated[:8], one.exact[:8])])
    assert alone["spearman_low"].isna().all()
