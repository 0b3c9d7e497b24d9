"""``tl.perturb``: in silico perturbation of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scgeneformer import _keys as keys
from scgeneformer._settings import settings

from ._task import Task, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer

KINDS = ("delete",)


def perturb(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer = "default",
    genes: Sequence[str] | None = None,
    *,
    kind: Literal["delete"] = "delete",
    groupby: str | None = None,
    source: str | None = None,
    target: str | None = None,
    others: Sequence[str] = (),
    max_cells: int | None = None,
    pooling: Literal["mean", "cls"] | None = None,
    emb_layer: int | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.SHIFT,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] | None = None,
    token_budget: int | None = None,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Delete genes one by one and measure what it does to each cell, exactly: one forward pass a deletion.

    Parameters
    ----------
    adata
        Tokenized by `scgeneformer.pp.tokenize`.
    model
        Name of a model of the hub, path of a checkpoint, or a trained model.
    genes
        Names in `var_names`, Ensembl ids or symbols; each is deleted alone in every cell whose tokens hold it. None takes
        every gene of a cell in turn.
    kind
        ``"delete"`` takes the gene out of the cell's ranking.
    groupby
        Column of `obs` with states of cells.
    source
        Perturb the cells in this state only.
    target
        Measure the way towards this state; None measures how far a cell moves at all.
    others
        Further states to measure the way towards.
    max_cells
        Perturb at most so many cells, drawn by `rng`.
    pooling
        What stands for a cell: ``"mean"`` of its genes or ``"cls"``; None as in `scgeneformer.tl.embed`.
    emb_layer
        Which hidden layer: 0 is the last, -1 the second to last; None as in `scgeneformer.tl.embed`.
    tokens_key
        Slot of the tokens in `obsm`.
    key_added
        Name of the results.
    device, precision, token_budget
        Override `scgeneformer.settings`. Shifts are small (about 1e-3), so that bfloat16 is often too coarse; ``"auto"``
        therefore means float32 here, on every device.
    rng
        Seed or generator, used by `max_cells` only.
    mod
        Modality to use of a MuData.
    copy
        Work on a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    `.layers["shift"]`
        float64 CSR (n_obs, n_vars), one stored value (zeros too) for each tested pair of a cell and a gene. With `target`
        the change of the cosine similarity between the cell and the mean of the target's cells (positive: the deletion
        moves the cell towards the target). Without, the cosine similarity between perturbed and original cell (1: no
        effect); for ``"mean"`` the mean over the remaining genes of the cosine of each gene's own state, for ``"cls"`` that
        of the first state. Where several columns of `var` are the same gene, the first holds the value.
    `.layers["shift_<state>"]`
        With `target`: the same with respect to `source` and each of `others`.
    `.uns["shift"]["params"]`
        Kind, states, model, sha256 of its weights, vocabulary hash, layer, pooling, numbers of cells and pairs, version.

    Raises
    ------
    KeyError
        If there are no tokens or no column `groupby`.
    ValueError
        If a gene is not in the vocabulary or in no cell, a state has no cells, or options contradict each other.

    Notes
    -----
    The formulas are the official tool's (cell mode for V1, cls mode for V2; state positions are plain means).
    """
    from scanpy import logging as logg

    from scgeneformer import engine

    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    if kind not in KINDS:
        msg = f"kind={kind!r} is not one of {KINDS}."
        raise ValueError(msg)
    wanted = precision or settings.precision
    task = prepare(
        cells,
        model,
        tokens_key=tokens_key,
        pooling=pooling,
        emb_layer=emb_layer,
        device=device,
        precision="float32" if wanted == "auto" else wanted,  # changes of a cosine are below what bfloat16 resolves
        token_budget=token_budget,
    )
    column_of = _columns_by_token(task.token_id, len(task.vocabulary))
    members = _states(cells, groupby, source, target, others)
    chosen = _chosen_cells(cells.n_obs, members.get(source), max_cells, rng)
    tokens = np.asarray(task.tokens[chosen])
    only = (
        np.flatnonzero(column_of >= 0)  # a gene that was dropped from var after tokenizing has no place for a result
        if genes is None
        else _tokens_of_genes(task, genes, tokens)
    )
    pairs, positions = engine.deletions(tokens, task.vocabulary.n_special, only)
    start = logg.info(f"deleting genes in {len(chosen)} cells with {task.pretrained.name}: {len(pairs)} deletions")
    centers = None
    if target is not None:
        centers = np.stack([_center(task, of_state) for of_state in members.values()])
    values = engine.delete_one_by_one(
        task.pretrained.encoder,
        tokens,
        pairs,
        positions,
        states=centers,
        progress=settings.progress,
        **task.options,
    )  # (pairs, states)

    _forget(cells, key_added)
    layer_names = (
        [key_added]
        if target is None
        else [key_added if state == target else keys.state_layer(key_added, state) for state in members]
    )
    for name, column in zip(layer_names, values.T, strict=True):
        cells.layers[name] = _layer(column, chosen[pairs], column_of[tokens[pairs, positions]], cells.shape)
    keys.write_params(
        cells,
        key_added,
        kind=kind,
        groupby=groupby,
        source=source,
        target=target,
        others=list(others),
        method="exact",
        **task.provenance,
        n_cells=len(chosen),
        n_pairs=len(pairs),
    )
    logg.info("    finished", time=start, deep=f"added\n    {', '.join(map(repr, layer_names))} (adata.layers)")
    return data if copy else None


