"""Receiver operating characteristic and precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve over thresholds, float64 arrays of shape (n_points,), and the number that sums it up.

    Attributes
    ----------
    x
        False positive rate, or recall.
    y
        True positive rate, or precision.
    threshold
        Items with this score or a higher one are called positive; infinite where nothing is.
    area
        Area under the curve; NaN where one of the two classes is missing.

    Examples
    --------
    >>> curve = sg.evaluation.roc(np.array([False, True]), np.array([0.2, 0.8]))
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """

    x: np.ndarray
    y: np.ndarray
    threshold: np.ndarray
    area: float


def roc(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Receiver operating characteristic, from nothing called positive (0, 0) to everything (1, 1).

    Parameters
    ----------
    positive
        Whether each item is of the class, bool of shape (n,).
    score
        Its score, higher for the class, of shape (n,). Ties are one step, so that the area is the probability that a positive
        scores above a negative, ties counting half.

    Examples
    --------
    >>> sg.evaluation.roc(np.array([False, True, True]), np.array([0.2, 0.1, 0.8])).area
    0.5
    """
    true, false, threshold = _counts(positive, score)
    with np.errstate(invalid="ignore"):
        x, y = false / false[-1], true / true[-1]
    return Curve(x, y, threshold, float(np.trapezoid(y, x)))


def precision_recall(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Precision against recall, from nothing called positive (recall 0, precision 1) to everything.

    The area is the average precision, the sum of precisions weighted by the steps of recall, without interpolation; it is
    NaN where nothing is positive.

    Parameters
    ----------
    positive
        Whether each item is of the class, bool of shape (n,).
    score
        Its score, higher for the class, of shape (n,).

    Examples
    --------
    >>> curve = sg.evaluation.precision_recall(np.array([False, True]), np.array([0.2, 0.8]))
    >>> curve.area
    1.0
    """
    true, false, threshold = _counts(positive, score)
    with np.errstate(invalid="ignore"):
        recall = true / true[-1]
    precision = np.divide(true, true + false, out=np.ones(len(true)), where=true + false > 0)
    return Curve(recall, precision, threshold, float(np.sum(np.diff(recall) * precision[1:])))


def _counts(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and false positives at each threshold, descending, beginning with none of either."""
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    if positive.shape != score.shape or positive.ndim != 1 or len(score) == 0:
        msg = (
            f"positive and score must have the same shape and not be empty; got shapes {positive.shape} and "
            f"{score.shape}."
        )
        raise ValueError(msg)
    if np.any(np.isnan(score)):
        msg = f"{np.isnan(score).sum()} scores are NaN. Leave these items out."
        raise ValueError(msg)
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    steps = np.append(np.flatnonzero(np.diff(falling)), len(score) - 1)  # the last of equal scores
    true = np.cumsum(positive[order])[steps]
    return (
        np.concatenate([[0.0], true]),
        np.concatenate([[0.0], steps + 1 - true]),
        np.concatenate([[np.inf], falling[steps]]),
    )
