"""Evaluation of models: splits without leakage, scores, curves, calibration, linear baselines and edges of networks.

Functions of arrays. Labels are codes of classes, integers from 0 on with -1 for unlabelled, or floats with NaN for
unlabelled where they are continuous. Unlabelled items are in no set and count in no score.
"""

from __future__ import annotations

from ._baselines import logistic, ridge
from ._classification import Report, classification
from ._curves import Curve, precision_recall, roc
from ._folds import folds
from ._intervals import bootstrap
from ._linear import LinearModel, fit_logistic, fit_ridge
from ._predictors import increment, predictors, together
from ._reliability import Reliability, calibration_error, reliability, temperature
from ._scores import regression
from ._separation import separation
from ._split import Split, check_disjoint, split
from .networks import CandidatePairs, RankedPairs, degree_of_other_half, rewire, score_pairs

__all__ = [
    "CandidatePairs",
    "Curve",
    "LinearModel",
    "RankedPairs",
    "Reliability",
    "Report",
    "Split",
    "bootstrap",
    "calibration_error",
    "check_disjoint",
    "classification",
    "degree_of_other_half",
    "fit_logistic",
    "fit_ridge",
    "folds",
    "increment",
    "logistic",
    "precision_recall",
    "predictors",
    "regression",
    "reliability",
    "rewire",
    "ridge",
    "roc",
    "score_pairs",
    "separation",
    "split",
    "temperature",
    "together",
]
