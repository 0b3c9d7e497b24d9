"""``tl.rank_shifts``: ranking of perturbed genes and sets of genes by their effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scgeneformer import _keys, _slots, stats
from scgeneformer import _log as logg
from scgeneformer._arguments import checked
from scgeneformer.evaluation._obs_names import donor_column
from scgeneformer.tl._perturbation._agreement import FAIR
from scgeneformer.tl._perturbation._states import groups_of

from ._expression import agreement, expression_columns
from ._rank_genes import OF_STATES, Ranking, effect_elsewhere, of_untrained, rank_genes
from ._rank_sets import rank_sets
from ._resolve import can_centre, check_arguments, choose_test, resolve
from ._shifts import CURE, read_shifts

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

NO_DESIGN = (
    "No p-values: test='states' needs three donors with cells of both states or, if each donor has cells of one state, "
    "three donors of the source and two of the target."
)
OF_SETS = ("rank_sum", "donors", "aggregate")  # tests that make sense without single genes


@checked
def rank_shifts(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    test: Literal[
        "states",
        "rank_sum",
        "donors",
        "vs_null",
        "random_genes",
        "interaction",
        "permuted_labels",
        "mixture",
        "aggregate",
    ]
    | None = None,
    centered: bool | None = None,
    compat: Literal["official"] | None = None,
    donor: str | None = None,
    null: AnnData | MuData | str | None = None,
    singles: str | None = None,
    n_matched: int = 200,
    n_permutations: int = 500,
    min_cells: int | None = None,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Rank genes, and sets of genes, by the effect of their perturbation on the cells.

    Reads the shifts that :func:`~scgeneformer.tl.perturb` or :func:`~scgeneformer.tl.screen` stored. Every stored entry is a measurement, explicit zeros
    included; entries that are not stored, or NaN, were not tested. The effect of a perturbation on a cell is

    * with goal states, the change in cosine similarity to the target state, positive if the cell moves towards it;
      and the same for every further state;
    * without goal states, 1 minus the cosine similarity of original and perturbed embedding: 0 means no effect. (Official Geneformer
      reports the similarity itself and calls it a shift.)

    Most of the effect is common to all genes of a cell: if any gene is deleted, the genes after it move up by one rank. Effects are therefore also
    given *relative to the other genes of the same cell* (centred). Moreover, every gene has some effect in *any* direction: a test of whether a gene
    differs from other genes finds genes with random states, too, and more of them with more cells (``benchmarks/judge_null.py``). The default
    test is therefore whether the effect depends on the states, and its effects are centred. It needs the movements that :func:`~scgeneformer.tl.perturb`
    and :func:`~scgeneformer.tl.screen` store between two states.

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, as CSR or CSC, in ``.obsm[f"{key}_sets"]``, or both.
    key
        Slot of the shifts, `key_added` of :func:`~scgeneformer.tl.perturb`.
    test
        Defaults to ``"states"`` if movements are stored (`directions` of :func:`~scgeneformer.tl.perturb` and :func:`~scgeneformer.tl.screen`) and no perturbed cell was removed since, else to
        ``"donors"`` if `donor` is given, else to ``"rank_sum"``, as with `compat`.

        ``"states"``: tests whether the shift of the gene depends on the states: whether its ``contrast``, the shift towards the target minus the shift
        towards the source, differs from 0 (t-test). Its squared standard error is the sum of two: that of the mean contrast over the perturbed cells, and that of the
        centroids, from the scatter of the cells of both states along the mean movement of the gene. With `donor`, donors are the replicates in both, with
        variances moderated over genes (Smyth 2004). If at least three donors have cells of both states, the contrasts within these donors are tested; if each
        has cells of one state, three donors of the source are compared with two of the target, or more.
        ``"rank_sum"``: compares the shifts of the gene with those of other genes, or of the random genes perturbed with listed ones, over cells (Wilcoxon).
        ``"donors"``: the same comparison with donors as replicates. The mean effects of the gene in the donors (if not centred, their
        differences from the other genes of the donor) are tested against 0 by a t-test whose variance is moderated over genes
        (Smyth 2004). Cells of one donor are not independent samples, so use this test if there are donors. It needs at least three.
        ``"vs_null"``: compares the shifts of the gene with its shifts in `null` (Wilcoxon), for example in cells of
        another state.
        ``"random_genes"``: compares the effect of the gene with the effects of the `n_matched` genes that are most similar in the
        number of cells they were tested in and in their mean rank, as a further draw from a normal
        distribution (t). Frequency and rank of a gene alone cause a shift; this tests for an effect beyond that.
        ``"interaction"``: for pairs of genes with an anchor. In every cell the effects of the gene alone and of the anchor
        alone, from `singles`, are subtracted from the effect of the pair, and the difference is tested against 0 (Student's t).
        ``"permuted_labels"``: the question of ``"states"``, answered by permutation. The labels of the cells that were not perturbed are permuted
        `n_permutations` times, within `donor` if given. The shift towards the target and its ``contrast`` (minus the shift towards the
        source) are compared with their values under permuted labels. Needs stored movements, and cells of both states that were not perturbed (`max_cells`).
        ``"mixture"``: a mixture of two Gaussians over the effects of genes separates genes with impact from those without.
        Only without goal states; no p values.
        ``"aggregate"``: effects with their intervals, no test.
    centered
        Subtract from every shift the mean shift of the same cell, over all tested genes, or over the random genes that
        :func:`~scgeneformer.tl.perturb` adds to listed ones (`n_reference`). Defaults to True for ``"states"`` and ``"permuted_labels"`` if there are such
        random genes, or at least ten tested genes in a cell (median), else to False. Not for ``"rank_sum"`` and ``"donors"`` of shifts towards a state:
        with random states, their p values of centred effects are too small. Not with `compat`, nor for interactions, which already
        compare within cells.
    compat
        ``"official"``: values as official Geneformer defines them, with genes tested from 1 cell on. For ``"rank_sum"`` (with goal
        states) the pool includes the tested gene, and ties are not corrected for. For ``"vs_null"`` (without goal states) ties are
        not corrected for, and a gene that is missing from the null has p = 1 and counts as a test. For ``"mixture"`` the
        first component of an unscaled fit counts as the one with impact, which is often wrong. Intervals, and the tests of
        sets, are the same as without `compat`. The other tests have no working official counterpart.
    donor
        Column of ``.obs`` with donors (in a MuData of any modality, such as ``"prot:donor"``), for ``"donors"``. Optional for ``"states"``, for
        ``"interaction"``, which is then tested over the means of donors, and for ``"permuted_labels"``, which are then permuted within
        donors. Cells without a donor do not enter the test.
    null
        For ``"vs_null"``: the `key` of another perturbation in the same `adata`, or another object that was perturbed in the same way,
        with shifts under the same `key`; genes are matched by name.
    singles
        For ``"interaction"``: the `key` of a perturbation of single genes in the same `adata`, the anchor among them, with otherwise
        the same options.
    n_matched
        Number of matched genes, for ``"random_genes"``.
    n_permutations, rng
        For ``"permuted_labels"``: number of permutations, and seed or generator.
    min_cells
        Minimum number of cells for a test. Genes and sets measured in fewer cells get an effect, but are neither tested nor counted in the
        false discovery rate; such genes stay in the pool. Defaults to 5, or to 1 with `compat` or ``"aggregate"``. Official Geneformer
        tests from 1 cell on, where a rank-sum p-value cannot fall below 0.08.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.varm[key]``
        If there are shifts of genes: DataFrame indexed by ``var_names``, float64, NaN where a gene has no value:

        ``n_cells``
            int64, cells in which the gene was tested and can be compared (for ``"interaction"`` as a pair and alone, and the anchor alone).
        ``fraction_detected``, ``mean_rank``
            Fraction of the perturbed cells whose tokens contain the gene, and its mean relative rank in these cells: 0 is the top, 1 the bottom.
            Absent if the tokens were removed.
        ``effect``, ``sd``
            The tested effect: mean of the shifts over cells; for ``"donors"`` the mean over donors of the difference from the other genes of the
            donor. Standard deviation over cells (n - 1). For ``"interaction"``, the effect of the pair minus the sum of the two single effects; without goal states this is minus the
            official ``Combo_minus_sum_shift``, and positive if the effect of the pair is larger than the sum.
        ``effect_low``, ``effect_high``
            95 % confidence interval of ``effect`` by Student's t over cells; with `donor` over donors, with the moderated variance, and NaN
            for fewer than three donors.
        ``centered_effect``, or ``plain_effect`` if `centered`
            Mean over cells of centred shifts, or of uncentred shifts.
        ``own``, ``network``, ``renumbering``
            With `decompose` of :func:`~scgeneformer.tl.perturb`: the parts of the effect that come from the vector of the gene, from the attention of the other genes,
            and from their moving up. They are means over the same cells as ``effect`` and add up to it; not with `compat`. They are not
            centred: if `centered` they add up to ``plain_effect``.
        ``n_donors``
            With `donor`: number of donors that have the gene.
        ``scores``, ``pvals``, ``pvals_adj``
            As in :func:`scanpy.tl.rank_genes_groups`. Standard normal score (t for ``"states"``, ``"donors"``, ``"interaction"`` and
            ``"random_genes"``), positive if the effect is larger than that of the comparison, or for ``"states"`` if the contrast is positive; two-sided p value; false discovery rate
            over tested genes (Benjamini-Hochberg).
        ``contrast``
            With source and target: the effect towards the target minus the effect towards the source. For ``"states"`` by mean embeddings, and with
            `donor` by means over donors.
        ``contrast_low``, ``contrast_high``
            For ``"states"``: 95 % confidence interval of the contrast, by the standard error of the test.
        ``contrast_scores``, ``contrast_pvals``, ``contrast_pvals_adj``
            For ``"permuted_labels"``: the same for the contrast.
        ``null_percentile``
            For ``"random_genes"``: percentage of the matched genes with a smaller effect.
        ``log2fc``, ``auroc``, ``linear_shift``
            Baselines from expression, with source and target and if the counts are available. Log2 fold change of mean counts per 10,000 and
            area under the ROC curve, target against source; for deletions also how far the loss of the gene's expression moves a cell along the line
            from the mean log expression of the source to that of the target.
        ``untrained``
            With `untrained` of :func:`~scgeneformer.tl.perturb`: mean shift towards the target by an encoder with random weights, over the cells in
            which it was estimated; centred if `centered`.
        ``effect_elsewhere``
            For cells that were perturbed ``within`` groups: mean absolute effect in the other groups. If it is large,
            the gene moves cells of all groups.
        ``null_n_cells``, ``null_effect``
            The values of the null, for ``"vs_null"``; further states are tested if the null has them too.
        ``pair_effect``, ``gene_effect``, ``anchor_effect``
            For ``"interaction"``: mean effects of the pair, of the gene alone, of the anchor alone, in the same cells.
        ``impact``, ``impact_fraction``
            For ``"mixture"``: 1 if the effect of the gene belongs to the component with larger effects, else 0; fraction of its
            cells whose effects belong to it.
        ``fraction_exact``
            If some shifts are estimates (``refine`` of :func:`~scgeneformer.tl.screen`): fraction of exact shifts of the gene. All shifts are used.
        ``effect_<state>``, ``pvals_<state>``, ...
            The same for the source and each further state, with goal states, except numbers of cells and donors. (A state
            named low or high is ``state_low`` or ``state_high`` here.)
    ``.varm[key_<group>]``
        Instead, if cells were perturbed ``within`` groups: the same table for each group, ranked separately.
    ``.uns[key]["sets"]``
        If there are shifts of sets: DataFrame indexed by their names, with the columns above that apply. If random sets were
        perturbed as well (`n_random` of :func:`~scgeneformer.tl.perturb_sets`), effects are relative to these, and ``scores``, ``pvals`` and
        ``pvals_adj`` compare a set with its random sets (t, as a further draw from a normal distribution), since every set moves
        the cells; ``null_percentile`` is its percentile among them. Without random sets there is no test.
    ``.uns[key]["rank"]``
        Parameters, ``goal``, ``states`` (target first), ``groups`` if any, number of tested genes, type of the samples (``"replicates"``,
        cells or donors), and ``"agreement"``: Spearman correlation of the effects with ``log2fc``, ``linear_shift`` and ``mean_rank``, and
        ``"explained"``, the share of the variance of the ranks of effects that these explain together; also the correlation with the parts of the effects and with
        ``untrained``, if available, the latter over genes in at least `min_cells` cells of both. For ``"mixture"`` the components (with `compat`
        in the order of the fit, the first one counted as impact).

    Raises
    ------
    KeyError
        If there are no shifts, no tokens for a test that needs positions, or no column `donor`.
    ValueError
        If the layer is dense, if an argument that `test` needs is missing, or one that it does not use is given, if it has no official form, or if ``.varm[key]``
        holds something other than an earlier ranking; if perturbed cells were removed and the test needs their movements; or if `centered` and no cell has a gene to compare with.

    Warns
    -----
    In the log, if the default test of shifts between two states is not that of the states, if estimated shifts do not agree well with exact values (:func:`~scgeneformer.tl.screen`), if p values are over cells although a column of ``.obs`` looks like donors, and if there are too few donors for p values.

    Notes
    -----
    ``rank_shifts(adata, compat="official")`` reproduces the official ``goal_state_shift`` table, with ``test="vs_null"`` and
    ``test="mixture"`` the tables of these names, and ``test="aggregate"`` the mean of ``aggregate_data``. Official Geneformer
    samples 100,000 values if the pool is larger; here all are used. For effects on genes see :func:`scgeneformer.get.effects`.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.perturb(adata, genes=["STAT1", "STAT2", "IRF9"], groupby="disease", source="dcm", target="nf")
    >>> sg.tl.rank_shifts(adata, donor="donor")  # donors, not cells, are the replicates
    >>> adata.varm["shift"].loc[["STAT1", "STAT2", "IRF9"], "n_donors"].tolist()
    [4, 4, 4]
    """
    if copy:
        adata = adata.copy()
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure=CURE)
    within = run.get("within")
    groups: dict[str | None, Any] = (
        {None: slice(None)} if within is None else _perturbed_groups(adata, within, key, mod)
    )
    chosen = choose_test(test, data, key, run, groups, compat, donor)
    centered = chosen in OF_STATES and can_centre(data, key) if centered is None else centered
    check_arguments(chosen, compat, donor, null, singles, centered=centered)
    labels = _state_labels(adata, run, mod)
    donors = None if donor is None else pd.Categorical(_keys.obs_column(adata, donor, mod))
    rankings = {
        group: resolve(
            data if group is None else data[rows],
            key,
            chosen,
            compat,
            None if donors is None else donors[rows],
            null,
            singles,
            n_matched,
            n_permutations,
            min_cells,
            mod,
            centered=centered,
            group=group,
            within=within,
            labels=None if labels is None else labels[rows],
            rng=rng,
        )
        for group, rows in groups.items()
    }
    has_sets = _keys.has_sets(data, data.obsm, key)
    # where genes are needed, or nothing is there, their lack is an error
    has_genes = _keys.has_genes(data, key) or not has_sets or chosen not in OF_SETS
    written = {group: key if group is None else _keys.group_key(key, group) for group in rankings}
    if has_genes:  # the ranking belongs to its run
        _slots.check_free(data, run.get("verb", "tl.perturb"), key, [f"varm/{name}" for name in written.values()])

    if donors is not None and len(donors.categories) < stats.MIN_DONORS and chosen not in OF_STATES:
        logg.warning(
            f"{len(donors.categories)} donors are too few for intervals and p-values, which need {stats.MIN_DONORS}."
        )
    elif donors is None and chosen != "aggregate" and (alike := donor_column(_keys.obs_frame(adata, mod))):
        logg.warning(
            f"p-values are over cells, and cells of one donor are not independent: if .obs[{alike!r}] are donors, they "
            f"are too small. Rank with donor={alike!r}."
        )
    screened = data.uns[key].get("screen")
    if screened is not None and screened["spearman"].iloc[0] < FAIR:
        value = screened["spearman"].iloc[0]
        logg.warning(f"The shifts are estimates whose rank correlation with exact values is {value:.2f} within cells.")
    start = logg.info(f"ranking {key!r} by test={chosen!r}")
    tables, sets, components, agreements, n_tested = {}, {}, {}, {}, 0
    for group, ranking in rankings.items():
        if has_genes:
            beside = {} if labels is None else _expression(ranking, labels[groups[group]])
            tables[group], components[group] = rank_genes(ranking, beside)
            untrained = of_untrained(ranking)
            tables[group] |= {} if untrained is None else {"untrained": untrained[1]}
            if chosen == "states" and donors is not None and np.isnan(tables[group]["contrast_low"]).all():
                logg.warning(NO_DESIGN)
            agreements[group] = agreement(tables[group], ranking.min_cells, untrained)
            n_tested += _count_tested(tables[group], ranking, group)
        if has_sets:
            sets[group] = rank_sets(ranking)
    if within is not None:
        tables = {group: table | effect_elsewhere(tables, group) for group, table in tables.items()}
    ranking = next(iter(rankings.values()))
    settings = {
        "test": chosen,
        "compat": compat,
        "donor": donor,
        "null": (null if isinstance(null, str) else "another object") if null is not None else None,
        "singles": singles,
        "n_matched": n_matched if chosen == "random_genes" else None,
        "n_permutations": n_permutations if chosen == "permuted_labels" else None,
        "centered": ranking.centered,
        "replicates": "cells" if donor is None else "donors",
        "min_cells": ranking.min_cells,
        "goal": ranking.goal,
        "states": np.array(ranking.states, dtype=object) if ranking.goal else None,
        "groups": None if within is None else np.array(list(rankings), dtype=object),
        "n_tested": n_tested if has_genes else None,
        "components": _by_group(components) if any(components.values()) else None,
        "agreement": _by_group(agreements) if any(agreements.values()) else None,
    }
    kept = {name: value for name, value in data.uns[key].items() if name != "sets"}
    rank = {name: value for name, value in settings.items() if value is not None}
    data.uns[key] = {**kept, "rank": rank}
    added = []
    if has_genes:
        frames = {group: pd.DataFrame(table, index=data.var_names) for group, table in tables.items()}
        _slots.add(data, key, {f"varm/{written[group]}": frame for group, frame in frames.items()})
        names = ", ".join(map(repr, written.values()))
        added.append(f"{names}, effects and tests of {n_tested} genes (adata.varm)")
    if has_sets:
        data.uns[key]["sets"] = _by_group(sets)
        added.append(f"'sets', effects of {len(next(iter(sets.values())))} sets (adata.uns[{key!r}])")
    logg.info("    finished", time=start, deep="\n    ".join(["added", *added]))
    return adata if copy else None


