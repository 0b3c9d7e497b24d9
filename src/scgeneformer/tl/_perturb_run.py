"""Carry out what `tl.perturb` was asked for, and hold the results until all of them are there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys

from ._write_shifts import as_layers, as_tables, effects_of_genes, effects_of_sets, mark_exact, result_names

if TYPE_CHECKING:
    from scgeneformer.engine.perturb import Outcome, Perturbation

    from ._design import Design

MIN_CELLS = 5  # as many as `tl.rank_shifts` tests a gene from


@dataclass
class Result:
    """Shifts, and effects on genes, until all parts are there."""

    missing: int = 0
    n_pairs: int = 0
    values: dict[str, Any] = field(default_factory=dict)  # by slot


def perturb_genes(
    design: Design, genes: np.ndarray, anchor: int | None, method: str, n_top: int, key: str, *, absent: bool
) -> Result:
    """Perturb `genes` (tokens) one by one, or each with the anchor."""
    from scgeneformer import engine

    adata = design.task.cells
    perturbation = engine.perturb.Perturbation(
        design.kind,
        design.rank_shift,
        genes=np.sort(genes),
        anchor=anchor,
        absent=absent,
        official=design.official,
    )
    screened = method != "exact"
    outcome = design.run(perturbation, "screen" if screened else "exact", "genes-screen" if screened else "genes")
    result = Result(outcome.missing, len(outcome.what))
    if outcome.missing:
        return result
    exact = None
    if method == "screen+exact":
        outcome, exact, missing = _refined(design, perturbation, outcome, n_top)
        if missing:
            return Result(missing)
    layers = as_layers(outcome, design.chosen, design.column_of, adata.shape)
    for name, layer in zip(result_names(key, design.states, design.target), layers, strict=True):
        result.values[f"layers/{name}"] = layer
    if exact is not None:
        marked = mark_exact(outcome, exact, design.chosen, design.column_of, adata.shape)
        result.values[f"layers/{keys.method_layer(key)}"] = marked
    if outcome.effects is not None:
        tables = effects_of_genes(outcome.effects, design.column_of, adata.n_vars)
        for name, value in zip(keys.effects_keys(key), tables, strict=True):
            result.values[f"varp/{name}"] = value
    return result


def _refined(
    design: Design, perturbation: Perturbation, screened: Outcome, n_top: int
) -> tuple[Outcome, np.ndarray, int]:
    """Do the genes of largest and of smallest mean shift to the target again, exactly; tell which values these are."""
    of_target = screened.values[:, 0].astype(np.float64)
    genes, at, n_cells = np.unique(screened.what, return_inverse=True, return_counts=True)
    mean = np.bincount(at, of_target) / n_cells
    # the most extreme means are those of genes in one or two cells, which no test will look at
    common = np.flatnonzero(n_cells >= min(MIN_CELLS, n_cells.max(initial=0)))
    order = common[np.argsort(mean[common], kind="stable")]
    best = np.unique(np.r_[order[:n_top], order[-n_top:]])
    exact = design.run(replace(perturbation, genes=genes[best]), "exact", "genes-exact")
    if exact.missing:
        return screened, np.empty(0, bool), exact.missing
    values = screened.values.astype(np.float64)
    width = int(screened.what.max(initial=0)) + 1
    pairs, redone = (x.cells.astype(np.int64) * width + x.what for x in (screened, exact))
    order = np.argsort(pairs)
    found = order[np.searchsorted(pairs, redone, sorter=order)]
    values[found] = exact.values
    marked = np.zeros(len(values), bool)
    marked[found] = True
    return replace(screened, values=values), marked, 0


def perturb_sets(design: Design, sets: dict[str, np.ndarray], key: str) -> Result:
    """Perturb the genes of each set (tokens) together."""
    from scgeneformer import engine

    adata, names = design.task.cells, list(sets)
    perturbation = engine.perturb.Perturbation(
        design.kind,
        design.rank_shift,
        sets=tuple(sets.values()),
        every=design.official and design.kind == "delete",
        official=design.official,
    )
    outcome = design.run(perturbation, "exact", "sets")
    result = Result(outcome.missing, len(outcome.what))
    if outcome.missing:
        return result
    slot = keys.sets_key(key)
    tables = as_tables(outcome, design.chosen, names, adata.obs_names)
    for name, table in zip(result_names(slot, design.states, design.target), tables, strict=True):
        result.values[f"obsm/{name}"] = table
    if outcome.effects is not None:
        tables = effects_of_sets(outcome.effects, design.column_of, names, adata.var_names)
        for name, value in zip(keys.effects_keys(slot), tables, strict=True):
            result.values[f"varm/{name}"] = value
    return result
