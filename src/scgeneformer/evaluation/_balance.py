"""Tests of the balance of covariates between the sets of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import chdtrc
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Iterator


class Balance:
    """Tests of covariates between sets, with everything precomputed that does not depend on the sets.

    Numeric covariates are compared by the Kruskal-Wallis test, all others by the chi-square test of independence, without
    continuity correction. Missing values are left out. A covariate that does not vary has p = 1.

    Parameters
    ----------
    covariates
        One row per item.
    units
        Group of each item; the groups are then compared instead of the items, since items of one group are not
        replicates: by the mean of a numeric covariate, and by the most frequent value of another.
    """

    def __init__(self, covariates: pd.DataFrame, units: np.ndarray | None = None) -> None:
        self.names = list(covariates.columns)
        self._columns = [_prepare(covariates[name].reset_index(drop=True), units) for name in self.names]

    def pvalues(self, sets: np.ndarray, n_sets: int) -> np.ndarray:
        """p-value of each covariate, (n_covariates,), for `sets` of shape (n_units,)."""
        return np.fromiter(self._tests(sets, n_sets), dtype=np.float64, count=len(self.names))

    def _tests(self, sets: np.ndarray, n_sets: int) -> Iterator[float]:
        for values, numeric in self._columns:
            known = np.isfinite(values) if numeric else values >= 0
            test = _kruskal if numeric else _chi_square
            yield test(values[known], sets[known], n_sets)


def _prepare(column: pd.Series, units: np.ndarray | None) -> tuple[np.ndarray, bool]:
    """Ranks of a numeric covariate or codes of another, one per unit, and whether it is numeric."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric:
        values = column.astype(np.float64)
        return rankdata(values if units is None else values.groupby(units).mean(), nan_policy="omit"), True
    codes = pd.Series(pd.factorize(column.astype(object))[0])
    if units is not None:
        known = codes.where(codes >= 0)
        codes = known.groupby(units).agg(lambda of_unit: of_unit.mode().iat[0] if of_unit.notna().any() else -1)
    return codes.to_numpy().astype(np.int64), False


def _kruskal(ranks: np.ndarray, sets: np.ndarray, n_sets: int) -> float:
    n = np.bincount(sets, minlength=n_sets)
    total = np.bincount(sets, weights=ranks, minlength=n_sets)
    spread = np.var(ranks, ddof=1) if len(ranks) > 1 else 0.0
    if spread == 0 or np.sum(n > 0) < 2:
        return 1.0
    between = n[n > 0] * (total[n > 0] / n[n > 0] - ranks.mean()) ** 2
    return float(chdtrc(np.sum(n > 0) - 1, between.sum() / spread))


def _chi_square(codes: np.ndarray, sets: np.ndarray, n_sets: int) -> float:
    table = np.bincount(codes * n_sets + sets, minlength=(codes.max(initial=-1) + 1) * n_sets).reshape(-1, n_sets)
    table = table[np.ix_(table.any(axis=1), table.any(axis=0))]
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if table.size == 0 or freedom == 0:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(chdtrc(freedom, np.sum((table - expected) ** 2 / expected)))
