"""``tl.rank_shifts``: what was perturbed, ranked by what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scgeneformer import _keys, _slots
from scgeneformer.tl._perturbation._states import groups_of

from ._rank_genes import Ranking, rank_genes
from ._rank_sets import rank_sets
from ._shifts import CURE, resolve_anchor, resolve_null

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

TESTS = ("rank_sum", "donors", "vs_null", "random_genes", "interaction", "mixture", "aggregate")
OFFICIAL = ("rank_sum", "vs_null", "mixture", "aggregate")
OF_SETS = ("rank_sum", "donors", "aggregate")  # tests that make sense without single genes


def rank_shifts(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    test: Literal["rank_sum", "donors", "vs_null", "random_genes", "interaction", "mixture", "aggregate"] = "rank_sum",
    compat: Literal["official"] | None = None,
    donor: str | None = None,
    null: AnnData | MuData | str | None = None,
    singles: str | None = None,
    n_matched: int = 200,
    min_cells: int | None = None,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Rank genes, and sets of genes, by what their perturbation did to the cells.

    Reads the shifts that :func:`~scgeneformer.tl.perturb` stored, where every stored entry is a measurement, explicit zeros
    included, and what is not stored, or NaN, was not tested. The effect of a gene is a mean over the cells it was tested in:

    * with goal states, of the change of cosine similarity to the target state, positive where cells move towards it;
      and the same for every further end state;
    * without, of 1 minus the cosine similarity of original and perturbed embedding: 0 is no effect. (Official Geneformer
      reports the similarity itself and calls it a shift.)

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, as CSR or CSC, in ``.obsm[f"{key}_sets"]``, or both.
    key
        Slot of the shifts, `key_added` of :func:`~scgeneformer.tl.perturb`.
    test
        ``"rank_sum"``: the gene's shifts against those of other genes, over cells (Wilcoxon).
        ``"donors"``: the same question with donors as replicates. In every donor the gene's mean shift is compared with that
        of the other genes, and the differences are tested against 0 (Student's t). Cells of one donor are no independent
        samples; take this test where there are donors.
        ``"vs_null"``: the gene's shifts against the same gene's shifts in `null` (Wilcoxon), for example in cells of
        another state.
        ``"random_genes"``: the gene's effect against the effects of the `n_matched` genes that are most like it in the
        number of cells they were tested in and in their mean position in the cells' tokens. How often and how high a gene
        is ranked alone moves a cell; this asks for what is more. Two-sided, p cannot fall under ``1 / (n_matched + 1)``.
        ``"interaction"``: for pairs of genes with an anchor. In every cell the effects of the gene alone and of the anchor
        alone, from `singles`, are taken from the effect of the pair, and what is left is tested against 0 (Student's t).
        ``"mixture"``: a mixture of two Gaussians over the genes' effects separates genes with impact from those without.
        Only without goal states; without p-values.
        ``"aggregate"``: effects with their intervals, no test.
    compat
        ``"official"``: numbers as official Geneformer defines them, from 1 cell on. For ``"rank_sum"`` (with goal states)
        the tested gene is in the pool too, and ties are not corrected for; for ``"vs_null"`` (without goal states) ties are
        not corrected for, and a gene that the null does not have has p = 1 and counts as a test; for ``"mixture"`` the
        first component of an unscaled fit counts as the one with impact, which it often is not. Intervals, and the tests of
        sets, are as without `compat`. Other tests have no official counterpart that runs.
    donor
        Column of ``.obs`` with donors (in a MuData of any modality, such as ``"prot:donor"``), for ``"donors"`` and, where
        given, for ``"interaction"``, which is then tested over the donors' means. Cells without a donor are left out of the test.
    null
        For ``"vs_null"``: the `key` of another perturbation in the same `adata`, or another object perturbed alike, with
        shifts under the same `key`; genes are matched by name.
    singles
        For ``"interaction"``: the `key` of the perturbation of single genes in the same `adata`, the anchor among them,
        otherwise made alike.
    n_matched
        For ``"random_genes"``.
    min_cells
        Genes and sets measured in fewer cells get an effect, but are not tested and not counted in the false discovery rate.
        Genes stay in the pool. By default 5, or 1 with `compat` or ``"aggregate"``. Official Geneformer tests from 1 cell,
        where a rank-sum p-value cannot fall below 0.08.
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
            int64, cells in which the gene was tested (for ``"interaction"`` as a pair and alone, and the anchor alone).
        ``effect``, ``sd``
            Mean over these cells, see above, and standard deviation (n - 1). For ``"interaction"`` of the pair's effect less
            the sum of the two; without goal states this is minus the official ``Combo_minus_sum_shift``: positive where the
            pair does more than the sum.
        ``effect_low``, ``effect_high``
            95 % confidence interval of the mean by Student's t over cells; with `donor` over donors, of ``donor_effect``.
        ``n_donors``, ``donor_effect``
            With `donor`: donors that have the gene, and the mean over them of what is tested: the gene's mean less that of
            the donor's other genes for ``"donors"``, the mean interaction for ``"interaction"``.
        ``scores``, ``pvals``, ``pvals_adj``
            As in :func:`scanpy.tl.rank_genes_groups`. Standard normal score (t for ``"donors"`` and ``"interaction"``, robust z for
            ``"random_genes"``), positive where the effect is above what it is compared with; two-sided p-value; false discovery rate
            over tested genes (Benjamini-Hochberg).
        ``null_n_cells``, ``null_effect``
            The null's, for ``"vs_null"``; further states are tested where the null has them too.
        ``pair_effect``, ``gene_effect``, ``anchor_effect``
            For ``"interaction"``: mean effects of the pair, of the gene alone, of the anchor alone, in the same cells.
        ``impact``, ``impact_fraction``
            For ``"mixture"``: 1 where the gene's effect belongs to the component of larger effects, else 0; fraction of its
            cells whose effects do.
        ``fraction_exact``
            Where shifts are partly estimates (``refine`` of :func:`~scgeneformer.tl.screen`): fraction of the gene's that are exact. All are used.
        ``effect_<state>``, ``pvals_<state>``, ...
            The same for the source and each further state, with goal states; not of numbers of cells and donors. (A state
            named low or high is ``state_low`` or ``state_high`` here.)
    ``.varm[key_<group>]``
        Instead, where cells were perturbed ``within`` groups: the same of each group, ranked by itself.
    ``.uns[key]["sets"]``
        If there are shifts of sets: DataFrame indexed by their names, with the columns above as far as they apply. With goal
        states ``scores``, ``pvals`` and ``pvals_adj`` are of a two-sided t-test against no effect, over cells, or with `donor` over
        donors' means; without there is no test.
    ``.uns[key]["rank"]``
        Parameters, ``goal``, ``states`` (target first), ``groups`` if any, number of genes tested and, for ``"mixture"``, the components (with
        `compat` in the order of the fit, the first one counted as impact).

    Raises
    ------
    KeyError
        If there are no shifts, no tokens where positions are needed, or no column `donor`.
    ValueError
        If the layer is dense, if `test` misses what it needs, is given what it does not use, or has no official form, or if ``.varm[key]``
        holds something else than an earlier ranking.

    Notes
    -----
    ``rank_shifts(adata, compat="official")`` reproduces the official ``goal_state_shift`` table, with ``test="vs_null"`` and
    ``test="mixture"`` those of the same names, and ``test="aggregate"`` the mean of ``aggregate_data``. Official Geneformer
    samples 100,000 values from a larger pool; all are used here. For effects on genes see :func:`scgeneformer.get.effects`.
    """
    _check_arguments(test, compat, donor, null, singles, n_matched, min_cells)
    from scanpy import logging as logg

    if copy:
        adata = adata.copy()
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure=CURE)
    within = run.get("within")
    donors = None if donor is None else pd.Categorical(_keys.obs_column(adata, donor, mod))
    groups = {None: slice(None)} if within is None else _perturbed_groups(adata, within, key, mod)
    rankings = {
        group: _resolve(
            data if group is None else data[rows],
            key,
            test,
            compat,
            None if donors is None else donors[rows],
            null,
            singles,
            n_matched,
            min_cells,
            mod,
            group=group,
            within=within,
        )
        for group, rows in groups.items()
    }
    has_sets = _keys.has_sets(data, data.obsm, key)
    # where genes are needed, or nothing is there, their lack is an error
    has_genes = _keys.has_genes(data, key) or not has_sets or test not in OF_SETS
    written = {group: key if group is None else _keys.group_key(key, group) for group in rankings}
    if has_genes:  # the ranking belongs to its run
        _slots.check_free(data, run.get("verb", "tl.perturb"), key, [f"varm/{name}" for name in written.values()])

    start = logg.info(f"ranking {key!r} by test={test!r}")
    tables, sets, components, n_tested = {}, {}, {}, 0
    for group, ranking in rankings.items():
        if has_genes:
            table, components[group] = rank_genes(ranking)
            n_tested += _count_tested(table, ranking, group)
            tables[f"varm/{written[group]}"] = pd.DataFrame(table, index=data.var_names)
        if has_sets:
            sets[group] = rank_sets(ranking)
    ranking = next(iter(rankings.values()))
    settings = {
        "test": test,
        "compat": compat,
        "donor": donor,
        "null": (null if isinstance(null, str) else "another object") if null is not None else None,
        "singles": singles,
        "n_matched": n_matched if test == "random_genes" else None,
        "min_cells": ranking.min_cells,
        "goal": ranking.goal,
        "states": np.array(ranking.states, dtype=object) if ranking.goal else None,
        "groups": None if within is None else np.array(list(rankings), dtype=object),
        "n_tested": n_tested if has_genes else None,
        "components": _by_group(components) if any(components.values()) else None,
    }
    kept = {name: value for name, value in data.uns[key].items() if name != "sets"}
    rank = {name: value for name, value in settings.items() if value is not None}
    data.uns[key] = {**kept, "rank": rank}
    added = []
    if has_genes:
        _slots.add(data, key, tables)
        names = ", ".join(map(repr, written.values()))
        added.append(f"{names}, effects and tests of {n_tested} genes (adata.varm)")
    if has_sets:
        data.uns[key]["sets"] = _by_group(sets)
        added.append(f"'sets', effects of {len(next(iter(sets.values())))} sets (adata.uns[{key!r}])")
    logg.info("    finished", time=start, deep="\n    ".join(["added", *added]))
    return adata if copy else None


