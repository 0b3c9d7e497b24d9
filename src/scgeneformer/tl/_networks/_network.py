"""``tl.network``: scores of pairs of genes from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._settings import settings
from scgeneformer.tl._model_inputs import model_inputs
from scgeneformer.tl._perturbation._states import groups_of

from ._genes import choose_genes, known_edges, named_columns
from ._score import as_varp, by_model, check_not_empty, check_options, check_pairs, edges_of, recorded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer


@checked
def network(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer | None = None,
    *,
    score: Literal["attention", "contextual", "token", "gradient", "effects"] = "attention",
    genes: Sequence[str] | None = None,
    tfs: Sequence[str] | None = None,
    edges: pd.DataFrame | None = None,
    missing: Literal["error", "ignore"] = "error",
    groupby: str | None = None,
    max_cells: int = 1_000,
    min_cells: int = 10,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    rank_corrected: bool | None = None,
    emb_layer: int | None = None,
    effects_key: str = keys.SHIFT,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.NETWORK,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score pairs of genes by a model, as a network from sources to targets.

    Scores are summed while cells run through the model, so memory depends on the number of pairs, not of cells. No score is
    evidence of regulation: first compare the scores with known edges and simple baselines by :func:`evaluate_network`.

    Parameters
    ----------
    adata
        Tokenized by :func:`~scgeneformer.pp.tokenize`.
    model
        Name of a model, path of a checkpoint, or a trained model. Defaults to the model that the tokens were made for.
    score
        Weight of an edge from a source to a target:

        ``"attention"``
            Attention from the target to the source, averaged over heads and layers, in units of uniform attention (1 divided by the number of
            tokens of the cell).
        ``"contextual"``
            Cosine similarity of the states of the two genes in the same cell.
        ``"token"``
            Cosine similarity of their token embeddings, which are the same in all cells.
        ``"gradient"``
            Norm of the derivative of the target's state with respect to the input of the source, in the direction of that input. It takes one pass through the
            model per source and cell, so name some `tfs`.
        ``"effects"``
            1 minus the cosine similarity of the target's states before and after the perturbation of the source, from
            :func:`perturb` with ``effects=True``. The model is not run.

        The first, second and fourth are means over the cells that express both genes.
    genes
        Genes of the network, by ``var_names``, Ensembl ids or symbols. Defaults to the 2,000 genes expressed by most cells, plus
        `tfs`; with ``"effects"`` to all genes with effects.
    tfs
        Sources, such as transcription factors; those outside `genes` are ignored. Defaults to all genes, or to the sources of `edges`.
    edges
        Known edges, in columns ``source`` and ``target``, to which the network is restricted: the model then weights the interactions of a database
        in these cells, and finds no new ones. `genes` defaults to the genes of these edges. Edges of genes that are not in the data are ignored. For undirected edges,
        such as those between proteins, list both directions. Defaults to all pairs of genes.
    missing
        Whether genes without a token raise an error or are left out with a warning.
    groupby
        Column of ``.obs``; one network for each group of cells.
    max_cells
        Maximum number of cells of each group, chosen at random, for scores that run the model.
    min_cells
        Minimum number of cells that express both genes of an edge. Means over few cells are more extreme, so edges of few cells rank first: require
        more cells for a list of the strongest edges, here or in :func:`~scgeneformer.get.edges`.
    layers
        Layers of the attention, counted as `emb_layer`: 0 is the last. Defaults to all.
    heads
        Heads of the attention, from 0 on. Defaults to all.
    rank_corrected
        Subtract from the score of two genes in a cell the mean score of pairs of genes at the same ranks (20 bins of ranks relative to the
        number of genes, over all pairs in all cells of the group). Without this correction, scores reflect ranks: high-ranked genes receive attention whatever
        they are. Defaults to True for ``"attention"``, False for ``"contextual"`` and ``"gradient"``.
    emb_layer
        Layer of the states for ``"contextual"`` and ``"gradient"``. Defaults to the layer stored with the model, else to -1, the second to last.
    effects_key
        Slot of the perturbation for ``"effects"``.
    tokens_key
        Slot of the tokens in ``.obsm``.
    key_added
        Name of the results.
    rng
        Seed or generator for the choice of cells.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Writes

    ``.varp["network"]``, or ``.varp["network_<group>"]``
        CSR (n_vars, n_vars), float32: row source, column target. Every stored value, zeros included, is an edge; there are no edges from a gene to itself.
        If several columns of ``.var`` are the same gene, the first has the edges.
    ``.varp["network__n"]``, or ``.varp["network_<group>__n"]``
        The number of cells that express both genes of an edge, int32; not for ``"token"``.
    ``.obs["network_cells"]``
        Whether a cell was used; not for ``"token"``.
    ``.uns["network"]["params"]``
        The arguments, groups, model, sha256 of its weights, vocabulary hash, numbers of cells and edges, version; with `edges`, their
        number, and the number of edges between genes of the data.

    Raises
    ------
    KeyError
        If there are no tokens, no column `groupby`, no recorded effects, or `edges` lacks a column.
    ValueError
        If genes are missing, no two genes are in `min_cells` cells, an option does not apply to the score, layers or heads do not exist, or a slot
        holds something other than an earlier network.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.network(adata, tfs=["STAT1", "STAT2", "IRF9"])
    >>> edges = sg.get.edges(adata)
    >>> edges["source"].value_counts().tolist()  # 40 genes, not to itself
    [39, 39, 39]
    """
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    check_options(
        score, groupby=groupby, layers=layers, heads=heads, rank_corrected=rank_corrected, emb_layer=emb_layer
    )
    groups = groups_of(data, groupby, mod)
    names = {group: key_added if group is None else keys.group_key(key_added, group) for group in groups}
    counted = score != "token"
    written = [slot for name in names.values() for slot in _slots(name, counted=counted)]
    if len(set(written)) < len(written):
        msg = (
            f"Groups in .obs[{groupby!r}] would have slots of the same name in .varp. Rename those that end with '__n'."
        )
        raise ValueError(msg)
    cells_slot = [f"obs/{keys.cells_key(key_added)}"] if counted else []
    slots.check_free(cells, "tl.network", key_added, [*written, *cells_slot, f"uns/{key_added}"])
    if score == "effects":
        if model is not None:
            msg = "score='effects' is read from .varp and runs no model. Leave `model` out."
            raise ValueError(msg)
        scorer = recorded(cells, effects_key)
    else:
        exact = settings.precision == "auto" or score == "gradient"  # which has no derivative in bfloat16
        inputs = model_inputs(
            cells,
            model,
            tokens_key=tokens_key,
            pooling=None,
            emb_layer=emb_layer,
            precision="float32" if exact else settings.precision,
        )
        least = min_cells if counted else 0
        options: dict[str, Any] = {"layers": layers, "heads": heads, "rank_corrected": rank_corrected}
        scorer = by_model(score, inputs, groups, max_cells=max_cells, min_cells=least, rng=rng, **options)
    wanted, factors = (
        named_columns(cells, scorer.inputs, given, name, missing) for name, given in (("genes", genes), ("tfs", tfs))
    )
    known = None if edges is None else known_edges(cells, scorer.inputs, edges)
    if known is not None:
        wanted, factors = known.genes(wanted), known.sources(factors)
    sources, targets = choose_genes(wanted, factors, scorer.n_cells, min_cells if counted else 0)
    allowed = None if known is None else known.among(sources, targets)
    if scorer.inputs is not None and counted:
        check_pairs(scorer.inputs, scorer.used, sources, targets, min_cells, allowed)

    n_cells = {group: len(rows) for group, rows in scorer.used.items()}
    which = "" if wanted is not None else ", the genes that most cells express"
    start = logg.info(
        f"scoring {len(sources)} x {len(targets)} genes{which}, by {score} in {sum(n_cells.values())} cells"
    )
    values: dict[str, Any] = {}
    n_edges: dict[str | None, int] = {}
    for group, rows in scorer.used.items():
        scored = scorer.of(rows, sources, targets)
        at = edges_of(scored, min_cells, allowed)
        n_edges[group] = int(at.sum())
        parts = [scored.values] if scored.n_cells is None else [scored.values, scored.n_cells.astype(np.int32)]
        for slot, part in zip(_slots(names[group], counted=counted), parts, strict=True):
            values[slot] = as_varp(part, at, sources, targets, cells.n_vars)
    check_not_empty(n_edges, min_cells)
    if counted:
        is_used = np.zeros(cells.n_obs, dtype=bool)
        is_used[np.concatenate(list(scorer.used.values()))] = True
        values[cells_slot[0]] = is_used
    slots.write(
        cells,
        "tl.network",
        key_added,
        values,
        score=score,
        groupby=groupby,
        groups=None if groupby is None else list(scorer.used),
        min_cells=min_cells,
        n_cells=list(n_cells.values()) if counted else None,
        n_edges=list(n_edges.values()),
        n_sources=len(sources),
        n_targets=len(targets),
        **({} if known is None else known.params),
        **scorer.params,
    )
    logg.info("    finished", time=start, deep="\n    ".join(["added", *values]))
    return data if copy else None


def _slots(name: str, *, counted: bool) -> list[str]:
    """Slots of one network: scores, then numbers of cells if there are any."""
    return [f"varp/{name}", *([f"varp/{keys.pairs_key(name)}"] if counted else [])]
