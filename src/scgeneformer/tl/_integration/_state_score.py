from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer import evaluation, stats
from scgeneformer._arguments import checked
from scgeneformer.evaluation import embeddings
from scgeneformer.evaluation._intervals import groups_to_resample
from scgeneformer.tl._expression import log_profile

from ._integrate import points_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from anndata import AnnData
    from mudata import MuData

CURE = "Set `layer=` to the one with counts."
DEEP = 0.5  # rank correlation with the number of genes above which a place follows depth


@checked
def state_score(
    adata: AnnData | MuData,
    groupby: str,
    *,
    source: Hashable,
    target: Hashable,
    donor: str | None = None,
    use_rep: str = keys.embedding_key(keys.GENEFORMER),
    layer: str | None = None,
    tokens_key: str = keys.TOKENS,
    n_bootstrap: int = 200,
    key_added: str = keys.STATE_SCORE,
    rng: int = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Project each cell onto the axis between two states, computed from other donors, in an embedding and in expression.

    The axis goes from the mean of the source (0) to the mean of the target (1). A cell is projected onto the axis of all *other* donors, each
    with equal weight, so a score of 0.8 means that the cell is similar to cells of the target in other donors. Cells of further states
    are projected onto the same axis. The same is done with the embedding centred by donor, which removes differences between donors (and
    between states, if a donor has cells of one state only), and with log expression, a baseline without a model.

    Parameters
    ----------
    adata
        Cells with an embedding and the counts that were tokenized.
    groupby
        Column of ``.obs`` with the states.
    source, target
        The states at 0 and at 1.
    donor
        Column of ``.obs`` with the donor of each cell. Without it, cells are held out in five folds, and scores say nothing about other donors.
    use_rep
        Slot of the embedding in ``.obsm``.
    layer
        Layer with the counts; by default the one that was tokenized.
    tokens_key
        Slot of the tokens, which records the layer of the counts.
    n_bootstrap
        Number of bootstrap samples for the intervals; 0 for none.
    key_added
        Name of the results.
    rng
        Seed of the folds and the bootstrap.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.obs[key_added]``, ``.obs[f"{key_added}_centered"]``, ``.obs[f"{key_added}_expression"]``
        float64: position on the axis in the embedding, in the embedding centred by donor (if `donor`), and in expression. NaN for cells without
        an embedding, or without a donor.
    ``.uns[key_added]["scores"]``
        DataFrame with a row for each of these: ``auroc``, how well it separates the two states, with ``auroc_low`` and ``auroc_high``, the 95 % interval by
        bootstrap over donors if there are three, else over cells (``params["resampled"]``); and ``depth``, the Spearman correlation of the position
        with the number of genes detected in a cell, averaged over the two states. A position that follows depth says little about states.
    ``.uns[key_added]["params"]``
        Parameters, numbers of cells and donors.

    Raises
    ------
    KeyError
        If the embedding, a column or layer is missing.
    ValueError
        If a state has no cells or, with `donor`, cells of one donor only, there are no counts, or a slot holds something other than an
        earlier result.

    Warns
    -----
    In the log, if the position in the embedding follows the number of genes detected.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> sg.tl.state_score(adata, "disease", source="dcm", target="nf", donor="donor")
    >>> list(adata.uns["state_score"]["scores"].index)
    ['embedding', 'embedding, centred by donor', 'expression']
    """
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    columns = {"embedding": key_added, "expression": f"{key_added}_expression"}
    if donor is not None:
        columns = {
            "embedding": key_added,
            "embedding, centred by donor": f"{key_added}_centered",
            "expression": f"{key_added}_expression",
        }
    slots.check_free(
        cells, "tl.state_score", key_added, [*(f"obs/{name}" for name in columns.values()), f"uns/{key_added}"]
    )
    points = points_of(cells, use_rep)
    placed = np.isfinite(points).all(axis=1)
    donors = None
    if donor is not None:
        column = keys.obs_column(data, donor, mod)
        placed &= column.notna().to_numpy()
        donors = column[placed].astype(str).to_numpy()
    rows = np.flatnonzero(placed)
    states = _states(keys.obs_column(data, groupby, mod).iloc[rows], groupby, source, target)
    start = logg.info(f"placing {len(rows)} cells between {source!r} and {target!r}")
    try:
        by_rep = {"embedding": embeddings.held_out_positions(points[rows], states, donors, rng=rng)}
    except ValueError as error:
        msg = (
            f"States {source!r} and {target!r} of .obs[{groupby!r}] cannot be compared across .obs[{donor!r}]: {error}"
        )
        raise ValueError(msg if donor is not None else str(error)) from None
    if donors is not None:
        centred = stats.center(points[rows], np.unique(donors, return_inverse=True)[1])
        by_rep["embedding, centred by donor"] = embeddings.held_out_positions(centred, states, donors, rng=rng)
    profile = log_profile(cells, rows, layer=layer, tokens_key=tokens_key, cure=CURE).X
    by_rep["expression"] = embeddings.held_out_positions(profile, states, donors, rng=rng)
    table, units = _table(by_rep, states, donors, n_bootstrap, rng)
    table["depth"] = _follows_depth(by_rep, states, np.diff(profile.indptr))
    if abs(depth := table.loc["embedding", "depth"]) > DEEP:
        logg.warning(
            f"Places in the embedding follow the number of genes detected in a cell (rank correlation {depth:.2f} within states)."
        )
    values: dict[str, Any] = {}
    for name, positions in by_rep.items():
        of_all = np.full(cells.n_obs, np.nan)
        of_all[rows] = positions
        values[f"obs/{columns[name]}"] = of_all
    slots.write(
        cells,
        "tl.state_score",
        key_added,
        values,
        groupby=groupby,
        source=str(source),
        target=str(target),
        donor=donor,
        use_rep=use_rep,
        n_source=int(np.sum(states == embeddings.SOURCE)),
        n_target=int(np.sum(states == embeddings.TARGET)),
        n_donors=None if donors is None else len(np.unique(donors)),
        resampled=units if n_bootstrap else None,
        n_bootstrap=n_bootstrap,
        rng=rng,
    )
    cells.uns[key_added]["scores"] = table
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, place of each cell (adata.obs)")
    return data if copy else None


def _states(column: pd.Series, groupby: str, source: Hashable, target: Hashable) -> np.ndarray:
    """0 for the source, 1 for the target, -1 for other cells, (n,)."""
    if source == target:
        msg = f"source and target are both {source!r}. Name two states of .obs[{groupby!r}]."
        raise ValueError(msg)
    states = np.full(len(column), embeddings.NEITHER)
    for code, state in ((embeddings.SOURCE, source), (embeddings.TARGET, target)):
        inside = (column == state).to_numpy() | (column.astype(str) == str(state)).to_numpy()
        if not inside.any():
            found = ", ".join(map(repr, map(str, column.dropna().unique()))) or "none"
            msg = f"No cell with a place in the embedding is {state!r} in .obs[{groupby!r}], which has {found}."
            raise ValueError(msg)
        states[inside] = code
    return states


def _follows_depth(by_rep: dict[str, np.ndarray], states: np.ndarray, n_genes: np.ndarray) -> pd.Series:
    """Spearman correlation of places with the number of genes detected, mean over the two states; NaN where one of them does not vary."""
    places = pd.DataFrame(by_rep | {"genes": n_genes})
    of_states = [
        places[states == state].corr(method="spearman")["genes"] for state in (embeddings.SOURCE, embeddings.TARGET)
    ]
    return pd.concat(of_states, axis=1).mean(axis=1, skipna=False)


def _table(
    by_rep: dict[str, np.ndarray], states: np.ndarray, donors: np.ndarray | None, n_bootstrap: int, rng: int
) -> tuple[pd.DataFrame, str]:
    """AUROC by each representation with its interval, and what was resampled."""
    from sklearn.metrics import roc_auc_score

    of_ends = np.flatnonzero(states != embeddings.NEITHER)
    truth = states[of_ends]
    groups = groups_to_resample(None if donors is None else donors[of_ends])

    def aurocs(sample: np.ndarray) -> pd.Series:
        drawn = truth[sample]
        if drawn.min() == drawn.max():
            return pd.Series(np.nan, index=list(by_rep))
        return pd.Series({name: roc_auc_score(drawn, of_rep[of_ends][sample]) for name, of_rep in by_rep.items()})

    table = pd.DataFrame({"auroc": aurocs(np.arange(len(of_ends)))})
    if n_bootstrap:
        ends = evaluation.bootstrap(aurocs, len(of_ends), groups=groups, n_bootstrap=n_bootstrap, rng=rng)
        table = table.join(ends.add_prefix("auroc_"))
    return table, "cells" if groups is None else "donors"
