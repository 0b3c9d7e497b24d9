"""How unusual a point is among those of its class."""

from __future__ import annotations

import numpy as np


def relative_distances(distances: np.ndarray, codes: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """Distances divided by those typical of the class; 0 where a distance is 0.

    Parameters
    ----------
    distances, codes
        Distance and class of each point, of shape (n,).
    typical
        Typical distance in each class, as of `median_distances`.
    """
    distances = np.asarray(distances, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distances == 0, 0.0, distances / typical[codes])


def median_distances(distances: np.ndarray, codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Median distance in each class, float64 of shape (n_classes,); over all points for classes without any."""
    medians = np.full(n_classes, np.median(distances))
    for code in np.unique(codes):
        medians[code] = np.median(distances[codes == code])
    return medians


def conformal_p(
    distances: np.ndarray, codes: np.ndarray, reference_distances: np.ndarray, reference_codes: np.ndarray
) -> np.ndarray:
    """Conformal p-value of each point: how many reference points of its class are as far out as it is.

    ``(1 + number of reference points of the class with at least this distance) / (number of them + 1)``. For a point that is
    exchangeable with these reference points, p is at most alpha with a probability of at most alpha (Vovk 2005).

    Parameters
    ----------
    distances, codes
        Distance and class of each point, of shape (n,); NaN for none.
    reference_distances, reference_codes
        Those of the reference points, of shape (n_reference,). Distances must be measured in the same way, each without the point itself.

    Returns
    -------
    float64 array of shape (n,), NaN where the distance is. It is 1 where the reference has no point of the class.
    """
    p = np.full(len(distances), np.nan)
    for code in np.unique(codes):
        inside = (codes == code) & ~np.isnan(distances)
        ordered = np.sort(reference_distances[reference_codes == code])
        n_farther = len(ordered) - np.searchsorted(ordered, distances[inside], side="left")
        p[inside] = (1 + n_farther) / (len(ordered) + 1)
    return p


def smallest_sample(alpha: float) -> int:
    """Number of reference points that a class needs for p to be less than `alpha`."""
    return int(np.floor(1 / alpha + 1e-9))
