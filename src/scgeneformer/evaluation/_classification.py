from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._curves import precision_recall, roc
from ._labels import listed
from ._reliability import read_truth, reliability

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class Report:
    """Scores of a classification.

    Attributes
    ----------
    scores
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that occur), ``macro_f1`` (mean over classes that occur
        or were predicted), ``auc`` and ``average_precision`` (of the second of two classes, else the mean of each class
        against the rest), ``log_loss``, ``calibration_error`` (15 bins).
    per_class
        ``precision``, ``recall``, ``f1``, ``support`` (int64), ``auc`` of each class; NaN where undefined.
    confusion
        Numbers of items, int64: true classes down, predicted ones across.
    reason
        Why ``auc`` and ``average_precision`` are NaN; None if they are not.

    Examples
    --------
    >>> proba = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    >>> report = sg.evaluation.classification(np.array([0, 0, 1]), proba, ["healthy", "ill"])
    >>> float(report.per_class.loc["ill", "recall"])
    1.0
    """

    scores: pd.Series
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    reason: str | None


def classification(truth: np.ndarray, proba: np.ndarray, classes: Sequence[object]) -> Report:
    """Score predicted probabilities of classes.

    The prediction is the most probable class, the first in case of ties.

    Parameters
    ----------
    truth
        Codes of classes of shape (n,), -1 for unlabelled, which are left out.
    proba
        Probabilities of shape (n, n_classes), whose rows sum to 1.
    classes
        Names of classes, in the order of codes.

    Raises
    ------
    ValueError
        If shapes do not fit, nothing is labelled, or probabilities are NaN or do not sum to 1.

    Examples
    --------
    >>> proba = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    >>> report = sg.evaluation.classification(np.array([0, 0, 1]), proba, ["healthy", "ill"])
    >>> round(float(report.scores["accuracy"]), 3)
    0.667
    """
    truth, proba = read_truth(truth, proba, "probabilities")
    n_classes = len(classes)
    if proba.shape[1] != n_classes:
        msg = f"There are {n_classes} classes, but probabilities of {proba.shape[1]}."
        raise ValueError(msg)
    total = proba.sum(axis=1)
    if np.any(proba < 0) or not np.allclose(total, 1, atol=1e-3):
        msg = (
            f"Probabilities must be 0 or more and sum to 1, but their sums range from {total.min():.4g} to "
            f"{total.max():.4g}."
        )
        raise ValueError(msg)
    predicted = proba.argmax(axis=1)
    confusion = np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    per_class = _per_class(confusion)
    per_class["auc"] = [roc(truth == c, proba[:, c]).area for c in range(n_classes)]
    precision = np.array([precision_recall(truth == c, proba[:, c]).area for c in range(n_classes)])
    shown = slice(1, None) if n_classes == 2 else slice(None)
    reason = _why_undefined(per_class["support"].to_numpy(), classes)
    of_truth = np.maximum(proba[np.arange(len(truth)), truth], np.finfo(np.float64).eps)
    scores = {
        "accuracy": np.trace(confusion) / len(truth),
        "balanced_accuracy": per_class["recall"].mean(),
        "macro_f1": per_class["f1"].mean(),
        "auc": np.nan if reason else per_class["auc"].to_numpy()[shown].mean(),
        "average_precision": np.nan if reason else precision[shown].mean(),
        "log_loss": -np.mean(np.log(of_truth)),
        "calibration_error": reliability(truth, proba).error,
    }
    names = pd.Index([str(name) for name in classes])
    return Report(
        pd.Series(scores, dtype=np.float64),
        per_class.set_axis(names, axis=0),
        pd.DataFrame(confusion, index=names, columns=names),
        reason,
    )


def _per_class(confusion: np.ndarray) -> pd.DataFrame:
    right, called, support = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is undefined
        return pd.DataFrame(
            {
                "precision": right / called,
                "recall": right / support,
                "f1": 2 * right / (called + support),
                "support": support,
            }
        )


def _why_undefined(support: np.ndarray, classes: Sequence[object]) -> str | None:
    missing = [repr(str(classes[int(c)])) for c in np.flatnonzero(support == 0)]
    return f"No item is of class {listed(missing)}." if missing else None
