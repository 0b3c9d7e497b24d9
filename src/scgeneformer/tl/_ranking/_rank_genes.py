"""The table of genes of a ranking: effects with intervals, and one test, for every end state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys, stats

from ._shifts import Shifts, mean_positions, read_shifts, read_token_ids, with_singles

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# columns that are the same for every end state
SHARED = ("n_cells", "n_donors", "null_n_cells", "fraction_exact")


@dataclass(frozen=True)
class Ranking:
    """What one call of ``tl.rank_shifts`` asks for.

    Attributes
    ----------
    data, key, run
        Where shifts are, and the parameters they were made with.
    states
        End states, the target first; one empty name without goal states.
    test, official, min_cells, n_matched
        As the caller said.
    donors
        Donor of each cell.
    other_data, other_key
        The null's shifts, or those of single genes.
    anchor
        Column of the gene that all pairs have in common.
    """

    data: AnnData
    key: str
    run: dict[str, Any]
    states: list[str]
    test: str
    official: bool = False
    min_cells: int = 5
    n_matched: int = 200
    donors: pd.Categorical | None = None
    other_data: AnnData | None = None
    other_key: str = ""
    anchor: int = -1

    @property
    def goal(self) -> bool:
        """Whether effects are changes towards states, or distances from the original cell."""
        return self.states != [""]

    def layer(self, key: str, state: str) -> str:
        """Name of the layer, or the `obsm` slot, with respect to `state`."""
        return key if state == self.states[0] else _keys.state_layer(key, state)

    def named(self, columns: dict[str, np.ndarray], state: str) -> dict[str, np.ndarray]:
        """Columns of one state under the names they have in the table; what all states share is the first one's."""
        if state == self.states[0]:
            return columns
        return {_keys.state_column(name, state): x for name, x in columns.items() if name not in SHARED}


def rank_genes(ranking: Ranking) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns by name, each of shape (n_vars,), and the components of a mixture."""
    table: dict[str, np.ndarray] = {}
    components: dict[str, np.ndarray] = {}
    for state in ranking.states:
        table |= ranking.named(_state(ranking, state, components), state)
    return table, components


def describe(
    shifts: Shifts, n_groups: int, donors: pd.Categorical | None, *, against_others: bool = False
) -> tuple[dict[str, np.ndarray], stats.Summary]:
    """Columns with numbers, effects and intervals of genes or sets, and what a t-test is about: cells, or donors if there are.

    With `against_others` a donor's value is the difference to the other genes of that donor.
    """
    over = cells = stats.summarise(shifts.effects, shifts.genes, n_groups)
    columns = {"n_cells": cells.n, "effect": cells.mean, "sd": cells.sd}
    if donors is not None:
        code = donors.codes[shifts.cells]
        known = shifts.where(code >= 0)
        reduce = stats.donor_differences if against_others else stats.donor_means
        values, groups = reduce(known.effects, known.genes, code[code >= 0], n_groups, len(donors.categories))
        over = stats.summarise(values, groups, n_groups)
        columns |= {"n_donors": over.n, "donor_effect": over.mean}
    return columns | {"effect_low": over.low, "effect_high": over.high}, over


def significance(result: stats.GroupTest, tested: np.ndarray, *, undefined: float = np.nan) -> dict[str, np.ndarray]:
    """Score, p-value and false discovery rate where `tested`, with the p-value of tests that are undefined."""
    pval = np.where(tested, np.where(np.isnan(result.pvalue), undefined, result.pvalue), np.nan)
    return {
        "scores": np.where(tested, result.score, np.nan),
        "pvals": pval,
        "pvals_adj": stats.benjamini_hochberg(pval),
    }


def _state(ranking: Ranking, state: str, components: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of one end state, under their plain names."""
    data, n_vars = ranking.data, ranking.data.n_vars
    shifts, parts = read_shifts(data, ranking.layer(ranking.key, state), goal=ranking.goal), {}
    exact = _fraction_exact(data, ranking.key, n_vars)
    if ranking.test == "interaction":
        shifts, parts = _interactions(ranking, state, shifts)
    columns, over = describe(shifts, n_vars, ranking.donors, against_others=ranking.test == "donors")
    columns = {"n_cells": columns.pop("n_cells")} | exact | columns | parts
    tested = columns["n_cells"] >= ranking.min_cells
    match ranking.test:
        case "rank_sum":
            pool = "all" if ranking.official else "others"
            result = stats.rank_sum(shifts.effects, shifts.genes, n_vars, pool=pool)
        case "donors" | "interaction":
            result = stats.t_test(over)
        case "vs_null":
            null_layer = ranking.layer(ranking.other_key, state)
            if null_layer not in ranking.other_data.layers and state != ranking.states[0]:
                return columns
            null = read_shifts(ranking.other_data, null_layer, goal=ranking.goal)
            null = null.renamed(ranking.other_data.var_names, data.var_names)
            columns["null_n_cells"], columns["null_effect"] = stats.group_means(null.effects, null.genes, n_vars)
            result = stats.rank_sum_null(
                shifts.effects, shifts.genes, null.effects, null.genes, n_vars, ties=not ranking.official
            )
        case "random_genes":
            result, tested = _against_matched(ranking, shifts, columns["effect"], tested)
        case "mixture":
            impact, found = _impact(ranking, shifts, columns["effect"], tested)
            components |= found
            return columns | impact
        case _:
            return columns
    return columns | significance(result, tested, undefined=1.0 if ranking.official else np.nan)


