from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _keys, stats

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

TESTS = ("rank_sum", "donors", "vs_null", "mixture")
POOLS = ("others", "all")
_CURE = "sg.tl.perturb(adata)"


def rank_shifts(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    test: Literal["rank_sum", "donors", "vs_null", "mixture"] = "rank_sum",
    pool: Literal["others", "all"] = "others",
    donor: str | None = None,
    null: AnnData | MuData | str | None = None,
    min_cells: int = 5,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Rank genes by what their perturbation did to the cells.

    Reads the shifts that :func:`~scgeneformer.tl.perturb` stored, where every stored entry is a measurement, explicit zeros
    included, and what is not stored, or NaN, was not tested. The effect of a gene is a mean over the cells it was tested in:

    * with goal states, of the change of cosine similarity to the target state, positive where cells move towards it;
      and the same for every further end state;
    * without, of 1 minus the cosine similarity of original and perturbed embedding: 0 is no effect. (Official Geneformer
      reports the similarity itself and calls it a shift.)

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, as CSR or CSC.
    key
        Slot of the shifts, `key_added` of :func:`~scgeneformer.tl.perturb`.
    test
        ``"rank_sum"``: the gene's shifts against those of other genes, over cells (Wilcoxon).
        ``"donors"``: the same question with donors as replicates. In every donor the gene's mean shift is compared with that
        of the other genes, and the differences are tested against 0 (Student's t). Cells of one donor are no independent
        samples; take this test where there are donors.
        ``"vs_null"``: the gene's shifts against the same gene's shifts in `null` (Wilcoxon), for example in cells of
        another state.
        ``"mixture"``: a mixture of two Gaussians over the genes' effects separates genes with impact from those without.
        Only without goal states, and the only test for which official Geneformer needs no pool or null; without p-values.
    pool
        For ``"rank_sum"``. ``"others"`` leaves the tested gene out of the pool and corrects for ties. ``"all"`` is the
        official test: the tested gene is in the pool too, no correction for ties. (Official Geneformer samples 100,000
        values from a larger pool; all are used here.)
    donor
        Column of ``.obs`` with donors, for ``"donors"``. Cells without a donor are left out of the test.
    null
        For ``"vs_null"``: the `key` of another perturbation in the same `adata`, or another object perturbed alike, with
        shifts under the same `key`; genes are matched by name.
    min_cells
        Genes measured in fewer cells get an effect, but are not tested and not counted in the false discovery rate. They
        stay in the pool. Official Geneformer tests from 1 cell, where a rank-sum p-value cannot fall below 0.08.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.varm[key]``
        DataFrame indexed by ``var_names``, float64, NaN where a gene has no value:

        ``n_cells``
            int64, cells in which the gene was tested.
        ``effect``
            Mean effect, see above.
        ``score``, ``pval``, ``fdr``
            Standard normal score (t for ``"donors"``), positive where the effect is above what it is compared with;
            two-sided p-value; false discovery rate over tested genes (Benjamini-Hochberg).
        ``effect_<state>``, ``score_<state>``, ``pval_<state>``, ``fdr_<state>``
            The same for the source and each further state, with goal states.
        ``n_donors``
            Donors compared, for ``"donors"``.
        ``null_n_cells``, ``null_effect``, ``null_effect_<state>``
            The null's, for ``"vs_null"``; further states are tested where the null has them too.
        ``impact``, ``impact_fraction``
            For ``"mixture"``: 1 where the gene's effect belongs to the component of larger effects, else 0; fraction of its
            cells whose effects do.
    ``.uns[key]["rank"]``
        Parameters, ``goal``, ``states`` (target first), number of genes tested and, for ``"mixture"``, the components.

    Raises
    ------
    KeyError
        If there are no shifts, or no column `donor`.
    ValueError
        If the layer is dense, or if `test` misses what it needs or is given what it does not use.

    Notes
    -----
    ``rank_shifts(adata, pool="all", min_cells=1)`` reproduces the official ``goal_state_shift`` table. The official mixture
    model takes the first component of scikit-learn's fit for the one with the lower similarity, which it often is not, and
    fits unscaled values: see :func:`scgeneformer.stats.two_components`.
    """
    _check_arguments(test, pool, donor, null, min_cells)
    from scanpy import logging as logg

    if copy:
        adata = adata.copy()
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure=_CURE)
    states = _end_states(run)
    goal = states != [""]
    if test == "mixture" and goal:
        msg = f"test='mixture' separates similarities, but .uns[{key!r}] has goal states. Use test='rank_sum'."
        raise ValueError(msg)
    donors = _read_donors(data, donor) if donor is not None else None
    null_data, null_key = _resolve_null(data, null, key, mod=mod) if null is not None else (None, key)

    start = logg.info(f"ranking genes by .layers[{key!r}]")
    table: dict[str, np.ndarray] = {}
    components: dict[str, np.ndarray] = {}
    for i, state in enumerate(states):

        def named(name: str, *, state: str = state, first: bool = i == 0) -> str:
            return name if first else _keys.state_layer(name, state)

        shifts = _read_shifts(data, named(key), goal=goal)
        n_cells, effect = stats.group_means(shifts.effects, shifts.genes, data.n_vars)
        tested = n_cells >= min_cells
        table.setdefault("n_cells", n_cells)
        table[named("effect")] = effect
        if test == "mixture":
            impact, components = _impact(shifts, effect, tested)
            table |= impact
            continue
        if test == "rank_sum":
            result = stats.rank_sum(shifts.effects, shifts.genes, data.n_vars, pool=pool)
        elif test == "donors":
            result, n_donors = _over_donors(shifts, donors, data.n_vars)
            table.setdefault("n_donors", n_donors)
        elif named(null_key) not in null_data.layers and i > 0:
            continue
        else:
            others = _read_shifts(null_data, named(null_key), goal=goal).renamed(null_data.var_names, data.var_names)
            null_n_cells, null_effect = stats.group_means(others.effects, others.genes, data.n_vars)
            table.setdefault("null_n_cells", null_n_cells)
            table[named("null_effect")] = null_effect
            result = stats.rank_sum_null(shifts.effects, shifts.genes, others.effects, others.genes, data.n_vars)
        pval = np.where(tested, result.pvalue, np.nan)
        table[named("score")] = np.where(tested, result.score, np.nan)
        table[named("pval")] = pval
        table[named("fdr")] = stats.benjamini_hochberg(pval)

    n_tested = int((table["n_cells"] >= min_cells).sum())
    if n_tested == 0:
        most = int(table["n_cells"].max(initial=0))
        logg.warning(f"No gene was perturbed in min_cells={min_cells} cells (most: {most}), so none is tested.")
    settings = {
        "test": test,
        "pool": pool if test == "rank_sum" else None,
        "donor": donor,
        "null": (null if isinstance(null, str) else "another object") if null is not None else None,
        "min_cells": min_cells,
        "goal": goal,
        "states": np.array(states, dtype=object) if goal else None,
        "n_tested": n_tested,
        "components": components or None,
    }
    data.varm[key] = pd.DataFrame(table, index=data.var_names)
    data.uns[key] = {**data.uns[key], "rank": {name: value for name, value in settings.items() if value is not None}}
    logg.info(
        "    finished", time=start, deep=f"added\n    {key!r}, effects and tests of {n_tested} genes (adata.varm)"
    )
    return adata if copy else None


def _end_states(run: dict[str, Any]) -> list[str]:
    """The target, the source and further states, those that there are; one nameless state without goal states."""
    if "target" not in run:
        return [""]
    source = [str(run["source"])] if "source" in run else []
    return [str(run["target"]), *source, *map(str, run.get("others", ()))]


@dataclass(frozen=True)
class _Shifts:
    """Stored entries of a layer in long form: effect, column and row of each."""

    effects: np.ndarray
    genes: np.ndarray
    cells: np.ndarray

    def renamed(self, names: pd.Index, new_names: pd.Index) -> _Shifts:
        """The same with columns counted in `new_names`; entries of genes that are not there are left out."""
        column = new_names.get_indexer(names)[self.genes]
        kept = column >= 0
        return _Shifts(self.effects[kept], column[kept], self.cells[kept])


def _read_shifts(data: AnnData, key: str, *, goal: bool) -> _Shifts:
    if key not in data.layers:
        msg = f"No shifts in .layers[{key!r}]. Run `{_CURE}` first."
        raise KeyError(msg)
    x = data.layers[key]
    if not sparse.issparse(x) or x.format not in ("csr", "csc"):
        msg = (
            f".layers[{key!r}] is {type(x).__name__}, but only a CSR or CSC matrix tells a tested shift of 0 from no test. "
            f"Run `{_CURE}` again."
        )
        raise ValueError(msg)
    outer = np.repeat(np.arange(len(x.indptr) - 1, dtype=x.indices.dtype), np.diff(x.indptr))
    cells, genes = (outer, x.indices) if x.format == "csr" else (x.indices, outer)
    values = x.data.astype(np.float64)
    measured = ~np.isnan(values)
    if not measured.all():
        values, genes, cells = values[measured], genes[measured], cells[measured]
    return _Shifts(values if goal else 1 - values, genes, cells)


def _read_donors(data: AnnData, donor: str) -> pd.Categorical:
    if donor not in data.obs:
        msg = f"No column {donor!r} in .obs. Name the column with donors by `donor=`; there are {list(data.obs)}."
        raise KeyError(msg)
    return pd.Categorical(data.obs[donor])


def _resolve_null(data: AnnData, null: AnnData | MuData | str, key: str, *, mod: str) -> tuple[AnnData, str]:
    """Object and key of the null's shifts, after checking that they measure the same thing."""
    null_data, null_key = (data, null) if isinstance(null, str) else (_keys.as_adata(null, mod), key)
    ours = _keys.params(data, key, cure=_CURE)
    theirs = _keys.params(null_data, null_key, cure=_CURE)
    for name in ("kind", "target", "weights_sha256", "emb_layer", "pooling"):
        if ours.get(name) != theirs.get(name):
            msg = (
                f"The null's shifts were made with {name}={theirs.get(name)!r}, those of {key!r} with {ours.get(name)!r}. "
                "Perturb both alike."
            )
            raise ValueError(msg)
    if not (data.var_names.is_unique and null_data.var_names.is_unique):
        msg = "Genes are matched by .var_names, which are not unique. Run `adata.var_names_make_unique()` on both."
        raise ValueError(msg)
    return null_data, null_key


def _over_donors(shifts: _Shifts, donors: pd.Categorical, n_genes: int) -> tuple[stats.GroupTest, np.ndarray]:
    code = donors.codes[shifts.cells]
    known = code >= 0
    return stats.donor_test(shifts.effects[known], shifts.genes[known], code[known], n_genes, len(donors.categories))


def _impact(
    shifts: _Shifts, effect: np.ndarray, tested: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    mixture = stats.two_components(effect[tested])
    _, fraction = stats.group_means(mixture.upper(shifts.effects), shifts.genes, len(effect))
    columns = {
        "impact": np.where(tested, mixture.upper(effect), np.nan),
        "impact_fraction": np.where(tested, fraction, np.nan),
    }
    return columns, {"mean": mixture.means, "sd": mixture.sds, "weight": mixture.weights}


def _check_arguments(test: Any, pool: Any, donor: Any, null: Any, min_cells: int) -> None:
    if test not in TESTS:
        msg = f"test={test!r} is not one of {TESTS}."
        raise ValueError(msg)
    if pool not in POOLS:
        msg = f"pool={pool!r} is not one of {POOLS}."
        raise ValueError(msg)
    if pool == "all" and test != "rank_sum":
        msg = f"pool='all' is for test='rank_sum', not for test={test!r}."
        raise ValueError(msg)
    if (donor is not None) != (test == "donors"):
        msg = "test='donors' and `donor`, the column of .obs with donors, go together: give both or neither."
        raise ValueError(msg)
    if (null is not None) != (test == "vs_null"):
        msg = "test='vs_null' and `null`, the other perturbation, go together: give both or neither."
        raise ValueError(msg)
    if min_cells < 1:
        msg = f"min_cells={min_cells} must be at least 1."
        raise ValueError(msg)