def _columns_by_token(token_id: np.ndarray, n_tokens: int) -> np.ndarray:
    """For each token the first column of `var` that is it, -1 if none; (n_tokens,)."""
    column_of = np.full(n_tokens, -1)
    mapped = np.flatnonzero(token_id >= 0)[::-1]  # reversed, so that the first column is written last
    column_of[token_id[mapped]] = mapped
    return column_of


def _states(
    cells: AnnData, groupby: str | None, source: str | None, target: str | None, others: Sequence[str]
) -> dict[str, np.ndarray]:
    """Indices of the cells of each state that was named, the target first, then the source and the others."""
    named = [state for state in (target, source, *others) if state is not None]
    if not named:
        if groupby is not None:
            msg = f"groupby={groupby!r} needs a `source` to perturb, a `target` to measure towards, or both."
            raise ValueError(msg)
        return {}
    if groupby is None:
        msg = f"States {named} need `groupby`, the column of .obs that holds them."
        raise ValueError(msg)
    if groupby not in cells.obs:
        msg = f"Did not find .obs[{groupby!r}]. Columns are: {', '.join(map(str, cells.obs.columns))}."
        raise KeyError(msg)
    if others and target is None:
        msg = "`others` are states beside a `target`; name one."
        raise ValueError(msg)
    if len(set(named)) < len(named):
        msg = f"States {named} name one state twice."
        raise ValueError(msg)
    labels = cells.obs[groupby].astype(str).to_numpy()
    members = {state: np.flatnonzero(labels == state) for state in named}
    missing = [state for state, found in members.items() if len(found) == 0]
    if missing:
        there = ", ".join(map(repr, np.unique(labels)[:20]))
        msg = f"No cell has .obs[{groupby!r}] equal to {', '.join(map(repr, missing))}. It holds {there}."
        raise ValueError(msg)
    return members


def _chosen_cells(
    n_obs: int, members: np.ndarray | None, max_cells: int | None, rng: int | np.random.Generator | None
) -> np.ndarray:
    chosen = np.arange(n_obs) if members is None else members
    if max_cells is None or max_cells >= len(chosen):
        return chosen
    return np.sort(np.random.default_rng(rng).choice(chosen, max_cells, replace=False))


def _center(task: Task, rows: np.ndarray) -> np.ndarray:
    """Mean embedding of the cells in a state, (H,); cells without a gene have none and do not count."""
    from scgeneformer import engine

    tokens = np.asarray(task.tokens[rows])
    return np.nanmean(engine.embed(task.pretrained.encoder, tokens, **task.options).cells, axis=0)


def _forget(cells: AnnData, key: str) -> None:
    """Remove what an earlier run left under `key`: layers of states that are no longer asked for, and its ranking."""
    if key not in cells.uns or "params" not in cells.uns[key]:
        return  # nothing, or nothing of ours
    before = cells.uns[key]["params"]
    for state in [before.get("source"), *before.get("others", ())]:
        if state is not None:
            cells.layers.pop(keys.state_layer(key, state), None)
    cells.varm.pop(key, None)


def _tokens_of_genes(task: Task, genes: Sequence[str], tokens: np.ndarray) -> np.ndarray:
    """Token of each gene in `genes`, looked up in `var_names` first; every gene must be in some cell's tokens."""
    if isinstance(genes, str):
        genes = [genes]
    genes = list(genes)
    names, vocabulary = task.cells.var_names, task.vocabulary
    column = names.get_indexer(genes) if names.is_unique else np.full(len(genes), -1)
    found = np.where(column >= 0, task.token_id[column], -1)
    unknown = found < 0
    if unknown.any():
        found[unknown] = vocabulary.tokens_of([g for g, u in zip(genes, unknown, strict=True) if u])
    lost = [gene for gene, token in zip(genes, found, strict=True) if token < 0]
    if lost:
        msg = f"Genes not in vocabulary {vocabulary.name!r}: {', '.join(lost)}. Leave them out of `genes`."
        raise ValueError(msg)
    silent = [gene for gene, there in zip(genes, np.isin(found, tokens), strict=True) if not there]
    if silent:
        msg = f"Genes in the tokens of no cell that is perturbed: {', '.join(silent)}. Leave them out of `genes`."
        raise ValueError(msg)
    return found


def _layer(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """CSR with one stored value for each pair; unlike a sum or a filter, this constructor keeps zeros."""
    layer = sparse.coo_matrix((values, (rows, columns)), shape=shape).tocsr()
    layer.sort_indices()
    return layer
