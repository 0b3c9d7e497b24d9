"""How good a reference is, by cells and labels that are left out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import evaluation, stats
from scgeneformer.evaluation._intervals import groups_to_resample

if TYPE_CHECKING:
    from numpy.random import Generator

    from ._reference import Reference

N_FOLDS = 5


def report(
    reference: Reference, *, weights: stats.Weights, max_cells: int, n_bootstrap: int, rng: int | Generator | None
) -> dict[str, pd.DataFrame]:
    """Tables of :meth:`scgeneformer.Reference.report`."""
    rng = np.random.default_rng(rng)
    standard = np.arange(len(reference.points))[reference.standard]
    n = len(standard)
    rows = np.arange(n) if n <= max_cells else np.sort(rng.choice(n, max_cells, replace=False))
    if len(rows) < 2:
        msg = f"max_cells={max_cells}: a single cell cannot be judged. Choose more."
        raise ValueError(msg)
    codes, donors = reference.codes, reference.donors
    n_labels = len(reference.categories)
    left_out = stats.Neighbors(reference.left_out.indices[rows], reference.left_out.distances[rows])
    told, share = left_out.winners(codes, n_labels, weights=weights)
    rows = standard[rows]
    codes, donors = codes[rows], None if donors is None else donors[rows]
    right = told == codes
    return {
        "overall": _overall(codes, right, share, donors, n_bootstrap, rng),
        "labels": _labels(reference, rows, codes, right, donors, weights, n_bootstrap, rng),
    }


def _overall(
    codes: np.ndarray,
    right: np.ndarray,
    share: np.ndarray,
    donors: np.ndarray | None,
    n_bootstrap: int,
    rng: Generator,
) -> pd.DataFrame:
    calibrated = _isotonic(share, right, donors, rng)
    frequent = codes == np.bincount(codes).argmax()

    def scores(cells: np.ndarray) -> pd.Series:
        return pd.Series(
            {
                "accuracy": right[cells].mean(),
                "most_frequent": frequent[cells].mean(),
                "calibration_error": evaluation.calibration_error(share[cells], right[cells]),
                "calibration_error_isotonic": evaluation.calibration_error(calibrated[cells], right[cells]),
            }
        )

    n, groups = len(codes), groups_to_resample(donors)
    table = scores(np.arange(n)).to_frame("value")
    table = table.join(evaluation.bootstrap(scores, n, groups=groups, n_bootstrap=n_bootstrap, rng=rng))
    return table.assign(n_cells=n, n_donors=pd.NA if donors is None else len(np.unique(donors)))


def _isotonic(share: np.ndarray, right: np.ndarray, donors: np.ndarray | None, rng: Generator) -> np.ndarray:
    """Probability of being right, by an isotonic regression on other donors or, without them, other cells; NaN never."""
    from sklearn.isotonic import IsotonicRegression

    units = np.arange(len(share)) if donors is None else np.unique(donors, return_inverse=True)[1]
    n_units = int(units.max()) + 1
    fold = (rng.permutation(n_units) % min(N_FOLDS, n_units))[units]
    calibrated = share.copy()  # of a single donor nothing can be learned
    for test in range(fold.max() + 1):
        training = fold != test
        if training.any():
            regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
                share[training], right[training]
            )
            calibrated[~training] = regression.predict(share[~training])
    return calibrated


def _labels(
    reference: Reference,
    rows: np.ndarray,
    codes: np.ndarray,
    right: np.ndarray,
    donors: np.ndarray | None,
    weights: stats.Weights,
    n_bootstrap: int,
    rng: Generator,
) -> pd.DataFrame:
    points = np.ascontiguousarray(reference.points[rows])
    groups = groups_to_resample(donors)
    table = []
    for code in range(len(reference.categories)):
        missing = codes == code
        strange = _strangeness(reference, points, codes, missing, donors, weights)
        row = {
            "n_cells": int(missing.sum()),
            "accuracy": right[missing].mean() if missing.any() else np.nan,
            "novelty_auroc": np.nan,
            "novelty_auroc_low": np.nan,
            "novelty_auroc_high": np.nan,
        }
        if strange is not None:

            def auroc(cells: np.ndarray, strange: np.ndarray = strange, missing: np.ndarray = missing) -> pd.Series:
                column = sparse.csc_array(strange[cells, None])
                return pd.Series({"auroc": stats.auroc(column, missing[cells])[0]})

            row["novelty_auroc"] = auroc(np.arange(len(codes)))["auroc"]
            strata = missing if groups is None else None
            ends = evaluation.bootstrap(
                auroc, len(codes), groups=groups, strata=strata, n_bootstrap=n_bootstrap, rng=rng
            )
            row["novelty_auroc_low"], row["novelty_auroc_high"] = ends.loc["auroc", ["low", "high"]]
        table.append(row)
    return pd.DataFrame(table, index=pd.Index(reference.categories, name=reference.labels))


def _strangeness(
    reference: Reference,
    points: np.ndarray,
    codes: np.ndarray,
    missing: np.ndarray,
    donors: np.ndarray | None,
    weights: stats.Weights,
) -> np.ndarray | None:
    """1 - novelty of all cells when those that are `missing` are not in the reference, (n,); None where that leaves nothing to compare with."""
    n_labels, rest = len(reference.categories), np.flatnonzero(~missing)
    units = np.arange(len(codes)) if donors is None else donors
    k = min(reference.n_neighbors, len(rest) - (np.bincount(units[rest]).max() if len(rest) else 0))
    if k < 1 or not missing.any():
        return None
    index = stats.NeighborIndex(
        points[rest], k, metric=reference.metric, exact=True, rng=np.random.default_rng(reference.seed)
    )
    others = index.left_out(k, None if donors is None else donors[rest])
    if donors is None:
        new = index.nearest(points[missing], k)
    else:
        new = index.nearest_elsewhere(points[missing], donors[missing], donors[rest], k)
    far, told = np.empty(len(codes)), np.empty(len(codes), dtype=np.int64)
    for cells, neighbors in ((rest, others), (np.flatnonzero(missing), new)):
        far[cells], told[cells] = (
            neighbors.mean_distances(),
            neighbors.winners(codes[rest], n_labels, weights=weights)[0],
        )
    return 1 - stats.conformal_p(far, told, far[rest], told[rest])
