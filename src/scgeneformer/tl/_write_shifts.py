"""Results of a perturbation into their slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from scgeneformer.engine.perturb import GeneEffects, Outcome


def shift_slots(
    key: str, states: list[str], target: str | None, *, genes: bool, sets: bool, marked: bool, effects: bool
) -> list[str]:
    """Every slot that a perturbation of single `genes`, of `sets`, or of both writes.

    Parameters
    ----------
    key
        `key_added`.
    states
        End states; only with a target.
    target
        The target.
    genes, sets
        What is perturbed.
    marked
        Whether exact values are told from estimates.
    effects
        Whether effects on genes are measured.
    """
    slots = [f"uns/{key}"]
    if genes:
        slots += [f"layers/{name}" for name in result_names(key, states, target)]
        slots += [f"layers/{keys.method_layer(key)}"] if marked else []
        slots += [f"varp/{name}" for name in keys.effects_keys(key)] if effects else []
    if sets:
        slots += [f"obsm/{name}" for name in result_names(keys.sets_key(key), states, target)]
        slots += [f"varm/{name}" for name in keys.effects_keys(keys.sets_key(key))] if effects else []
    return slots


def result_names(key: str, states: list[str], target: str | None) -> list[str]:
    """Name of the slot of each state's values, in the order of `states`; one name without states."""
    if target is None:
        return [key]
    return [key if state == target else keys.state_layer(key, state) for state in states]


def columns_by_token(token_id: np.ndarray, n_tokens: int) -> np.ndarray:
    """For each token the first column of `var` that is it, -1 if none; (n_tokens,)."""
    column_of = np.full(n_tokens, -1)
    mapped = np.flatnonzero(token_id >= 0)[::-1]  # reversed, so that the first column is written last
    column_of[token_id[mapped]] = mapped
    return column_of


def as_layers(
    outcome: Outcome, chosen: np.ndarray, column_of: np.ndarray, shape: tuple[int, int]
) -> list[sparse.csr_matrix]:
    """CSR (n_obs, n_vars) for each state, one stored value, zeros too, for each tested pair of a cell and a gene."""
    rows, columns = chosen[outcome.cells], column_of[outcome.what]
    return [_csr(values, rows, columns, shape) for values in outcome.values.T]


def mark_exact(
    outcome: Outcome, exact: np.ndarray, chosen: np.ndarray, column_of: np.ndarray, shape: tuple
) -> sparse.csr_matrix:
    """CSR int8 of the same sparsity: 1 where `exact`, bool (P,)."""
    return _csr(exact.astype(np.int8), chosen[outcome.cells], column_of[outcome.what], shape)


def _csr(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Unlike a sum or a filter, this constructor keeps zeros."""
    small = max(shape) < 2**31
    rows, columns = (x.astype(np.int32) if small else x for x in (rows, columns))
    layer = sparse.coo_matrix((values, (rows, columns)), shape=shape).tocsr()
    layer.sort_indices()
    return layer


def as_tables(outcome: Outcome, chosen: np.ndarray, names: list[str], obs_names: pd.Index) -> list[pd.DataFrame]:
    """Table (n_obs, n_sets) for each state, NaN where a set was not perturbed in a cell."""
    tables = []
    for values in outcome.values.T:
        table = np.full((len(obs_names), len(names)), np.nan)
        table[chosen[outcome.cells], outcome.what] = values
        tables.append(pd.DataFrame(table, index=obs_names, columns=names))
    return tables


def effects_of_genes(
    effects: GeneEffects, column_of: np.ndarray, n_vars: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix, sparse.csr_matrix]:
    """Mean, number and standard deviation of cosines, CSR (n_vars, n_vars): row perturbed, column affected."""
    what, on, mean, n, sd = _summaries(effects)
    rows, columns = column_of[what], column_of[on]
    kept = (rows >= 0) & (columns >= 0)  # a gene that was dropped from var after tokenizing has no place
    shape = (n_vars, n_vars)
    return tuple(_csr(x[kept], rows[kept], columns[kept], shape) for x in (mean, n, sd))


def effects_of_sets(
    effects: GeneEffects, column_of: np.ndarray, names: list[str], var_names: pd.Index
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The same for sets, (n_vars, n_sets); NaN, and number 0, where nothing was measured."""
    what, on, mean, n, sd = _summaries(effects)
    rows = column_of[on]
    kept = rows >= 0
    tables = []
    for values, empty in ((mean, np.nan), (n, 0), (sd, np.nan)):
        table = np.full((len(var_names), len(names)), empty, dtype=values.dtype)
        table[rows[kept], what[kept]] = values[kept]
        tables.append(pd.DataFrame(table, index=var_names, columns=names))
    return tuple(tables)


def _summaries(effects: GeneEffects) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    found = effects.stored()
    n = found["effect_n"]
    mean = found["effect_sum"] / n
    sd = np.sqrt(np.maximum(found["effect_squares"] / n - mean**2, 0.0))
    return found["effect_what"], found["effect_on"], mean, n.astype(np.int64), sd
