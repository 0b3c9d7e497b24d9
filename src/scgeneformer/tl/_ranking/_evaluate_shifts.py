"""``tl.evaluate_shifts``: a ranking of genes against the results of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer import evaluation
from scgeneformer._arguments import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

CURE = "sg.tl.rank_shifts(adata)"
MODEL, EXPRESSION = "effect", "expression, together"
SHIFTS = (
    MODEL,
    "contrast",
    "centered_effect",
    "plain_effect",
    "own",
    "network",
    "renumbering",
)  # columns that need the model
LEAST = 5  # hits, and other genes, for a cross-validated model of several columns
FEW = 10


@checked
def evaluate_shifts(
    adata: AnnData | MuData,
    truth: Mapping[str, Any] | pd.Series | Sequence[str],
    *,
    key: str = keys.SHIFT,
    group: str | None = None,
    n_top: Sequence[int] = (10, 20, 50),
    n_bootstrap: int = 200,
    key_added: str = "shift_evaluation",
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Compare a ranking of genes with an experiment, and with predictions from expression alone.

    In published comparisons, shifts predicted measured effects of knock-outs no better than the change of the gene's expression between the two states.
    The result to report is therefore not how well shifts predict the experiment, but what they add to expression.

    Parameters
    ----------
    adata
        Annotated data with a ranking in ``.varm[key]``, by :func:`~scgeneformer.tl.rank_shifts`.
    truth
        Results of the experiment, by ``var_names`` or symbols: a boolean for each gene (hit or not), a number for each gene (its effect,
        positive towards the target), or only the names of the hits, in which case all other ranked genes count as tested and not hit.
    key
        Slot of the ranking.
    group
        Group of cells, if they were perturbed within groups.
    n_top
        Numbers of top genes for which the fraction of hits is reported.
    n_bootstrap
        Number of bootstrap samples of genes for the intervals.
    key_added
        Name of the results in ``.uns``.
    rng
        Seed or generator of folds and bootstrap samples.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Writes ``.uns[key_added]`` with

    ``"metrics"``
        DataFrame, one row for each predictor: the columns of the ranking that come from the model (``effect``, ``contrast``, ``centered_effect``, the parts of a
        decomposed run), ``|effect|``; from expression ``log2fc``, ``|log2fc|``, ``linear_shift``, ``detection`` (fraction of cells), ``rank`` (1
        for the top of cells); and ``"expression, together"`` and ``"expression and shift"``, cross-validated linear models of all columns of
        expression, without and with ``effect`` and ``|effect|``, if there are at least five hits and five other genes. Columns ``auroc`` and
        ``average_precision`` with 95 % bootstrap intervals over genes (``_low``, ``_high``), and ``ppv_<k>``, the fraction of hits among the
        top k genes; for effects ``spearman``.
    ``"increment"``
        DataFrame with one row: the improvement of expression and shift over expression alone, with its interval (paired bootstrap).
    ``"params"``
        ``n_genes`` evaluated, ``n_hits``, ``base_rate`` (fraction of hits: the expected ``ppv`` and ``average_precision`` of a random ranking),
        ``n_not_ranked`` genes of `truth` that were not perturbed in enough cells, and the arguments.

    :func:`scgeneformer.get.evaluation` with ``key="shift_evaluation"`` returns the table.

    Raises
    ------
    KeyError
        If there is no ranking.
    ValueError
        If fewer than two ranked genes are hits or not hit, or fewer than three have effects; if `truth` names a gene twice; or if
        ``.uns[key_added]`` holds something other than an earlier result.

    Warns
    -----
    In the log, with fewer than ten hits: estimates are then too uncertain to report without their intervals.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.screen(adata, groupby="disease", source="dcm", target="nf")
    >>> sg.tl.rank_shifts(adata)
    >>> sg.tl.evaluate_shifts(adata, ["STAT1", "STAT2", "IRF9"], n_bootstrap=100)
    >>> table = sg.get.evaluation(adata, key="shift_evaluation")
    >>> bool(table.loc[["effect", "|log2fc|"], "auroc"].between(0, 1).all())
    True
    """
    if copy:
        adata = adata.copy()
    data = keys.as_adata(adata, mod)
    slots.check_free(data, "tl.evaluate_shifts", key_added, [f"uns/{key_added}"])
    ranking = _read_ranking(data, key, group)
    values, n_not_ranked = _truth_of(ranking, truth)
    measured = values.notna().to_numpy()
    table, values = ranking[measured], values[measured].to_numpy()
    hits = values.astype(bool) if _is_boolean(values) else None
    columns = _columns(table)
    complete = ~np.any([np.isnan(x) for x in columns.values()], axis=0)
    columns = {name: x[complete] for name, x in columns.items()}
    outcome = (values.astype(np.float64) if hits is None else hits)[complete]
    rng = np.random.default_rng(rng)

    gain = None
    rows = dict(columns)
    of_expression = {name: x for name, x in columns.items() if name.strip("|") not in SHIFTS}
    if of_expression and _enough(outcome):
        rows[EXPRESSION] = evaluation.together(outcome, of_expression, rng=rng)
        with_shift = of_expression | {name: columns[name] for name in (MODEL, f"|{MODEL}|")}
        rows["expression and shift"] = evaluation.together(outcome, with_shift, rng=rng)
        gain = evaluation.increment(
            outcome, rows[EXPRESSION], rows["expression and shift"], n_bootstrap=n_bootstrap, rng=rng
        )
    metrics = evaluation.predictors(outcome, rows, n_top=n_top, n_bootstrap=n_bootstrap, rng=rng)
    n_hits = None if hits is None else int(outcome.sum())
    if n_hits is not None and n_hits < FEW:
        logg.warning(f"{n_hits} hits among {len(outcome)} genes: the intervals say more than the scores.")
    slots.write(
        data,
        "tl.evaluate_shifts",
        key_added,
        {},
        ranking=key,
        group=group,
        n_genes=len(outcome),
        n_hits=n_hits,
        base_rate=None if n_hits is None else n_hits / len(outcome),
        n_not_ranked=n_not_ranked,
        n_top=list(n_top),
        n_bootstrap=n_bootstrap,
    )
    data.uns[key_added]["metrics"] = metrics
    if gain is not None:
        data.uns[key_added]["increment"] = gain.to_frame("expression and shift less expression").T
    return adata if copy else None


