"""Linear models of features, their penalty chosen by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from ._folds import folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from sklearn.pipeline import Pipeline

Features: TypeAlias = np.ndarray | sparse.csr_matrix | sparse.csr_array
# Inverse strengths of the penalty to choose from. Without scaling, features such as log-normalised genes vary by less than 1.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
STRENGTHS_UNSCALED = (*STRENGTHS, 1e1, 1e2)
ALPHAS, ALPHAS_UNSCALED = np.logspace(-4, 2, 7), np.logspace(-6, 2, 9)  # penalties relative to the number of items
N_FOLDS, MOST_ITEMS = 3, 2000  # enough to choose a strength by
LEAST_ITEMS = 5  # of a ridge regression


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A fitted linear model of features as they are, whatever it was fitted to.

    Attributes
    ----------
    coef
        float64 (n_outputs, n_features).
    intercept
        float64 (n_outputs,); of classes, the softmax of ``features @ coef.T + intercept`` are their probabilities, and that of a class that was
        not learned is minus infinity.
    strength
        The penalty that was chosen: scikit-learn's `C` of classes, `alpha` of numbers.

    Examples
    --------
    >>> features = np.array([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
    >>> model = sg.evaluation.fit_logistic(features, np.array([0, 0, 0, 1, 1, 1]), strength=1.0)
    >>> model.coef.shape, model.strength
    ((2, 1), 1.0)
    """

    coef: np.ndarray
    intercept: np.ndarray
    strength: float

    def __call__(self, features: Features) -> np.ndarray:
        """Outputs for these features: float64 (n, n_outputs)."""
        return np.asarray(as_float(features) @ self.coef.T) + self.intercept


def fit_logistic(
    train: Features,
    labels: np.ndarray,
    *,
    n_classes: int | None = None,
    groups: np.ndarray | Sequence[object] | None = None,
    weights: np.ndarray | None = None,
    strength: float | None = None,
    scaled: bool = True,
    rng: int | Generator | None = 0,
) -> LinearModel:
    """Fit a multinomial logistic regression with an L2 penalty.

    Parameters
    ----------
    train
        Features of the items to learn from, of shape (n, n_features), dense or CSR.
    labels
        Codes of their classes of shape (n,), -1 for unlabelled, which are left out.
    n_classes
        Number of classes; by default up to the largest label.
    groups
        Group of each item, such as its donor, which the cross-validation keeps together where there are enough.
    weights
        Weight of each item, of shape (n,); only ratios matter. Defaults to equal weights.
    strength
        Inverse strength of the penalty, as scikit-learn's `C`. By default the one with the least log loss in a 3-fold cross-validation on up to
        2,000 items.
    scaled
        Penalise the coefficients of features that are divided by their standard deviation and, if dense, centred.
    rng
        Seed or generator for the cross-validation.

    Returns
    -------
    The model, for features as they were given.

    Raises
    ------
    ValueError
        If fewer than two classes are labelled.

    Examples
    --------
    >>> features = np.array([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
    >>> model = sg.evaluation.fit_logistic(features, np.array([0, 0, 0, 1, 1, 1]))
    >>> model(features).argmax(axis=1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    codes = labels[known].astype(np.int64)
    if len(np.unique(codes)) < 2:
        msg = "Logistic regression needs labelled items of two classes or more."
        raise ValueError(msg)
    features = as_float(train)[known]
    if weights is not None:
        weights = np.asarray(weights, dtype=np.float64)[known]
        weights = weights / weights.mean()
    with threadpool_limits(1):  # products this small lose more time to waiting threads than they gain
        if strength is None:
            kept = None if groups is None else np.asarray(groups, dtype=object)[known]
            strength = _choose_strength(features, codes, kept, weights, np.random.default_rng(rng), scaled=scaled)
        model = _fit(features, codes, weights, strength, scaled=scaled)
    coef, intercept = _unscaled(model, features.shape[1])
    if len(model.classes_) == 2:  # scikit-learn has one output, the difference of two
        coef, intercept = (np.concatenate([-part, part]) / 2 for part in (coef, intercept))
    outputs = np.zeros((codes.max() + 1 if n_classes is None else n_classes, coef.shape[1]))
    offsets = np.full(len(outputs), -np.inf)
    outputs[model.classes_], offsets[model.classes_] = coef, intercept
    return LinearModel(outputs, offsets, strength)


def fit_ridge(
    train: Features, values: np.ndarray, *, strength: float | None = None, scaled: bool = True
) -> LinearModel:
    """Fit a ridge regression.

    Parameters
    ----------
    train
        Features of the items to learn from, of shape (n, n_features), dense or CSR.
    values
        What to learn, of shape (n,), NaN for unlabelled, which are left out.
    strength
        Strength of the penalty, as scikit-learn's `alpha`. By default the one, relative to the number of items, with the least error in a 5-fold
        cross-validation.
    scaled
        Penalise the coefficients of features that are divided by their standard deviation and, if dense, centred.

    Returns
    -------
    The model, for features as they were given.

    Raises
    ------
    ValueError
        If fewer than five items are labelled.

    Examples
    --------
    >>> features = np.arange(10.0)[:, None]
    >>> model = sg.evaluation.fit_ridge(features, 2 * features[:, 0])
    >>> model(np.array([[20.0]])).round().tolist()
    [[40.0]]
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline

    values = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < LEAST_ITEMS:
        msg = f"Ridge regression needs {LEAST_ITEMS} labelled items or more, but there are {len(known)}."
        raise ValueError(msg)
    features = as_float(train)[known]
    solver = "sparse_cg" if sparse.issparse(features) else "cholesky"
    model = make_pipeline(
        *_scaler(features, scaled=scaled), Ridge(1.0 if strength is None else strength, solver=solver)
    )
    if strength is None:
        grid = {"ridge__alpha": len(known) * (ALPHAS if scaled else ALPHAS_UNSCALED)}
        search = GridSearchCV(model, grid, scoring="neg_mean_squared_error", cv=KFold(5, shuffle=True, random_state=0))
        model = search.fit(features, values[known]).best_estimator_
    else:
        model.fit(features, values[known])
    return LinearModel(*_unscaled(model, features.shape[1]), float(model[-1].alpha))


