"""The table of sets of genes of a ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scgeneformer import _keys, stats

from ._rank_genes import describe, significance
from ._shifts import read_set_shifts

if TYPE_CHECKING:
    import numpy as np

    from ._rank_genes import Ranking


def rank_sets(ranking: Ranking) -> pd.DataFrame:
    """Effects of sets with intervals and, with goal states, tests against no effect; one row a set.

    Without goal states effects cannot be negative, so that there is no question whether their mean is 0.
    """
    table: dict[str, np.ndarray] = {}
    names: list[str] = []
    for state in ranking.states:
        slot = ranking.layer(_keys.sets_key(ranking.key), state)
        shifts, found = read_set_shifts(ranking.data, slot, goal=ranking.goal)
        names = names or found
        if found != names:
            msg = f".obsm[{slot!r}] has other sets than .obsm[{_keys.sets_key(ranking.key)!r}]. Perturb again."
            raise ValueError(msg)
        columns, over = describe(shifts, len(names), ranking.donors)
        if ranking.goal:
            columns |= significance(stats.t_test(over), columns["n_cells"] >= ranking.min_cells)
        table |= ranking.named(columns, state)
    return pd.DataFrame(table, index=pd.Index(names, name="set"))
