"""How well estimates of a screen agree with exact values, measured on a sample of each run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from scgeneformer.engine._parts import map_cells

from ._enumerate import Edits, enumerate_edits
from ._measure import measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scgeneformer.nn import Backbone

    from ._enumerate import Perturbation
    from ._run import Outcome

N_GENES = 8  # of each cell in the sample
PRIOR = 0.05  # 1 - rho of a cell that is added to those of the sample


@dataclass(frozen=True)
class Sample:
    """Estimates and exact values of P perturbations.

    Attributes
    ----------
    cells
        int64 (P,), rows of the tokens.
    estimated, exact
        float64 (P, S).
    """

    cells: np.ndarray
    estimated: np.ndarray
    exact: np.ndarray


def compare(
    encoder: Backbone,
    tokens: np.ndarray,
    screened: Sequence[tuple[Perturbation, Outcome]],
    *,
    states: np.ndarray,
    n_cells: int,
    n_special: int,
    rng: np.random.Generator,
    **options: Any,
) -> Sample:
    """Measure some of the perturbations that were estimated: of `n_cells` cells, eight genes each, drawn at random.

    Parameters
    ----------
    encoder, tokens, states, n_special, **options
        As for `run`, by which the estimates were made.
    screened
        Perturbations of single genes, and what was estimated of them; of one cell all together count.
    n_cells
        Maximum number of cells. Cells with fewer than eight estimates are not drawn.
    rng
        Generator.
    """
    cells = np.concatenate([outcome.cells for _, outcome in screened]).astype(np.int64)
    what = np.concatenate([outcome.what for _, outcome in screened]).astype(np.int64)
    values = np.concatenate([outcome.values for _, outcome in screened]).astype(np.float64)
    part = np.repeat(np.arange(len(screened)), [len(outcome.cells) for _, outcome in screened])
    n_estimates = np.bincount(cells, minlength=len(tokens))
    chosen = rng.permutation(np.flatnonzero(n_estimates >= N_GENES))[:n_cells]
    pairs = np.concatenate(
        [np.empty(0, np.int64), *(rng.permutation(np.flatnonzero(cells == cell))[:N_GENES] for cell in np.sort(chosen))]
    )
    exact = np.empty((len(pairs), values.shape[1]))

    def drawn() -> Iterator[tuple[int, tuple[Edits, Perturbation]]]:
        for number, (perturbation, _) in enumerate(screened):
            some = pairs[part[pairs] == number]
            if len(some):
                yield number, (_edits(encoder, tokens, perturbation, cells[some], what[some], n_special), perturbation)

    options |= {"n_special": n_special}
    placing = {name: options.get(name, "auto") for name in ("device", "precision")}
    for number, measured in map_cells(_exact, drawn(), encoder, states, options, **placing):
        exact[part[pairs] == number] = measured
    return Sample(cells[pairs], values[pairs], exact)


def _exact(
    encoder: Backbone, states: np.ndarray, options: dict[str, Any], edits: Edits, perturbation: Perturbation
) -> np.ndarray:
    return measure(encoder, edits, perturbation, states=states, **options)


def _edits(
    encoder: Backbone,
    tokens: np.ndarray,
    perturbation: Perturbation,
    cells: np.ndarray,
    what: np.ndarray,
    n_special: int,
) -> Edits:
    """The edits of these pairs of a cell and a gene, in their order."""
    rows, of = np.unique(cells, return_inverse=True)
    of_genes = replace(perturbation, genes=np.unique(what))
    every = enumerate_edits(tokens[rows], of_genes, n_special=n_special, max_length=encoder.config.max_length)
    place = {pair: i for i, pair in enumerate(zip(every.cells.tolist(), every.what.tolist(), strict=True))}
    at = np.array([place[pair] for pair in zip(of.tolist(), what.tolist(), strict=True)])
    fields = {name: getattr(every, name)[at] for name in ("cells", "what", "targets", "rows", "of")}
    return replace(every, **fields)


def agreement(samples: Sequence[Sample]) -> pd.DataFrame:
    """Agreement of estimates with exact values within cells, by state.

    Returns
    -------
    One row for each state: ``spearman``, the mean over cells of the rank correlation over the genes of a cell, estimated without bias from
    the genes that were drawn; ``slope`` of exact values on estimates within cells; each with its 90 % interval over cells, ``_low`` and
    ``_high``; ``n_cells`` and ``n_pairs``. NaN where nothing moves, and intervals of a single cell.

    Notes
    -----
    Correlations of cells have a long tail towards 0, which a dozen cells rarely show. The interval is therefore that of Student's t on the
    logarithm of 1 - rho; its lower end is made with one more cell, whose correlation is 0.95. It covers the mean over all cells in about nine of ten simulated runs
    or more (``tests/engine/test_agreement.py``; of real cells see ``benchmarks/judge_agreement.py``).
    """
    first = np.cumsum([0, *(int(sample.cells.max(initial=-1)) + 1 for sample in samples)])
    cells = np.concatenate([sample.cells + start for sample, start in zip(samples, first, strict=False)])
    estimated, exact = (np.concatenate([getattr(s, name) for s in samples]) for name in ("estimated", "exact"))
    groups = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
    rows = []
    for x, y in zip(estimated.T, exact.T, strict=True):
        row = _spearman([rank_correlation(x[group], y[group]) for group in groups])
        row |= _slope([(x[group] - x[group].mean(), y[group] - y[group].mean()) for group in groups])
        rows.append(row | {"n_cells": len(groups), "n_pairs": len(cells)})
    return pd.DataFrame(rows)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation of a population, without bias from a random sample of it.

    The correlation of a sample of n is on average (3 tau + (n - 2) rho) / (n + 1), with Kendall's tau and Spearman's rho of the population
    (Hoeffding 1948): 0.90 where rho is 0.95 and n is 8.
    """
    n = len(x)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(((n + 1) * stats.spearmanr(x, y).statistic - 3 * stats.kendalltau(x, y).statistic) / (n - 2))