def as_float(features: Any) -> Any:
    """In double precision: the optimiser stops early on rounding errors of single precision."""
    return features.tocsr().astype(np.float64) if sparse.issparse(features) else np.asarray(features, dtype=np.float64)


def _scaler(features: Any, *, scaled: bool) -> list[Any]:
    from sklearn.preprocessing import StandardScaler

    return [StandardScaler(with_mean=not sparse.issparse(features))] if scaled else []


def _unscaled(model: Pipeline, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (n_outputs, n_features) and intercepts (n_outputs,) for features before they are scaled."""
    coef = np.reshape(model[-1].coef_, (-1, n_features))
    intercept = np.reshape(model[-1].intercept_, -1)
    if len(model) == 1:
        return coef, intercept
    coef = coef / model[0].scale_
    return coef, intercept if model[0].mean_ is None or not model[0].with_mean else intercept - coef @ model[0].mean_


def _fit(features: Any, codes: np.ndarray, weights: np.ndarray | None, strength: float, *, scaled: bool) -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(*_scaler(features, scaled=scaled), LogisticRegression(C=strength, max_iter=1000))
    return model.fit(features, codes, logisticregression__sample_weight=weights)


def _choose_strength(
    features: Any,
    codes: np.ndarray,
    groups: np.ndarray | None,
    weights: np.ndarray | None,
    rng: Generator,
    *,
    scaled: bool,
) -> float:
    """The strength with the least log loss on items left out, among classes with enough members to leave some out."""
    strengths = STRENGTHS if scaled else STRENGTHS_UNSCALED
    some = np.sort(rng.permutation(len(codes))[:MOST_ITEMS])
    features, codes = features[some], codes[some]
    weights = np.ones(len(codes)) if weights is None else weights[some]
    codes = np.where(np.bincount(codes)[codes] >= N_FOLDS, codes, -1)
    if len(np.unique(codes[codes >= 0])) < 2:
        return 1.0
    try:
        fold = folds(codes, N_FOLDS, groups=None if groups is None else groups[some], rng=rng)
    except ValueError:  # too few groups to keep them together
        fold = folds(codes, N_FOLDS, rng=rng)
    loss = np.zeros(len(strengths))
    for number in range(N_FOLDS):
        rest, left_out = (fold >= 0) & (fold != number), fold == number
        for i, strength in enumerate(strengths):
            model = _fit(features[rest], codes[rest], weights[rest], strength, scaled=scaled)
            learned = np.isin(codes[left_out], model.classes_)
            proba = model.predict_proba(features[left_out][learned])
            own = proba[np.arange(len(proba)), np.searchsorted(model.classes_, codes[left_out][learned])]
            loss[i] -= weights[left_out][learned] @ np.log(np.maximum(own, np.finfo(np.float64).eps))
    return strengths[int(loss.argmin())]
