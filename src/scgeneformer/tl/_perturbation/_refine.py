"""The strongest estimates of a screen, measured exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scgeneformer.engine.perturb import Outcome

MIN_CELLS = 5  # as many as `tl.rank_shifts` tests a gene from


def strongest_genes(screened: Outcome, n: int) -> np.ndarray:
    """Tokens of the `n` genes of largest and the `n` of smallest mean shift to the target, ascending, of those in enough cells."""
    genes, index, n_cells = np.unique(screened.what, return_inverse=True, return_counts=True)
    mean = np.bincount(index, screened.values[:, 0].astype(np.float64)) / n_cells
    # the most extreme means are those of genes in one or two cells, which no test will look at
    common = np.flatnonzero(n_cells >= min(MIN_CELLS, n_cells.max(initial=0)))
    order = common[np.argsort(mean[common], kind="stable")]
    return genes[np.unique(np.r_[order[:n], order[-n:]])]


def merge_exact(screened: Outcome, exact: Outcome) -> tuple[Outcome, np.ndarray]:
    """Estimates, replaced by exact values where there are some, and which these are, bool (P,).

    Movements of genes are replaced too. Those of cells remain estimates: they are means over all genes, few of which are exact.
    """
    values = screened.values.astype(np.float64)
    width = int(screened.what.max(initial=0)) + 1
    pairs, redone = (x.cells.astype(np.int64) * width + x.what for x in (screened, exact))
    order = np.argsort(pairs)
    index = order[np.searchsorted(pairs, redone, sorter=order)]
    values[index] = exact.values
    is_exact = np.zeros(len(values), bool)
    is_exact[index] = True
    moved = screened.directions
    if moved is not None and exact.directions is not None:
        moved = replace(moved, of_genes=moved.of_genes | exact.directions.of_genes)
    return replace(screened, values=values, directions=moved), is_exact
