"""How well scores of items predict which of them are hits, or how large their effects are, and what one score adds to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._baselines import logistic, ridge
from ._folds import folds
from ._intervals import bootstrap
from ._scores import regression

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.random import Generator

    Scores = dict[str, Callable[[np.ndarray, np.ndarray], float]]

N_FOLDS = 5


def predictors(
    truth: np.ndarray,
    columns: Mapping[str, np.ndarray],
    *,
    n_top: Sequence[int] = (10, 20, 50),
    n_bootstrap: int = 200,
    rng: int | Generator | None = 0,
) -> pd.DataFrame:
    """Score each of several predictors of the same items, with bootstrap intervals over the items.

    Parameters
    ----------
    truth
        Boolean array of shape (n,), which items are hits; or floats, their effects.
    columns
        Predictors by name, each of shape (n,): larger values mean hits, or larger effects.
    n_top
        For hits: numbers of items of largest values among which the fraction of hits is counted.
    n_bootstrap
        Number of bootstrap samples. Hits are drawn among hits and other items among the others.
    rng
        Seed or generator.

    Returns
    -------
    One row for each predictor. For hits ``auroc``, ``average_precision`` and, for each k of `n_top` below n, ``ppv_<k>``, the fraction of hits
    among the k items of largest values, ties in proportion; for effects ``spearman``. Beside each of the first its 95 % interval: ``<score>_low``,
    ``<score>_high``.

    Raises
    ------
    ValueError
        If shapes differ, a predictor has NaN, or there are fewer than two hits, or two other items, or three effects.

    Examples
    --------
    >>> truth = np.arange(40) >= 30
    >>> table = sg.evaluation.predictors(truth, {"perfect": np.arange(40.0), "constant": np.ones(40)})
    >>> table["auroc"].tolist()
    [1.0, 0.5]
    """
    truth, values = np.asarray(truth), {name: np.asarray(x, dtype=np.float64) for name, x in columns.items()}
    _check(truth, values)
    rows = _with_intervals(truth, values, n_bootstrap, rng)
    if truth.dtype == bool:
        for name, x in values.items():
            rows[name] |= {f"ppv_{k}": _fraction_of_top(truth, x, k) for k in n_top if k < len(truth)}
    return pd.DataFrame.from_dict(rows, orient="index")


def increment(
    truth: np.ndarray,
    without: np.ndarray,
    with_it: np.ndarray,
    *,
    n_bootstrap: int = 200,
    rng: int | Generator | None = 0,
) -> pd.Series:
    """By how much one predictor is better than another on the same items, with a paired bootstrap.

    Parameters
    ----------
    truth, n_bootstrap, rng
        As in :func:`predictors`.
    without, with_it
        The two predictors, of shape (n,).

    Returns
    -------
    Difference of ``auroc`` and ``average_precision``, or of ``spearman``, each with ``_low`` and ``_high``, the ends of its 95 % interval.

    Raises
    ------
    ValueError
        As in :func:`predictors`.

    Examples
    --------
    >>> truth = np.arange(40) >= 30
    >>> gain = sg.evaluation.increment(truth, np.ones(40), np.arange(40.0))
    >>> float(gain["auroc"])
    0.5
    """
    truth = np.asarray(truth)
    a, b = (np.asarray(x, dtype=np.float64) for x in (without, with_it))
    _check(truth, {"without": a, "with_it": b})
    return pd.Series(_with_intervals(truth, {"with_it": b}, n_bootstrap, rng, less=a)["with_it"])


def together(
    truth: np.ndarray, columns: Mapping[str, np.ndarray], *, n_repeats: int = 5, rng: int | Generator | None = 0
) -> np.ndarray:
    """Predict each item by a linear model of several predictors that was fitted without it.

    Logistic regression for hits and ridge regression for effects, in a 5-fold cross-validation; mean over repeats.

    Parameters
    ----------
    truth, columns
        As in :func:`predictors`.
    n_repeats
        Number of cross-validations, with other folds each.
    rng
        Seed or generator.

    Returns
    -------
    float64 array of shape (n,): probabilities of a hit, or effects.

    Raises
    ------
    ValueError
        As in :func:`predictors`, or if there are fewer than five hits, other items, or effects.

    Examples
    --------
    >>> truth = np.arange(40) >= 30
    >>> proba = sg.evaluation.together(truth, {"a": np.arange(40.0), "b": np.ones(40)})
    >>> bool(proba[truth].min() > proba[~truth].max())
    True
    """
    truth, values = np.asarray(truth), {name: np.asarray(x, dtype=np.float64) for name, x in columns.items()}
    _check(truth, values)
    features, rng = np.column_stack(list(values.values())), np.random.default_rng(rng)
    hits = truth.dtype == bool
    labels = truth.astype(np.int64) if hits else truth.astype(np.float64)
    total = np.zeros(len(truth))
    for _ in range(n_repeats):
        fold = folds(labels, N_FOLDS, classes=["other items", "hits"] if hits else None, rng=rng)
        for number in range(N_FOLDS):
            rest, left_out = fold != number, fold == number
            if hits:
                total[left_out] += logistic(features[rest], labels[rest], features[left_out], n_classes=2, rng=rng)[
                    :, 1
                ]
            else:
                total[left_out] += ridge(features[rest], labels[rest], features[left_out])
    return total / n_repeats


def _check(truth: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    for name, x in values.items():
        if x.shape != truth.shape or truth.ndim != 1:
            msg = (
                f"The predictor {name!r} and the truth must have the same shape, (n,); got {x.shape} and {truth.shape}."
            )
            raise ValueError(msg)
        if np.isnan(x).any():
            msg = f"The predictor {name!r} is NaN for {int(np.isnan(x).sum())} items. Leave them out."
            raise ValueError(msg)
    if truth.dtype == bool and not 2 <= truth.sum() <= len(truth) - 2:
        msg = f"{int(truth.sum())} of {len(truth)} items are hits: there must be at least 2 hits and 2 other items."
        raise ValueError(msg)
    if truth.dtype != bool and (len(truth) < 3 or not np.isfinite(truth.astype(np.float64)).all()):
        msg = f"Effects must be finite numbers of 3 items or more; got {len(truth)}."
        raise ValueError(msg)


def _scores(truth: np.ndarray) -> Scores:
    from sklearn.metrics import average_precision_score, roc_auc_score

    if truth.dtype == bool:
        return {
            "auroc": lambda t, x: float(roc_auc_score(t, x)),
            "average_precision": lambda t, x: float(average_precision_score(t, x)),
        }
    return {"spearman": lambda t, x: float(regression(t, x)["spearman"])}


def _with_intervals(
    truth: np.ndarray,
    values: Mapping[str, np.ndarray],
    n_bootstrap: int,
    rng: int | Generator | None,
    *,
    less: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of each predictor, less those of another if given, with the ends of their intervals; all on the same samples."""
    functions = _scores(truth)

    def scored(rows: np.ndarray) -> pd.Series:
        base = {score: 0.0 if less is None else f(truth[rows], less[rows]) for score, f in functions.items()}
        return pd.Series(
            {
                (name, score): f(truth[rows], x[rows]) - base[score]
                for name, x in values.items()
                for score, f in functions.items()
            }
        )

    found = scored(np.arange(len(truth)))
    strata = truth if truth.dtype == bool else None
    ends = bootstrap(scored, len(truth), strata=strata, n_bootstrap=n_bootstrap, rng=rng) if n_bootstrap else None
    rows: dict[str, dict[str, float]] = {name: {} for name in values}
    for (name, score), value in found.items():
        low, high = (np.nan, np.nan) if ends is None else ends.loc[(name, score)]
        rows[name] |= {score: value, f"{score}_low": low, f"{score}_high": high}
    return rows


def _fraction_of_top(truth: np.ndarray, values: np.ndarray, k: int) -> float:
    """Fraction of hits among the `k` largest values; items tied at the end count in proportion."""
    last = np.sort(values)[-k]
    above, tied = values > last, values == last
    return float((truth[above].sum() + (k - above.sum()) * truth[tied].mean()) / k)
