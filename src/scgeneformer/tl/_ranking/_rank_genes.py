"""The table of genes of a ranking: effects with intervals, and one test, for every end state."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys, stats

from ._of_states import compare_states, contrasts, permute_labels
from ._shifts import Shifts, centre, read_ranks, read_shifts, read_token_ids, with_singles

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ._shifts import Ranks

OF_STATES = ("states", "permuted_labels")  # tests of whether shifts depend on the states


@dataclass(frozen=True)
class Ranking:
    """What one call of ``tl.rank_shifts`` asks for, for one group of cells.

    Attributes
    ----------
    data, key, run
        Where shifts are, and the parameters they were made with.
    states
        End states, the target first; one empty name without goal states.
    test, official, centered, min_cells, n_matched
        As the caller said.
    donors
        Donor of each cell.
    other_data, other_key
        The null's shifts, or those of single genes.
    anchor
        Column of the gene that all pairs have in common.
    group, labels, n_permutations, rng
        Group of the cells, and for permuted labels the state of each cell, (n_obs,), how often they are permuted, and the generator.
    """

    data: AnnData
    key: str
    run: dict[str, Any]
    states: list[str]
    test: str
    other_data: AnnData
    official: bool = False
    centered: bool = False
    min_cells: int = 5
    n_matched: int = 200
    donors: pd.Categorical | None = None
    other_key: str = ""
    anchor: int = -1
    group: str | None = None
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=object))
    n_permutations: int = 500
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

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
        return {_keys.state_column(name, state): x for name, x in columns.items() if name not in _keys.SHARED_COLUMNS}

    def shifts(self, data: AnnData, key: str, state: str) -> tuple[Shifts, Shifts | None]:
        """Effects on `state` of the genes under `key`, and of reference genes where there are some, as they are."""
        shifts, name = read_shifts(data, self.layer(key, state), goal=self.goal), _keys.reference_key(key)
        compared = name in data.layers and not self.official
        return shifts, read_shifts(data, self.layer(name, state), goal=self.goal) if compared else None

    def centre(self, data: AnnData, key: str, shifts: Shifts, reference: Shifts | None) -> tuple[Shifts, Shifts | None]:
        """Both of `shifts` centred; raises if they are to be tested and nothing is left."""
        centred, reference = centre(shifts, reference, data.n_obs)
        if self.centered and len(shifts.effects) and not len(centred.effects):
            msg = (
                f"No cell has a gene to compare with in .layers[{key!r}]: with a single gene in each cell, its effect "
                "cannot be distinguished from that of any other gene. Perturb with `n_reference` genes beside it, or "
                "rank with centered=False."
            )
            raise ValueError(msg)
        return centred, reference


def rank_genes(ranking: Ranking, expression: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns by name, each of shape (n_vars,), and the components of a mixture.

    `expression` are further columns, about the genes and not about their shifts.
    """
    table: dict[str, np.ndarray] = {}
    components: dict[str, np.ndarray] = {}
    ranks = _ranks(ranking)
    for state in ranking.states:
        columns = _state(ranking, state, ranks, components)
        if state == ranking.states[0]:
            beside = (
                {} if ranks is None else {"fraction_detected": ranks.fraction_detected, "mean_rank": ranks.relative}
            )
            columns = {"n_cells": columns.pop("n_cells")} | beside | columns | expression
        table |= ranking.named(columns, state)
    if ranking.goal and "source" in ranking.run:
        source = _keys.state_column("effect", str(ranking.run["source"]))
        table["contrast"] = table["effect"] - table[source]
        tested = table["n_cells"] >= ranking.min_cells
        if ranking.test == "states":
            of_cells = describe(contrasts(ranking), ranking.data.n_vars, ranking.donors)[1]
            between = stats.add_error(compare_states(ranking), of_cells)
            table |= {"contrast": between.mean, "contrast_low": between.low, "contrast_high": between.high}
            table |= significance(stats.t_test(between), tested)
        if ranking.test == "permuted_labels":
            permuted = permute_labels(ranking)
            of_contrast = significance(permuted.of_contrast, tested)
            table |= significance(permuted.of_shift, tested)
            table |= {f"contrast_{name}": values for name, values in of_contrast.items()}
    return table, components


