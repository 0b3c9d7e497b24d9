"""Intervals of scores by the bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.random import Generator


MIN_GROUPS = 3  # minimum number of groups worth resampling


def groups_to_resample(groups: np.ndarray | None) -> np.ndarray | None:
    """The `groups` for `bootstrap`, (n,); None, which resamples single items, where there are fewer than three."""
    return None if groups is None or len(pd.unique(groups)) < MIN_GROUPS else groups


def bootstrap(
    scores: Callable[[np.ndarray], pd.Series],
    n: int,
    *,
    groups: np.ndarray | Sequence[object] | None = None,
    strata: np.ndarray | None = None,
    n_bootstrap: int = 200,
    rng: int | Generator | None = 0,
) -> pd.DataFrame:
    """95 % intervals of scores over items, or over groups of items, drawn with replacement.

    Items of one group, such as the cells of a donor, resemble each other: drawn one by one they give intervals that are too narrow.

    Parameters
    ----------
    scores
        From indices of items, int64 (m,), with repetitions, to named scores.
    n
        Number of items.
    groups
        Group of each item, of shape (n,), which is then drawn as a whole.
    strata
        Without `groups`: boolean array of shape (n,), of which as many are drawn of either value as there are.
    n_bootstrap
        Number of samples.
    rng
        Seed or generator.

    Returns
    -------
    One row for each score, with ``low`` and ``high``; NaN where it was defined for no sample.

    Examples
    --------
    >>> right = np.arange(100) < 80
    >>> table = sg.evaluation.bootstrap(lambda rows: pd.Series({"accuracy": right[rows].mean()}), 100)
    >>> bool(table.loc["accuracy", "low"] < 0.8 < table.loc["accuracy", "high"])
    True
    """
    rng = np.random.default_rng(rng)
    if strata is not None:
        of_each = [np.flatnonzero(strata == value) for value in (True, False)]
        samples = (np.concatenate([rng.choice(rows, len(rows)) for rows in of_each]) for _ in range(n_bootstrap))
    elif groups is None:
        samples = (rng.integers(0, n, n) for _ in range(n_bootstrap))
    else:
        code = pd.factorize(np.asarray(groups, dtype=object))[0]
        members = [np.flatnonzero(code == group) for group in range(code.max() + 1)]
        draws = (rng.integers(0, len(members), len(members)) for _ in range(n_bootstrap))
        samples = (np.concatenate([members[group] for group in drawn]) for drawn in draws)
    drawn = pd.DataFrame([scores(sample) for sample in samples], dtype=np.float64)
    return drawn.quantile([0.025, 0.975]).T.set_axis(["low", "high"], axis=1)
