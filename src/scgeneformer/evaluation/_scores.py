"""Scores of predicted numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd


def regression(truth: np.ndarray, predicted: np.ndarray, *, n_levels: int | None = None) -> pd.Series:
    """Score predicted numbers.

    Parameters
    ----------
    truth
        Array of shape (n,); NaN for unlabelled items, or -1 if `n_levels` is given, which are left out.
    predicted
        Array of shape (n,).
    n_levels
        Number of levels of an ordinal label, with codes from 0 on; predictions are numbers on the same scale.

    Returns
    -------
    ``mae`` (mean absolute error), ``rmse`` (root of the mean squared error), ``r2`` (1 minus the squared error relative to that
    of the mean), ``spearman``; for ordinal labels also ``accuracy`` and ``kappa``, Cohen's with quadratic weights, both of the
    nearest level. NaN where undefined, as for a constant.

    Raises
    ------
    ValueError
        If shapes differ, nothing is labelled, or a prediction is NaN.

    Examples
    --------
    >>> scores = sg.evaluation.regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))
    >>> scores[["mae", "spearman"]].round(3).tolist()
    [0.333, 1.0]
    """
    truth, predicted = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if truth.shape != predicted.shape or truth.ndim != 1:
        msg = f"Labels and predictions must have the same shape; got {truth.shape} and {predicted.shape}."
        raise ValueError(msg)
    labelled = np.isfinite(truth) if n_levels is None else truth >= 0
    truth, predicted = truth[labelled], predicted[labelled]
    if len(truth) == 0:
        msg = "Nothing is labelled: all labels are missing."
        raise ValueError(msg)
    if not np.isfinite(predicted).all():
        msg = f"{np.sum(~np.isfinite(predicted))} predictions are NaN or infinite. Leave them out."
        raise ValueError(msg)
    error = predicted - truth
    spread = np.mean((truth - truth.mean()) ** 2)
    scores = {
        "mae": np.mean(np.abs(error)),
        "rmse": np.sqrt(np.mean(error**2)),
        "r2": 1 - np.mean(error**2) / spread if spread > 0 else np.nan,
        "spearman": _spearman(truth, predicted),
    }
    if n_levels is not None:
        nearest = np.clip(np.rint(predicted), 0, n_levels - 1)
        scores["accuracy"] = np.mean(nearest == truth)
        scores["kappa"] = _kappa(truth, nearest)
    return pd.Series(scores, dtype=np.float64)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    a, b = (ranks - ranks.mean() for ranks in (rankdata(a), rankdata(b)))
    size = np.sqrt(np.sum(a**2) * np.sum(b**2))
    return float(np.sum(a * b) / size) if size > 0 else np.nan


def _kappa(a: np.ndarray, b: np.ndarray) -> float:
    """1 minus the squared distance between two raters, relative to that between independent ones of the same frequencies."""
    by_chance = np.var(a) + np.var(b) + (a.mean() - b.mean()) ** 2
    return float(1 - np.mean((a - b) ** 2) / by_chance) if by_chance > 0 else np.nan