def of_untrained(ranking: Ranking) -> tuple[np.ndarray, np.ndarray] | None:
    """Number of cells and mean of the shifts of each gene by an untrained encoder, (n_vars,) each; centred if the ranking is."""
    data, key = ranking.data, ranking.key
    names = [_keys.untrained_key(name) for name in (key, _keys.reference_key(key))]
    if names[0] not in data.layers:
        return None
    shifts, *beside = (read_shifts(data, name, goal=True) for name in names if name in data.layers)
    if ranking.centered:
        shifts, _ = centre(shifts, beside[0] if beside else None, data.n_obs)
    return stats.group_means(shifts.effects, shifts.genes, data.n_vars)


def effect_elsewhere(tables: dict[str | None, dict[str, np.ndarray]], group: str | None) -> dict[str, np.ndarray]:
    """Mean of the absolute effect of each gene over the other groups than `group`, (n_vars,), NaN for genes in none of them."""
    others = [np.abs(table["effect"]) for name, table in tables.items() if name != group]
    of_others = np.reshape(others, (len(others), len(tables[group]["effect"])))
    return {"effect_elsewhere": stats.mean_measured(of_others, axis=0)}


def describe(
    shifts: Shifts, n_groups: int, donors: pd.Categorical | None, *, against_others: bool = False
) -> tuple[dict[str, np.ndarray], stats.Summary]:
    """Columns with numbers, effects and intervals of genes or sets, and what a t-test is about: cells, or donors if there are.

    With donors the effect is the mean over donors, their standard deviations are moderated, and there is no interval for fewer than
    three. With `against_others` a donor's value is the difference to the other genes of that donor.
    """
    over = cells = stats.summarise(shifts.effects, shifts.genes, n_groups)
    columns = {"n_cells": cells.n}
    if donors is not None:
        code = donors.codes[shifts.cells]
        of_donors = shifts.where(code >= 0)
        reduce = stats.donor_differences if against_others else stats.donor_means
        values, groups = reduce(of_donors.effects, of_donors.genes, code[code >= 0], n_groups, len(donors.categories))
        over = stats.moderate(stats.summarise(values, groups, n_groups))
        enough = over.n >= stats.MIN_DONORS
        over = replace(over, **{name: np.where(enough, getattr(over, name), np.nan) for name in ("sd", "low", "high")})
        columns |= {"n_donors": over.n}
    return columns | {"effect": over.mean, "sd": cells.sd, "effect_low": over.low, "effect_high": over.high}, over


def significance(result: stats.GroupTest, tested: np.ndarray, *, undefined: float = np.nan) -> dict[str, np.ndarray]:
    """Score, p-value and false discovery rate where `tested`, with the p-value of tests that are undefined."""
    pvalue = np.where(tested, np.where(np.isnan(result.pvalue), undefined, result.pvalue), np.nan)
    return {
        "scores": np.where(tested, result.score, np.nan),
        "pvals": pvalue,
        "pvals_adj": stats.benjamini_hochberg(pvalue),
    }


def _ranks(ranking: Ranking) -> Ranks | None:
    """Where genes stand in the cells that were perturbed; None where the tokens are gone, unless a test needs them."""
    rows = np.unique(read_shifts(ranking.data, ranking.key, goal=ranking.goal).cells)
    try:
        return read_ranks(ranking.data, ranking.run, rows)
    except (KeyError, ValueError):
        if ranking.test == "random_genes":
            raise
        return None


