"""Linear baselines: fit and predict in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy.special import softmax

from ._linear import fit_logistic, fit_ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.random import Generator

    from ._linear import Features


def logistic(
    train: Features,
    labels: np.ndarray,
    cells: Features,
    *,
    n_classes: int | None = None,
    groups: np.ndarray | Sequence[object] | None = None,
    scaled: bool = True,
    rng: int | Generator | None = 0,
) -> np.ndarray:
    """Predict class probabilities by multinomial logistic regression.

    The strength of the L2 penalty is the one with the least log loss in a 3-fold cross-validation on up to 2,000 items.

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
    scaled
        Divide features by their standard deviation over `train` and, if dense, centre them. Without it, those that vary most count most, which
        suits log-normalised expression: genes that hardly vary are mostly noise.
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
    model = fit_logistic(train, labels, n_classes=n_classes, groups=groups, scaled=scaled, rng=rng)
    return softmax(model(cells), axis=1)


def ridge(train: Features, values: np.ndarray, cells: Features, *, scaled: bool = True) -> np.ndarray:
    """Predict numbers by ridge regression.

    The penalty, relative to the number of items, is the one with the least error in 5-fold cross-validation.

    Parameters
    ----------
    train
        Features of the items to learn from, of shape (n, n_features), dense or CSR.
    values
        What to learn, of shape (n,), NaN for unlabelled, which are left out.
    cells
        Features of the items to predict, of shape (m, n_features).
    scaled
        As in :func:`logistic`.

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
    return fit_ridge(train, values, scaled=scaled)(cells)[:, 0]