def _perturbed_groups(adata: AnnData | MuData, within: str, key: str, mod: str) -> dict[str, np.ndarray]:
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


def _count_tested(table: dict[str, np.ndarray], ranking: Ranking, group: str | None) -> int:
    """Number of tested genes; warns where none was in enough cells."""
    from scanpy import logging as logg

    if (most := table["n_cells"].max(initial=0)) < ranking.min_cells:
        of_group = "" if group is None else f" of {group!r}"
        logg.warning(
            f"No gene was perturbed in min_cells={ranking.min_cells} cells{of_group} (most: {most}), so none is tested."
        )
    return int((~np.isnan(next(table[name] for name in ("pvals", "impact", "effect") if name in table))).sum())


def _by_group(values: dict[str | None, Any]) -> Any:
    """Values by the names that groups have in files; of all cells the value itself."""
    return values[None] if None in values else {_keys.slot_name(group): value for group, value in values.items()}


def _resolve(
    data: AnnData,
    key: str,
    test: str,
    compat: str | None,
    donors: pd.Categorical | None,
    null: AnnData | MuData | str | None,
    singles: str | None,
    n_matched: int,
    min_cells: int | None,
    mod: str,
    *,
    group: str | None,
    within: str | None,
) -> Ranking:
    """Find everything the ranking is to read."""
    run = _keys.params(data, key, cure=CURE)
    states = _keys.end_states(run) or [""]  # one without a name
    goal = states != [""]
    if test == "mixture" and goal:
        msg = f"test='mixture' separates similarities, but .uns[{key!r}] has goal states. Use test='rank_sum'."
        raise ValueError(msg)
    if compat is not None and ((test == "rank_sum" and not goal) or (test == "vs_null" and goal)):
        msg = f"Official Geneformer has test={test!r} {'without' if goal else 'with'} goal states only. Leave out `compat`."
        raise ValueError(msg)
    other, anchor = (data, ""), -1
    if null is not None:
        null_data, null_key = resolve_null(data, null, key, mod=mod)
        if group is not None and null_data is not data:
            null_data = null_data[groups_of(null, within, mod).get(group, [])]
        other = null_data, null_key
    if singles is not None:
        other, anchor = (data, singles), resolve_anchor(data, key, singles)
    return Ranking(
        data,
        key,
        run,
        states,
        test,
        official=compat is not None,
        min_cells=min_cells or (1 if compat is not None or test == "aggregate" else 5),
        n_matched=n_matched,
        donors=donors,
        other_data=other[0],
        other_key=other[1],
        anchor=anchor,
    )