def _perturbed_groups(adata: AnnData | MuData, within: str, key: str, mod: str) -> dict[str | None, np.ndarray]:
    """Indices of the cells of each group in which something was perturbed."""
    data = _keys.as_adata(adata, mod)
    tested = np.zeros(data.n_obs, bool)
    if _keys.has_genes(data, key):
        tested |= np.diff(data.layers[key].tocsr().indptr) > 0
    if _keys.has_sets(data, data.obsm, key):
        tested |= data.obsm[_keys.sets_key(key)].notna().any(axis=1).to_numpy()
    groups = {group: rows for group, rows in groups_of(adata, within, mod).items() if tested[rows].any()}
    if not groups:
        msg = f"No group of .obs[{within!r}] was perturbed under {key!r}. Run `{CURE}` again."
        raise ValueError(msg)
    return groups


def _state_labels(adata: AnnData | MuData, run: dict[str, Any], mod: str) -> np.ndarray | None:
    """State of each cell, None for perturbations without source and target, or where their column is gone."""
    if not {"source", "target", "groupby"} <= set(run):
        return None
    try:
        return _keys.obs_column(adata, str(run["groupby"]), mod).astype(str).to_numpy()
    except KeyError:
        return None


def _expression(ranking: Ranking, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What expression alone shows for the genes; nothing, and the reason, where it is missing."""
    shifts = read_shifts(ranking.data, ranking.key, goal=ranking.goal)
    try:
        return expression_columns(ranking.data, labels, ranking.run, shifts)
    except (KeyError, ValueError) as error:
        logg.warning(f"No columns of expression beside the shifts: {error.args[0]}")
        return {}


def _count_tested(table: dict[str, np.ndarray], ranking: Ranking, group: str | None) -> int:
    """Number of tested genes; warns where none was in enough cells."""
    if (most := table["n_cells"].max(initial=0)) < ranking.min_cells:
        of_group = "" if group is None else f" of {group!r}"
        logg.warning(
            f"No gene was perturbed in min_cells={ranking.min_cells} cells{of_group} (most: {most}), so none is tested."
        )
    return int((~np.isnan(next(table[name] for name in ("pvals", "impact", "effect") if name in table))).sum())


def _by_group(values: dict[str | None, Any]) -> Any:
    """Values by the names that groups have in files; of all cells the value itself."""
    return values[None] if None in values else {_keys.slot_name(group): value for group, value in values.items()}
