"""Results of a perturbation into their slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer.engine.perturb import Directions, GeneEffects

    from ._options import PerturbOptions
    from ._select import Targets


@dataclass(frozen=True)
class Measured:
    """P values of all groups.

    Attributes
    ----------
    rows
        Indices of the cells, int64 (P,).
    what
        int32 (P,), token of the perturbed gene or number of the perturbed set.
    values
        (P, S), or (P, 4 S) with their parts.
    exact
        Which values are exact, bool (P,); None if all are alike.
    effects
        On genes, if asked for.
    directions
        Movements, if asked for; of one group.
    """

    rows: np.ndarray
    what: np.ndarray
    values: np.ndarray
    exact: np.ndarray | None = None
    effects: GeneEffects | None = None
    directions: Directions | None = None

    @property
    def axes(self) -> np.ndarray | None:
        """Vectors along which movements were kept, float64 (A, H), None for whole ones."""
        return None if self.directions is None else self.directions.axes

    @classmethod
    def join(cls, parts: list[Measured]) -> Measured:
        """Values of several groups together."""
        first, *others = parts
        for part in others:
            if first.effects is not None and part.effects is not None:
                first.effects.merge(part.effects.stored())
        rows, what, values = (np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "what", "values"))
        exact = None if first.exact is None else np.concatenate([part.exact for part in parts])
        return cls(rows, what, values, exact, first.effects)


def shift_slots(key: str, states: list[str], options: PerturbOptions, *, sets: bool, marked: bool) -> list[str]:
    """Every slot that a perturbation of `sets`, or else of single genes, writes.

    Parameters
    ----------
    key
        `key_added`.
    states
        End states, the target first; none without a target.
    options
        As the caller gave them.
    sets
        Whether sets are perturbed.
    marked
        Whether exact values are distinguished from estimates.
    """
    slots = [f"uns/{key}"]
    if sets:
        name = keys.sets_key(key)
        slots += [f"obsm/{name}" for name in result_names(name, states)]
        return slots + ([f"varm/{name}" for name in keys.effects_keys(name)] if options.effects else [])
    slots += [f"layers/{name}" for name in layer_names(key, states, decompose=options.decompose)]
    slots += [f"layers/{keys.method_layer(key)}"] if marked else []
    return slots + ([f"varp/{name}" for name in keys.effects_keys(key)] if options.effects else [])


def shift_values(
    measured: Measured, key: str, states: list[str], targets: Targets, cells: AnnData, *, decompose: bool
) -> dict[str, Any]:
    """Values by slot."""
    columns = targets.column_of
    values: dict[str, Any] = {}
    if targets.sets is not None:
        set_names, slot = list(targets.sets), keys.sets_key(key)
        tables = as_tables(measured, set_names, cells.obs_names)
        values |= {f"obsm/{name}": table for name, table in zip(result_names(slot, states), tables, strict=True)}
        if measured.effects is not None:
            tables = effects_of_sets(measured.effects, columns, set_names, cells.var_names)
            values |= {f"varm/{name}": table for name, table in zip(keys.effects_keys(slot), tables, strict=True)}
        return values
    names, layers = layer_names(key, states, decompose=decompose), as_layers(measured, columns, cells.shape)
    values |= {f"layers/{name}": layer for name, layer in zip(names, layers, strict=True)}
    if measured.exact is not None:
        values[f"layers/{keys.method_layer(key)}"] = _csr(
            measured.exact.astype(np.int8), measured.rows, columns[measured.what], cells.shape
        )
    if measured.effects is not None:
        tables = effects_of_genes(measured.effects, columns, cells.n_vars)
        values |= {f"varp/{name}": table for name, table in zip(keys.effects_keys(key), tables, strict=True)}
    return values


def random_slots(key: str, states: list[str], *, sets: bool) -> list[str]:
    """Slots of the random genes or sets beside those that were named."""
    place, name = ("obsm", keys.random_sets_key(key)) if sets else ("layers", keys.reference_key(key))
    return [f"{place}/{name}" for name in result_names(name, states)]


def random_values(
    measured: Measured, key: str, states: list[str], targets: Targets, cells: AnnData, n_random: int
) -> dict[str, Any]:
    """Values of random genes, as layers, or of random sets, as arrays (n_obs, n_sets * n_random), by slot."""
    slots = random_slots(key, states, sets=targets.sets is not None)
    if targets.sets is None:
        return dict(zip(slots, as_layers(measured, targets.column_of, cells.shape), strict=True))
    numbers = [str(number) for number in range(len(targets.sets) * n_random)]
    tables = as_tables(measured, numbers, cells.obs_names)
    return {slot: table.to_numpy() for slot, table in zip(slots, tables, strict=True)}


def untrained_slots(key: str) -> list[str]:
    """Slots of the shifts by an untrained encoder: of the genes that are asked for, and of random ones beside them."""
    return [f"layers/{keys.untrained_key(name)}" for name in (key, keys.reference_key(key))]


def untrained_values(
    measured: Measured, key: str, genes: np.ndarray, targets: Targets, cells: AnnData, dtype: np.dtype
) -> dict[str, sparse.csr_matrix]:
    """Values of `genes`, which were asked for, and of the random ones beside them, if any, as layers, by slot."""
    is_asked = np.isin(measured.what, genes)
    values = {}
    for slot, pairs in zip(untrained_slots(key), (is_asked, ~is_asked), strict=True):
        if pairs is is_asked or pairs.any():
            what, shifts = measured.what[pairs], measured.values[pairs, 0].astype(dtype)
            values[slot] = _csr(shifts, measured.rows[pairs], targets.column_of[what], cells.shape)
    return values


def direction_slots(key: str, groups: list[str | None]) -> list[str]:
    """Slots of mean movements, and of the embeddings whose labels are permuted."""
    of_genes = [f"varm/{keys.direction_key(key, group)}" for group in groups]
    return [*of_genes, f"obsm/{keys.movement_key(key)}", f"obsm/{keys.state_embedding_key(key)}"]


def direction_values(
    moved: dict[str | None, Directions | None], key: str, targets: Targets, cells: AnnData
) -> dict[str, np.ndarray]:
    """Mean movement by each gene in each group, float32 (n_vars, H), NaN where it was not perturbed, by slot."""
    values = {}
    for group, directions in moved.items():
        stored = directions.stored() if directions is not None else {"moved_sum": np.empty((0, 0))}
        if len(stored["moved_sum"]) == 0:
            continue
        means = np.full((cells.n_vars, stored["moved_sum"].shape[1]), np.nan, dtype=np.float32)
        means[targets.column_of[stored["moved_what"]]] = stored["moved_sum"] / stored["moved_n"][:, None]
        values[f"varm/{keys.direction_key(key, group)}"] = means
    return values


def movement_values(groups: list[Measured], key: str, n_obs: int) -> dict[str, np.ndarray]:
    """Mean movement of each cell, float32 (n_obs, H), NaN where it was not perturbed, by slot."""
    sums = {cell: moved for part in groups if part.directions for cell, moved in part.directions.of_cells.items()}
    if not sums:
        return {}
    means = np.full((n_obs, len(next(iter(sums.values()))[1])), np.nan, dtype=np.float32)
    for cell, (n, total) in sums.items():
        means[cell] = total / n
    return {f"obsm/{keys.movement_key(key)}": means}


def result_names(key: str, states: list[str]) -> list[str]:
    """Name of the slot of each state's values, the target's first; one name without states."""
    return [key, *(keys.state_layer(key, state) for state in states[1:])]


def layer_names(key: str, states: list[str], *, decompose: bool) -> list[str]:
    """Names of the layers of single genes, in the order of the columns of their values: shifts, then each of their parts."""
    of_parts = [keys.part_key(key, part) for part in keys.PARTS] if decompose else []
    return [name for each in (key, *of_parts) for name in result_names(each, states)]


def columns_by_token(token_id: np.ndarray, n_tokens: int) -> np.ndarray:
    """For each token the first column of `var` that is it, -1 if none; (n_tokens,)."""
    column_of = np.full(n_tokens, -1)
    mapped = np.flatnonzero(token_id >= 0)[::-1]  # reversed, so that the first column is written last
    column_of[token_id[mapped]] = mapped
    return column_of


def as_layers(measured: Measured, column_of: np.ndarray, shape: tuple[int, int]) -> list[sparse.csr_matrix]:
    """CSR (n_obs, n_vars) for each state, one stored value, zeros too, for each tested pair of a cell and a gene."""
    columns = column_of[measured.what]
    return [_csr(values, measured.rows, columns, shape) for values in measured.values.T]


def _csr(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Unlike a sum or a filter, this constructor keeps zeros."""
    small = max(shape) < 2**31
    rows, columns = (x.astype(np.int32) if small else x for x in (rows, columns))
    layer = sparse.coo_matrix((values, (rows, columns)), shape=shape).tocsr()
    layer.sort_indices()
    return layer