def _state(
    ranking: Ranking, state: str, ranks: Ranks | None, components: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Columns of one end state, under their plain names."""
    data, n_vars = ranking.data, ranking.data.n_vars
    shifts, reference = ranking.shifts(data, ranking.key, state)
    parts: dict[str, np.ndarray] = {}
    if ranking.test == "interaction":
        shifts, parts = _interactions(ranking, state, shifts)
    elif not ranking.official:
        centred, of_reference = ranking.centre(data, ranking.key, shifts, reference)
        name, beside = ("plain_effect", shifts) if ranking.centered else ("centered_effect", centred)
        parts = {name: stats.group_means(beside.effects, beside.genes, n_vars)[1]}
        shifts, reference = (centred, of_reference) if ranking.centered else (shifts, reference)
    differences = ranking.test == "donors" and not ranking.centered
    donors = None if ranking.test == "permuted_labels" else ranking.donors  # within which labels are permuted
    columns, over = describe(shifts, n_vars, donors, against_others=differences)
    columns = {"n_cells": columns.pop("n_cells")} | _fraction_exact(data, ranking.key, n_vars) | columns | parts
    columns |= _parts_of_effects(ranking, state, against_others=differences)
    tested = columns["n_cells"] >= ranking.min_cells
    match ranking.test:
        case "rank_sum" if reference is not None:
            result = stats.rank_sum_pool(shifts.effects, shifts.genes, reference.effects, n_vars)
        case "rank_sum":
            result = stats.rank_sum(shifts.effects, shifts.genes, n_vars, pool="all" if ranking.official else "others")
        case "donors" | "interaction":
            result = stats.t_test(over)
        case "vs_null":
            if ranking.layer(ranking.other_key, state) not in ranking.other_data.layers and state != ranking.states[0]:
                return columns
            null, beside_null = ranking.shifts(ranking.other_data, ranking.other_key, state)
            if ranking.centered:
                null, _ = ranking.centre(ranking.other_data, ranking.other_key, null, beside_null)
            null = null.renamed(ranking.other_data.var_names, data.var_names)
            columns["null_n_cells"], columns["null_effect"] = stats.group_means(null.effects, null.genes, n_vars)
            result = stats.rank_sum_null(
                shifts.effects, shifts.genes, null.effects, null.genes, n_vars, ties=not ranking.official
            )
        case "random_genes" if ranks is not None:
            result, columns["null_percentile"], tested = _against_matched(ranking, ranks, columns, tested)
        case _ if ranking.test in OF_STATES:
            return columns  # tested together, since the test is of both states
        case "mixture":
            impact, found = _impact(ranking, shifts, columns["effect"], tested)
            components |= found
            return columns | impact
        case _:
            return columns
    return columns | significance(result, tested, undefined=1.0 if ranking.official else np.nan)


def _parts_of_effects(ranking: Ranking, state: str, *, against_others: bool) -> dict[str, np.ndarray]:
    """Means of the parts of shifts, where these were decomposed: over what the effect is a mean of; over cells if it is centred, which they are not."""
    if ranking.official or "decompose" not in ranking.run:
        return {}
    data, donors = ranking.data, None if ranking.centered else ranking.donors
    columns = {}
    for part in _keys.PARTS:
        name = ranking.layer(_keys.part_key(ranking.key, part), state)
        if name in data.layers:
            shifts = read_shifts(data, name, goal=ranking.goal)
            columns[part] = describe(shifts, data.n_vars, donors, against_others=against_others)[0]["effect"]
    return columns


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
    ranking: Ranking, ranks: Ranks, columns: dict[str, np.ndarray], tested: np.ndarray
) -> tuple[stats.GroupTest, np.ndarray, np.ndarray]:
    """Test against matched genes, percentile among them, and which genes were tested: those in enough cells that are in the tokens of some."""
    effect, n_cells = columns["effect"], columns["n_cells"]
    tested = tested & ~np.isnan(ranks.position)
    if ranking.n_matched >= tested.sum():
        msg = (
            f"n_matched={ranking.n_matched} needs more genes than that, but {tested.sum()} were perturbed in "
            f"min_cells={ranking.min_cells} cells whose tokens include them. Perturb more genes, or match fewer."
        )
        raise ValueError(msg)
    genes = np.flatnonzero(tested)
    # ties between distances do not depend on the order of genes
    genes = genes[np.argsort(ranks.token_id[genes], kind="stable")]
    near = stats.matched_groups(n_cells[genes], ranks.position[genes], ranking.n_matched)
    matched, of_tested = stats.matched_test(effect[genes], near)
    score, pvalue, percentile = np.full((3, len(effect)), np.nan)
    score[genes], pvalue[genes], percentile[genes] = matched.score, matched.pvalue, of_tested
    return stats.GroupTest(score, pvalue), percentile, tested


def _impact(
    ranking: Ranking, shifts: Shifts, effect: np.ndarray, tested: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    if len(np.unique(effect[tested])) < 2:
        msg = (
            f"test='mixture' needs different effects of at least two genes in min_cells={ranking.min_cells} cells "
            f"each, but only {tested.sum()} genes are. Perturb more cells or genes, or lower `min_cells`."
        )
        raise ValueError(msg)
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