def _fraction_exact(data: AnnData, key: str, n_vars: int) -> dict[str, np.ndarray]:
    """Of each gene's stored shifts the part that was not estimated, where both kinds were mixed."""
    name = _keys.method_layer(key)
    if name not in data.layers:
        return {}
    exact = read_shifts(data, name, goal=True)
    return {"fraction_exact": stats.group_means(exact.effects, exact.genes, n_vars)[1]}


def _interactions(ranking: Ranking, state: str, pairs: Shifts) -> tuple[Shifts, dict[str, np.ndarray]]:
    """Effects of pairs less those of their genes alone, and the means of the three."""
    data = ranking.data
    singles = read_shifts(ranking.other_data, ranking.layer(ranking.other_key, state), goal=ranking.goal)
    pairs, of_gene, of_anchor = with_singles(pairs, singles, ranking.anchor, data.shape)
    if len(pairs.effects) == 0:
        msg = (
            f"No cell has a pair in .layers[{ranking.key!r}] with both its genes alone in .layers[{ranking.other_key!r}]. "
            f"Perturb the anchor {data.var_names[ranking.anchor]!r} and the other genes one by one in the same cells."
        )
        raise ValueError(msg)
    parts = {"pair_effect": pairs.effects, "gene_effect": of_gene, "anchor_effect": of_anchor}
    means = {name: stats.group_means(x, pairs.genes, data.n_vars)[1] for name, x in parts.items()}
    return Shifts(pairs.effects - (of_gene + of_anchor), pairs.genes, pairs.cells), means


def _against_matched(
    ranking: Ranking, shifts: Shifts, effect: np.ndarray, tested: np.ndarray
) -> tuple[stats.GroupTest, np.ndarray]:
    """Test against matched genes, and which genes were: those in enough cells that are in the tokens of some."""
    n_cells = np.bincount(shifts.genes, minlength=len(effect))
    token_id, position = mean_positions(ranking.data, ranking.run, np.unique(shifts.cells))
    tested = tested & ~np.isnan(position)
    if ranking.n_matched >= tested.sum():
        msg = (
            f"n_matched={ranking.n_matched} matched genes need more genes than that, but {tested.sum()} were perturbed in "
            f"min_cells={ranking.min_cells} cells that are in their tokens. Perturb more genes, or match fewer."
        )
        raise ValueError(msg)
    genes = np.flatnonzero(tested)
    genes = genes[
        np.argsort(token_id[genes], kind="stable")
    ]  # ties between distances do not depend on the order of genes
    near = stats.matched_groups(n_cells[genes], position[genes], ranking.n_matched)
    matched = stats.matched_test(effect[genes], near)
    score, pvalue = np.full((2, len(effect)), np.nan)
    score[genes], pvalue[genes] = matched.score, matched.pvalue
    return stats.GroupTest(score, pvalue), tested


def _impact(
    ranking: Ranking, shifts: Shifts, effect: np.ndarray, tested: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    if ranking.official:  # similarities, in the order of tokens
        token_id = read_token_ids(ranking.data, ranking.run)
        genes = np.flatnonzero(tested)
        genes = genes[np.argsort(token_id[genes], kind="stable")]
        mixture = stats.two_components(1 - effect[genes], compat="official")
        of_gene, of_cell = mixture.official_impact(1 - effect), mixture.official_impact(1 - shifts.effects)
    else:
        mixture = stats.two_components(effect[tested])
        of_gene, of_cell = mixture.upper(effect), mixture.upper(shifts.effects)
    _, fraction = stats.group_means(of_cell, shifts.genes, len(effect))
    columns = {"impact": np.where(tested, of_gene, np.nan), "impact_fraction": np.where(tested, fraction, np.nan)}
    mean = 1 - mixture.means if ranking.official else mixture.means
    return columns, {"mean": mean, "sd": mixture.sds, "weight": mixture.weights}
