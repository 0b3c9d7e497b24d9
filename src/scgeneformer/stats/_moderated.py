"""Standard deviations of few values, moderated by what those of all groups have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import polygamma, psi

from ._means import with_interval

if TYPE_CHECKING:
    from ._means import Summary

SMALLEST = 1e-5  # of the median variance; a variance of 0 has no logarithm


def moderate(summary: Summary, *, level: float = 0.95) -> Summary:
    """Shrink the variance of each group's values towards a common one (Smyth 2004, as in limma).

    The variances of all groups are taken as draws from a scaled inverse chi-square distribution, whose scale and degrees of freedom d0 are
    estimated from their logarithms. A group with d degrees of freedom then has the weighted mean of its own variance (d) and of the common
    one (d0), with d + d0 degrees of freedom, but no more than all groups have together. Two or three values that are equal by accident no
    longer make a group significant.

    Parameters
    ----------
    summary
        What :func:`summarise` returns.
    level
        Probability that the interval covers the mean.

    Returns
    -------
    The summary with moderated standard deviations, degrees of freedom and intervals; unchanged if fewer than 2 groups have a variance.
    """
    measured = summary.df > 0
    df, variance = summary.df[measured], summary.sd[measured] ** 2
    if len(df) < 2 or not variance.any():
        return summary
    d0, common = _prior(np.maximum(variance, SMALLEST * np.median(variance)), df)
    moderated, total = np.full((2, len(summary.n)), np.nan)
    moderated[measured] = common if np.isinf(d0) else (d0 * common + df * variance) / (d0 + df)
    total[measured] = np.minimum(df + d0, df.sum())
    return with_interval(replace(summary, sd=np.sqrt(moderated), df=np.where(measured, total, 0)), level)


def _prior(variance: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom and variance of the prior, by the moments of the logarithms of the variances."""
    half = df / 2
    excess = np.log(variance) - psi(half) + np.log(half)
    spread = excess.var(ddof=1) - polygamma(1, half).mean()
    if spread <= 0:  # no more spread than chance gives around one common variance
        return np.inf, float(np.exp(excess.mean()))
    d0 = 2 * _inverse_trigamma(spread)
    return d0, float(np.exp(excess.mean() + psi(d0 / 2) - np.log(d0 / 2)))


def _inverse_trigamma(value: float) -> float:
    """The x at which the trigamma function is `value`, found between bounds that hold it: 1/x < trigamma(x) < 1/x + 1/x²."""
    from scipy.optimize import brentq

    upper = (1 + np.sqrt(1 + 4 * value)) / (2 * value)
    return float(brentq(lambda x: polygamma(1, x) - value, 1 / value, upper))
