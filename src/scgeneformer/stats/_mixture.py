"""A mixture of two Gaussians over the means of groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Two Gaussian components of a distribution over the real line.

    Attributes
    ----------
    means, sds, weights
        float64 arrays of shape (2,), the lower mean first, or as :func:`two_components` says.
    """

    means: np.ndarray
    sds: np.ndarray
    weights: np.ndarray

    def upper(self, values: np.ndarray) -> np.ndarray:
        """Whether each value belongs to the upper component: bool array of the shape of `values`.

        Between the two means the more probable component decides; above the upper mean it is always the upper, below the
        lower mean always the lower component, so that a wide component does not claim the far side of a narrow one.
        """
        return (values > self.means[1]) | (~self._first(values) & (values >= self.means[0]))

    def official_impact(self, similarities: np.ndarray) -> np.ndarray:
        """Whether each similarity has impact by the rule of official Geneformer: bool array of the shape of `similarities`.

        The rule takes the first component for the one of impact, that is of lower similarity: what is above the second mean
        has none, what is below the first mean has, and between them the more probable component decides. Where the first
        component is the upper one, impact ends at the lower mean.
        """
        below_second = ~(similarities > self.means[1])
        return below_second & ((similarities < self.means[0]) | self._first(similarities))

    def _first(self, values: np.ndarray) -> np.ndarray:
        """Whether the first component is at least as probable as the second."""
        x = np.asarray(values, dtype=np.float64)[..., None]
        log_density = np.log(self.weights) - np.log(self.sds) - 0.5 * ((x - self.means) / self.sds) ** 2
        return log_density[..., 0] >= log_density[..., 1]


def two_components(values: np.ndarray, *, compat: Literal["official"] | None = None) -> Mixture:
    """Fit a mixture of two Gaussians to `values` by expectation maximisation (:class:`sklearn.mixture.GaussianMixture`).

    Official Geneformer takes scikit-learn's component 0 for the lower mean, which it need not be, and fits unscaled values,
    of which a variance under 1e-6 disappears in scikit-learn's regularisation. Here components are ordered by their means and
    values are sorted and standardised for the fit, so that the answer does not depend on their order or unit.

    Parameters
    ----------
    values
        Array of shape (n,), without NaN.
    compat
        ``"official"`` fits the values as they are, in their order, and leaves the components in the order scikit-learn finds
        them.

    Raises
    ------
    ValueError
        If there are fewer than two different values.
    """
    from sklearn.mixture import GaussianMixture

    official = compat == "official"
    x = np.array(values, dtype=np.float64)
    if not official:
        x.sort()
    if len(x) < 2 or x.min() == x.max():
        msg = f"A mixture of two components needs at least two different values, got {len(np.unique(x))}."
        raise ValueError(msg)
    centre, scale = (0.0, 1.0) if official else (x.mean(), x.std())
    fit = GaussianMixture(2, random_state=0).fit(((x - centre) / scale)[:, None])
    order = np.arange(2) if official else np.argsort(fit.means_[:, 0])
    return Mixture(
        means=fit.means_[order, 0] * scale + centre,
        sds=np.sqrt(fit.covariances_[order, 0, 0]) * scale,
        weights=fit.weights_[order],
    )