def _read_ranking(data: AnnData, key: str, group: str | None) -> pd.DataFrame:
    """Genes that were measured in enough cells, with names and symbols, if any."""
    rank = data.uns.get(key, {}).get("rank", {})
    groups = [str(name) for name in rank.get("groups", ())]
    if (groups and group is None) or (group is not None and group not in groups):
        msg = f"group={group!r}: .uns[{key!r}] has a ranking for each of the groups {groups or '(none)'}. Set `group=` to one of them."
        raise ValueError(msg)
    slot = key if group is None else keys.group_key(key, group)
    if "n_tested" not in rank or slot not in data.varm:
        msg = f"No ranking of genes in .varm[{slot!r}]. Run `{CURE}` first."
        raise KeyError(msg)
    table, symbols = data.varm[slot].copy(), keys.symbols(data)
    table.insert(0, "names", data.var_names.astype(str))
    if symbols is not None:
        table.insert(1, "symbol", symbols)
    return table[table["n_cells"].to_numpy() >= int(rank["min_cells"])].reset_index(drop=True)


def _truth_of(ranking: pd.DataFrame, truth: Any) -> tuple[pd.Series, int]:
    """Outcome for each ranked gene, NaN where there is none, and how many genes of `truth` are not ranked."""
    if isinstance(truth, pd.Series | Mapping):
        given = pd.Series(truth)
    else:
        given = pd.Series(dict.fromkeys([truth] if isinstance(truth, str) else map(str, truth), True))
    given = given[given.notna()]
    given.index = given.index.astype(str)
    if not given.index.is_unique:
        twice = given.index[given.index.duplicated()].unique()
        msg = f"`truth` names genes twice: {', '.join(twice[:5])}."
        raise ValueError(msg)
    values = given.reindex(ranking["names"].astype(str))
    matched = set(values.index[values.notna()])
    if "symbol" in ranking:
        by_symbol = given.reindex(ranking["symbol"].astype(str))
        matched |= set(by_symbol.index[by_symbol.notna()])
        values = pd.Series(np.where(values.notna(), values, by_symbol), dtype=object)
    values.index = ranking.index
    only_hits = not isinstance(truth, pd.Series | Mapping)
    return (values.notna() if only_hits else values), int((~given.index.isin(matched)).sum())


def _is_boolean(values: np.ndarray) -> bool:
    return all(isinstance(value, bool | np.bool_) for value in values)


def _columns(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Predictors: larger values speak for a hit, or for an effect towards the target."""
    columns = {name: table[name].to_numpy(np.float64) for name in SHIFTS if name in table}
    columns[f"|{MODEL}|"] = np.abs(columns[MODEL])
    if "log2fc" in table:
        columns |= {name: table[name].to_numpy(np.float64) for name in ("log2fc", "linear_shift") if name in table}
        columns["|log2fc|"] = np.abs(columns["log2fc"])
    if "mean_rank" in table:
        columns |= {"detection": table["fraction_detected"].to_numpy(), "rank": 1 - table["mean_rank"].to_numpy()}
    return columns


def _enough(outcome: np.ndarray) -> bool:
    if outcome.dtype != bool:
        return len(outcome) >= 4 * LEAST
    return LEAST <= outcome.sum() <= len(outcome) - LEAST
