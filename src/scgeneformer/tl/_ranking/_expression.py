"""What expression alone shows for genes, beside the model: between the states, and along the line between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata, spearmanr

from scgeneformer import _keys, stats
from scgeneformer.tl._expression import log_profile

from ._shifts import tokens_key_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ._shifts import Shifts

PRIOR = 0.1  # counts per 10,000, added to means so that the fold change of a gene in few cells stays small
BESIDE = ("log2fc", "linear_shift", "mean_rank")
FEWEST = 10  # genes for a correlation


def expression_columns(data: AnnData, labels: np.ndarray, run: dict[str, Any], shifts: Shifts) -> dict[str, np.ndarray]:
    """Columns of a ranking, each of shape (n_vars,).

    Parameters
    ----------
    data
        The cells, with the counts that were tokenized.
    labels
        State of each, (n_obs,).
    run
        Parameters of the perturbation, with a source and a target.
    shifts
        Of the genes.

    Returns
    -------
    ``log2fc`` and ``auroc`` of expression, target against source; for deletions ``linear_shift``: what the loss of a gene's expression does on
    the line between the mean log expressions of source and target, in units of that expression, averaged over the cells it was tested in.

    Raises
    ------
    KeyError, ValueError
        If there are no counts, or no cells of a state.
    """
    is_source, is_target = (labels == str(run[name]) for name in ("source", "target"))
    for name, cells_of_state in (("source", is_source), ("target", is_target)):
        if not cells_of_state.any():
            msg = f"No cell is {str(run[name])!r} in .obs[{str(run['groupby'])!r}]."
            raise ValueError(msg)
    cells = np.flatnonzero(is_source | is_target)
    profile = log_profile(data, cells, layer=None, tokens_key=tokens_key_of(run), cure="Leave them there.")
    in_target = is_target[cells]
    target, source = (
        np.asarray(profile.X[rows].mean(axis=0), dtype=np.float64).ravel() for rows in (in_target, ~in_target)
    )
    columns = {
        "log2fc": np.log2(_mean_counts(profile.X[in_target])) - np.log2(_mean_counts(profile.X[~in_target])),
        "auroc": stats.auroc(sparse.csc_array(profile.X), in_target),
    }
    if run.get("kind") == "delete":
        row_of = np.full(data.n_obs, -1)
        row_of[cells] = np.arange(len(cells))
        measured = row_of[shifts.cells] >= 0
        lost = np.asarray(profile.X[row_of[shifts.cells[measured]], shifts.genes[measured]]).ravel()
        _, mean_lost = stats.group_means(lost, shifts.genes[measured], data.n_vars)
        axis = target - source
        columns["linear_shift"] = -mean_lost * axis / max(np.linalg.norm(axis), np.finfo(float).tiny)
    return columns


def agreement(
    table: dict[str, np.ndarray], min_cells: int, untrained: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, float]:
    """How much of a ranking what stands beside it explains, over genes in at least `min_cells` cells.

    Parameters
    ----------
    table
        Columns of the ranking.
    min_cells
        Minimum number of cells.
    untrained
        Number of cells and mean of the shifts by an untrained encoder, if there are some.

    Returns
    -------
    Spearman correlation of the effect with each of the columns ``log2fc``, ``linear_shift`` and ``mean_rank`` that there are, and ``"explained"``: the
    part of the variance of the effects' ranks that a linear model of their ranks explains. Where shifts were decomposed, also the correlation
    with each part that is not the same for all genes; and with the shifts by an untrained encoder, over genes in at least `min_cells` cells of
    both. Empty for fewer than 10 genes.
    """
    columns = {name: table[name] for name in BESIDE if name in table}
    complete = np.all([~np.isnan(x) for x in (table["effect"], *columns.values())], axis=0)
    complete &= table["n_cells"] >= min_cells
    if complete.sum() < FEWEST:
        return {}
    effect = table["effect"][complete]
    parts = {name: table[name] for name in _keys.PARTS if name in table and np.ptp(table[name][complete]) > 0}
    result = {name: float(spearmanr(effect, x[complete]).statistic) for name, x in (columns | parts).items()}
    if untrained is not None and (both := complete & (untrained[0] >= min_cells)).sum() >= FEWEST:
        result["untrained"] = float(spearmanr(table["effect"][both], untrained[1][both]).statistic)
    if not columns:
        return result
    design = np.column_stack([np.ones(len(effect)), *(rankdata(x[complete]) for x in columns.values())])
    ranks = rankdata(effect)
    rest = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    return result | {"explained": float(1 - rest.var() / ranks.var())}


def _mean_counts(profile: sparse.csr_matrix) -> np.ndarray:
    """Mean of counts per 10,000, `PRIOR` added."""
    return np.asarray(profile.expm1().mean(axis=0), dtype=np.float64).ravel() + PRIOR