def _check_arguments(
    test: Any, compat: Any, donor: Any, null: Any, singles: Any, n_matched: int, min_cells: int | None
) -> None:
    if test not in TESTS:
        msg = f"test={test!r} is not one of {TESTS}."
        raise ValueError(msg)
    if compat not in (None, "official"):
        msg = f"compat={compat!r} is not one of (None, 'official')."
        raise ValueError(msg)
    if compat is not None and test not in OFFICIAL:
        msg = f"test={test!r} has no official form; compat='official' is for {OFFICIAL}."
        raise ValueError(msg)
    if (donor is not None) != (test == "donors") and test != "interaction":
        msg = "test='donors' and `donor`, the column of .obs with donors, go together: give both or neither."
        raise ValueError(msg)
    if (null is not None) != (test == "vs_null"):
        msg = "test='vs_null' and `null`, the other perturbation, go together: give both or neither."
        raise ValueError(msg)
    if (singles is not None) != (test == "interaction"):
        msg = "test='interaction' and `singles`, the perturbation of single genes, go together: give both or neither."
        raise ValueError(msg)
    if n_matched < 1 or (min_cells is not None and min_cells < 1):
        msg = f"n_matched={n_matched} and min_cells={min_cells} must be at least 1."
        raise ValueError(msg)
