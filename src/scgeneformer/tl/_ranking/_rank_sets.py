"""The table of sets of genes of a ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys, stats

from ._rank_genes import describe, significance
from ._shifts import CURE_SETS, Shifts, read_set_shifts

if TYPE_CHECKING:
    from ._rank_genes import Ranking


def rank_sets(ranking: Ranking) -> pd.DataFrame:
    """Effects of sets with intervals and, where random sets were perturbed beside them, tests against those; one row per set."""
    table: dict[str, np.ndarray] = {}
    names: list[str] = []
    for state in ranking.states:
        slot = ranking.layer(_keys.sets_key(ranking.key), state)
        shifts, columns_of_state = read_set_shifts(ranking.data, slot, goal=ranking.goal)
        names = names or columns_of_state
        if columns_of_state != names:
            msg = f".obsm[{slot!r}] has other sets than .obsm[{_keys.sets_key(ranking.key)!r}]. Perturb again."
            raise ValueError(msg)
        table |= ranking.named(_state(ranking, state, shifts, len(names)), state)
    return pd.DataFrame(table, index=pd.Index(names, name="set"))


def _state(ranking: Ranking, state: str, shifts: Shifts, n_sets: int) -> dict[str, np.ndarray]:
    """Columns of one end state, under their plain names."""
    slot = ranking.layer(_keys.random_sets_key(ranking.key), state)
    if slot not in ranking.data.obsm:
        return describe(shifts, n_sets, ranking.donors)[0]
    random = _read_random(ranking, slot, n_sets)  # (n_obs, n_sets, n_random)
    center = stats.mean_measured(random, axis=2)  # (n_obs, n_sets)
    plain = stats.group_means(shifts.effects, shifts.genes, n_sets)[1]
    effects = shifts.effects - center[shifts.cells, shifts.genes]
    compared = ~np.isnan(effects)
    centred = Shifts(effects[compared], shifts.genes[compared], shifts.cells[compared])
    columns, _ = describe(centred, n_sets, ranking.donors)

    # a set is one draw of genes: what it does is judged by what other draws do, not by how similar cells are
    values = np.full(center.shape, np.nan)
    values[centred.cells, centred.genes] = centred.effects
    null = np.where(np.isnan(values)[..., None], np.nan, random - center[..., None])
    null_means = np.stack([stats.mean_measured(null[..., draw], axis=0) for draw in range(random.shape[2])], axis=1)
    tested = (columns["n_cells"] >= ranking.min_cells) & ~np.isnan(null_means).any(axis=1)
    result, percentile = stats.draw_test(stats.mean_measured(values, axis=0), null_means)
    columns |= {"plain_effect": plain, "null_percentile": np.where(tested, percentile, np.nan)}
    return columns | significance(result, tested)


def _read_random(ranking: Ranking, slot: str, n_sets: int) -> np.ndarray:
    """Effects of random sets, (n_obs, n_sets, n_random), NaN where one was not perturbed."""
    values = np.asarray(ranking.data.obsm[slot], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] % n_sets:
        msg = f".obsm[{slot!r}] has {values.shape[1]} columns, which is not a multiple of the {n_sets} sets. Run `{CURE_SETS}` again."
        raise ValueError(msg)
    values = values.reshape(len(values), n_sets, -1)
    return values if ranking.goal else 1 - values