def _spearman(of_cells: list[float]) -> dict[str, float]:
    """Mean over cells."""
    distances = 1 - np.array(of_cells)[~np.isnan(of_cells)]
    value = min(1 - float(distances.mean()), 1.0) if len(distances) else np.nan
    if len(distances) < 2:
        return {"spearman": value, "spearman_low": np.nan, "spearman_high": np.nan}
    farthest, nearest = _ends(np.append(distances, PRIOR))[1], _ends(distances)[0]
    low, high = max(1 - farthest, -1.0), 1 - nearest
    return {"spearman": value, "spearman_low": min(low, value), "spearman_high": max(high, value)}


def _ends(distances: np.ndarray) -> tuple[float, float]:
    """Interval of the mean of positive values, by Student's t on their logarithm."""
    n, mean = len(distances), float(distances.mean())
    error = float(distances.std(ddof=1) / np.sqrt(n))
    centre = max(mean, error / 2)  # the mean of estimates without bias may be below 0
    factor = float(np.exp(stats.t.ppf(0.975, n - 1) * error / centre)) if centre > 0 else 1.0
    return centre / factor, centre * factor


def _slope(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Of all cells together, with the error of a ratio of sums over cells."""
    xy, xx = (np.array([float(x @ other) for x, other in values]) for values in (pairs, [(x, x) for x, _ in pairs]))
    n = len(xx)
    slope = float(xy.sum() / xx.sum()) if xx.sum() > 0 else np.nan
    residuals = xy - slope * xx
    half = np.nan
    if n > 1 and xx.sum() > 0:
        half = float(stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1) * residuals @ residuals) / xx.sum())
    return {"slope": slope, "slope_low": slope - half, "slope_high": slope + half}
