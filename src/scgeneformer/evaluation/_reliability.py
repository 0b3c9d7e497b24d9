"""Calibration of probabilities: reliability diagrams and temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LARGEST = 5.0  # temperature


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy of predictions in bins of confidence of equal width; arrays of shape (n_bins,).

    Attributes
    ----------
    edges
        Edges of the bins, of shape (n_bins + 1,); the upper edge belongs to a bin.
    confidence
        Mean probability of the predicted class; NaN for empty bins.
    accuracy
        Fraction of correct predictions; NaN for empty bins.
    n
        Number of predictions, int64.
    error
        Expected calibration error: the mean absolute difference of accuracy and confidence, weighted by `n` (Guo et al. 2017).

    Examples
    --------
    >>> proba = np.array([[0.9, 0.1], [0.6, 0.4]])
    >>> sg.evaluation.reliability(np.array([0, 1]), proba, n_bins=2).n.tolist()
    [0, 2]
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    n: np.ndarray
    error: float


def reliability(truth: np.ndarray, proba: np.ndarray, *, n_bins: int = 15) -> Reliability:
    """Compare the confidence of predictions with their accuracy, in bins of confidence.

    Parameters
    ----------
    truth
        Codes of classes of shape (n,), -1 for unlabelled, which are left out.
    proba
        Probabilities of shape (n, n_classes). The prediction is the most probable class, the first in case of ties.
    n_bins
        Number of bins of equal width.

    Examples
    --------
    >>> proba = np.array([[0.9, 0.1], [0.6, 0.4]])
    >>> bins = sg.evaluation.reliability(np.array([0, 1]), proba, n_bins=2)
    >>> bins.confidence.tolist(), bins.accuracy.tolist()
    ([nan, 0.75], [nan, 0.5])
    """
    truth, proba = read_truth(truth, proba, "probabilities")
    return _of_confidence(proba.max(axis=1), proba.argmax(axis=1) == truth, n_bins)


def calibration_error(confidence: np.ndarray, right: np.ndarray, *, n_bins: int = 15) -> float:
    """Expected calibration error: the mean absolute difference of accuracy and confidence in bins of confidence of equal width (Guo et al. 2017).

    Parameters
    ----------
    confidence
        Probability with which each prediction was made, of shape (n,).
    right
        Whether it was right, bool of shape (n,).
    n_bins
        Number of bins.

    Examples
    --------
    >>> round(sg.evaluation.calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])), 2)
    0.15
    """
    return _of_confidence(confidence, right, n_bins).error


def _of_confidence(sure: np.ndarray, right: np.ndarray, n_bins: int) -> Reliability:
    """Reliability of predictions of this confidence, of which these are right, (n,) each."""
    bin_of = np.clip(np.ceil(sure * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    n = np.bincount(bin_of, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bin_of, weights=sure, minlength=n_bins) / n
        accuracy = np.bincount(bin_of, weights=right, minlength=n_bins) / n
    error = np.sum(n * np.abs(np.nan_to_num(accuracy - confidence))) / len(sure)
    return Reliability(np.linspace(0, 1, n_bins + 1), confidence, accuracy, n, float(error))


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Temperature that calibrates the softmax of logits (Guo et al. 2017).

    It minimises the negative log-likelihood of `truth`, which is convex in its inverse, between 1 and 5; predictions do not change.
    Below 1 it would make a classifier surer than it was trained to be: where few items are all predicted correctly, without bound.

    Parameters
    ----------
    logits
        Array of shape (n, n_classes) for items that were not trained on.
    truth
        Codes of classes of shape (n,), -1 for unlabelled, which are left out.

    Raises
    ------
    ValueError
        If nothing is labelled, or logits are not finite.

    Examples
    --------
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    >>> temperature = sg.evaluation.temperature(logits, np.array([0, 0, 1, 1]))
    >>> temperature > 1  # right in three of four cases, but surer than that
    True
    """
    truth, logits = read_truth(truth, logits, "logits")
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits * np.exp(-log_temperature), axis=1)[rows, truth].mean())

    bounds = 0.0, float(np.log(LARGEST))
    inside = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    return float(np.exp(min(*bounds, inside, key=loss)))  # the ends are not tried by the search


def read_truth(truth: np.ndarray, values: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Labelled items' classes, int64 (n,), and rows of `values`, float64 (n, n_classes)."""
    truth, values = np.asarray(truth), np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or truth.shape != values.shape[:1]:
        msg = f"{what} of shape {values.shape} do not fit {truth.shape} labels: they need one row per label and one column per class."
        raise ValueError(msg)
    labelled = truth >= 0
    if not labelled.any():
        msg = "Nothing is labelled: all labels are missing."
        raise ValueError(msg)
    truth, values = truth[labelled].astype(np.int64), values[labelled]
    if truth.max() >= values.shape[1]:
        msg = f"There are labels up to class {truth.max()}, but {what} of {values.shape[1]} classes."
        raise ValueError(msg)
    bad = int(np.sum(~np.isfinite(values).all(axis=1)))
    if bad:
        msg = f"{bad} labelled items have {what} that are NaN or infinite. Leave them out."
        raise ValueError(msg)
    return truth, values
