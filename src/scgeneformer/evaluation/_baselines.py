"""Linear baselines on standardised features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from ._folds import folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from sklearn.pipeline import Pipeline

    Features: TypeAlias = "np.ndarray | sparse.csr_matrix | sparse.csr_array"

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths of the penalty to choose from
N_FOLDS, MOST_ITEMS = 3, 2000  # enough to choose one of four strengths


def logistic(
    train: Features,
    labels: np.ndarray,
    cells: Features,
    *,
    n_classes: int | None = None,
    groups: np.ndarray | Sequence[object] | None = None,
    rng: int | Generator | None = 0,
) -> np.ndarray:
    """Predict class probabilities by multinomial logistic regression on standardised features.

    Features are divided by their standard deviation over `train` and, if dense, centred. The strength of the L2 penalty is
    the one of four with the least log loss in a 3-fold cross-validation on up to 2,000 items.

    Parameters
    ----------
    train
        Features of the items to learn from, of shape (n, n_features), dense or CSR.
    labels
        Codes of their classes of shape (n,), -1 for unlabelled, which are left out.
    cells
        Features of the items to predict, of shape (m, n_features).
    n_classes
        Number of classes; by default up to the largest label. A class that is not learned has probability 0.
    groups
        Group of each item of `train`, such as its donor, which the cross-validation then keeps together where there are enough.
    rng
        Seed or generator for the cross-validation.

    Returns
    -------
    float64 array of shape (m, n_classes).

    Raises
    ------
    ValueError
        If fewer than two classes are labelled.

    Examples
    --------
    >>> features = np.array([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
    >>> proba = sg.evaluation.logistic(features, np.array([0, 0, 0, 1, 1, 1]), np.array([[0.0], [1.2]]))
    >>> proba.argmax(axis=1).tolist()
    [0, 1]
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    codes = labels[known].astype(np.int64)
    if len(np.unique(codes)) < 2:
        msg = "Logistic regression needs labelled items of two classes or more."
        raise ValueError(msg)
    features = _as_float(train)[known]
    kept = None if groups is None else np.asarray(groups, dtype=object)[known]
    with threadpool_limits(1):  # products this small lose more time to waiting threads than they gain
        model = _pipeline(features, _choose_strength(features, codes, kept, np.random.default_rng(rng)))
        model.fit(features, codes)
    proba = np.zeros((cells.shape[0], codes.max() + 1 if n_classes is None else n_classes))
    proba[:, model.classes_] = model.predict_proba(_as_float(cells))
    return proba


def ridge(train: Features, values: np.ndarray, cells: Features) -> np.ndarray:
    """Predict numbers by ridge regression on standardised features.

    The penalty, relative to the number of items, is the one of seven with the least error in 5-fold cross-validation.

    Parameters
    ----------
    train
        Features of the items to learn from, of shape (n, n_features), dense or CSR.
    values
        What to learn, of shape (n,), NaN for unlabelled, which are left out.
    cells
        Features of the items to predict, of shape (m, n_features).

    Returns
    -------
    float64 array of shape (m,).

    Raises
    ------
    ValueError
        If fewer than five items are labelled.

    Examples
    --------
    >>> features = np.arange(10.0)[:, None]
    >>> values = sg.evaluation.ridge(features, 2 * features[:, 0], np.array([[20.0]]))
    >>> values.round().tolist()
    [40.0]
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline

    values = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 5:
        msg = f"Ridge regression needs 5 labelled items or more, and there are {len(known)}."
        raise ValueError(msg)
    features = _as_float(train)[known]
    solver = "sparse_cg" if sparse.issparse(features) else "cholesky"
    model = make_pipeline(_scaler(features), Ridge(solver=solver))
    grid = {"ridge__alpha": len(known) * np.logspace(-4, 2, 7)}
    search = GridSearchCV(model, grid, scoring="neg_mean_squared_error", cv=KFold(5, shuffle=True, random_state=0))
    return search.fit(features, values[known]).predict(_as_float(cells))


def _as_float(features: Any) -> Any:
    """In double precision: the optimiser stops early on rounding errors of single precision."""
    return features.tocsr().astype(np.float64) if sparse.issparse(features) else np.asarray(features, dtype=np.float64)


def _scaler(features: Any) -> Any:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler(with_mean=not sparse.issparse(features))


def _pipeline(features: Any, strength: float) -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(_scaler(features), LogisticRegression(C=strength, max_iter=1000))


def _choose_strength(features: Any, codes: np.ndarray, groups: np.ndarray | None, rng: Generator) -> float:
    """The strength with the least log loss on items left out, among classes with enough members to leave some out."""
    some = np.sort(rng.permutation(len(codes))[:MOST_ITEMS])
    features, codes = features[some], codes[some]
    codes = np.where(np.bincount(codes)[codes] >= N_FOLDS, codes, -1)
    if len(np.unique(codes[codes >= 0])) < 2:
        return STRENGTHS[-1]
    try:
        fold = folds(codes, N_FOLDS, groups=None if groups is None else groups[some], rng=rng)
    except ValueError:  # too few groups to keep them together
        fold = folds(codes, N_FOLDS, rng=rng)
    loss = np.zeros(len(STRENGTHS))
    for number in range(N_FOLDS):
        rest, left_out = (fold >= 0) & (fold != number), fold == number
        for i, strength in enumerate(STRENGTHS):
            model = _pipeline(features, strength).fit(features[rest], codes[rest])
            learned = np.isin(codes[left_out], model.classes_)
            proba = model.predict_proba(features[left_out][learned])
            own = proba[np.arange(len(proba)), np.searchsorted(model.classes_, codes[left_out][learned])]
            loss[i] -= np.log(np.maximum(own, np.finfo(np.float64).eps)).sum()
    return STRENGTHS[int(loss.argmin())]