def as_tables(measured: Measured, names: list[str], obs_names: pd.Index) -> list[pd.DataFrame]:
    """Table (n_obs, n_sets) for each state, NaN where a set was not perturbed in a cell."""
    tables = []
    for values in measured.values.T:
        table = np.full((len(obs_names), len(names)), np.nan)
        table[measured.rows, measured.what] = values
        tables.append(pd.DataFrame(table, index=obs_names, columns=names))
    return tables


def effects_of_genes(effects: GeneEffects, column_of: np.ndarray, n_vars: int) -> list[sparse.csr_matrix]:
    """Mean, number and standard deviation of cosines, CSR (n_vars, n_vars): row perturbed, column affected."""
    what, on, mean, n, sd = _summaries(effects)
    rows, columns = column_of[what], column_of[on]
    kept = (rows >= 0) & (columns >= 0)  # a gene that was dropped from var after tokenizing has no place
    shape = (n_vars, n_vars)
    return [_csr(x[kept], rows[kept], columns[kept], shape) for x in (mean, n, sd)]


def effects_of_sets(
    effects: GeneEffects, column_of: np.ndarray, names: list[str], var_names: pd.Index
) -> list[pd.DataFrame]:
    """The same for sets, (n_vars, n_sets); NaN, and number 0, where nothing was measured."""
    what, on, mean, n, sd = _summaries(effects)
    rows = column_of[on]
    kept = rows >= 0
    tables = []
    for values, empty in ((mean, np.nan), (n, 0), (sd, np.nan)):
        table = np.full((len(var_names), len(names)), empty, dtype=values.dtype)
        table[rows[kept], what[kept]] = values[kept]
        tables.append(pd.DataFrame(table, index=var_names, columns=names))
    return tables


def _summaries(effects: GeneEffects) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    found = effects.stored()
    n = found["effect_n"]
    mean = found["effect_sum"] / n
    sd = np.sqrt(np.maximum(found["effect_squares"] / n - mean**2, 0.0))
    return found["effect_what"], found["effect_on"], mean, n.astype(np.int64), sd
