"""``tl.perturb``: in silico perturbation of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _slots as slots
from scgeneformer._settings import settings

from ._asked import check_anchor, check_columns, check_expressed, choose_cells, tokens_of_genes, tokens_of_sets
from ._design import Design, check_design
from ._perturb_run import perturb_genes, perturb_sets
from ._states import check_positions, draw_members, state_members
from ._task import prepare
from ._write_shifts import columns_by_token, shift_slots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer


def perturb(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer = "default",
    genes: Sequence[str] | Literal["vocabulary"] | None = None,
    *,
    sets: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    anchor: str | None = None,
    kind: Literal["delete", "overexpress", "inhibit", "activate"] = "delete",
    rank_shift: Literal[1, 2, 3] = 1,
    groupby: str | None = None,
    source: str | None = None,
    target: str | None = None,
    others: Sequence[str] = (),
    state_positions: Literal["mean", "median"] | Mapping[str, np.ndarray] = "mean",
    max_state_cells: int | None = None,
    cells: str | Sequence[bool] | Sequence[str] | None = None,
    max_cells: int | None = None,
    method: Literal["exact", "screen", "screen+exact"] = "exact",
    n_top: int = 50,
    effects: bool = False,
    missing: Literal["error", "ignore"] = "error",
    compat: Literal["official"] | None = None,
    pooling: Literal["mean", "cls"] | None = None,
    emb_layer: int | None = None,
    checkpoint: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.SHIFT,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] | None = None,
    token_budget: int | None = None,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Perturb genes of cells in silico, and measure where the cells go.

    Parameters
    ----------
    adata
        Tokenized by `scgeneformer.pp.tokenize`.
    model
        Name of a model of the hub, path of a checkpoint (a fine-tuned classifier too), or a trained model.
    genes
        Genes to perturb one by one: names in `var_names`, Ensembl ids or symbols. None takes every gene that a cell expresses, in that cell.
        Listed genes are deleted, inhibited or activated in the cells that express them, and overexpressed in all cells.
        ``"vocabulary"``, for ``"overexpress"``, takes all genes of `var` that the model knows, expressed or not.
    sets
        Genes to perturb together: names of sets with their genes, or just groups of genes, such as pairs, which are named
        ``"A+B"``. Sets are perturbed in cells that express at least one of their genes; overexpressed in all. Single genes are then
        perturbed only if `genes` asks for them.
    anchor
        Gene that is perturbed together with each single gene, in the cells that express it.
    kind
        ``"delete"`` takes a gene out of the cell's ranking. ``"overexpress"`` puts it at the top. ``"inhibit"`` and ``"activate"`` move it
        down or up by `rank_shift` quartiles of the ranking, to the middle of the quartile, or to the bottom or top beyond the last one.
    rank_shift
        See `kind`.
    groupby
        Column of `obs` with states of cells.
    source
        Perturb the cells in this state only.
    target
        Measure the way towards this state; None measures how far a cell moves at all.
    others
        Further states to measure the way towards, in the same pass.
    state_positions
        Where a state is: the ``"mean"`` or (exact, coordinate-wise) ``"median"`` of the embeddings of its cells, or given embeddings by state,
        of the same model, layer and pooling.
    max_state_cells
        Take at most so many cells, drawn by `rng`, for the position of a state.
    cells
        Perturb only these: a condition on `obs` such as ``"n_genes > 500 and batch == 'a'"``, one bool for each cell, or names.
    max_cells
        Perturb at most so many cells, drawn by `rng`.
    method
        ``"exact"`` runs the model once for each perturbation. ``"screen"`` estimates all single genes of a cell from one
        backward pass, for about the cost of a dozen runs; it needs a `target`. ``"screen+exact"`` then does the `n_top` genes of largest and
        of smallest mean shift again, exactly, of those in at least 5 cells. See Notes.
    n_top
        See `method`.
    effects
        Also measure what each perturbation does to the cell's other genes; exact only.
    missing
        ``"ignore"`` leaves out genes that the vocabulary does not have, with a warning, instead of refusing them.
    compat
        ``"official"`` follows the official tool where it differs: sets are deleted only in cells that express all their genes, and
        cells near the length limit lose too many genes before they are compared (it counts the genes that come in twice).
    pooling
        What stands for a cell: ``"mean"`` of its genes or ``"cls"``; None as in `scgeneformer.tl.embed`.
    emb_layer
        Which hidden layer: 0 is the last, -1 the second to last; None as in `scgeneformer.tl.embed`.
    checkpoint
        Folder for finished parts of the run. The same call goes on where it was stopped, and gives the same values; a call
        with other data, model or options is refused. With `effects` a part holds 40 bytes for each pair of genes.
    shard
        ``(i, n)``: compute only every n-th part, from the i-th (0 to n - 1), into `checkpoint`, and write nothing to `adata` unless all others are
        there. Start one process for each i; then the same call without `shard` puts everything together. With
        ``"screen+exact"`` the exact part can only begin when all estimates are there: start the processes twice.
    tokens_key
        Slot of the tokens in `obsm`.
    key_added
        Name of the results.
    device, precision, token_budget
        Override `scgeneformer.settings`. Shifts are small (about 1e-3), so that bfloat16 is often too coarse; ``"auto"``
        therefore means float32 here, on every device.
    rng
        Seed or generator, used by `max_cells` and `max_state_cells` only.
    mod
        Modality to use of a MuData.
    copy
        Work on a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    `.layers["shift"]`
        CSR (n_obs, n_vars), one stored value (zeros too) for each tested pair of a cell and a gene; float64, or float32 from
        ``"screen"``. With `target` the change of the cosine similarity between the cell and the target's position (positive: the
        perturbation moves the cell towards the target). Without, the cosine similarity between perturbed and original cell (1: no
        effect); for ``"mean"`` the mean over the genes that are not perturbed of the cosine of each gene's own state, for ``"cls"`` that
        of the first state. Where several columns of `var` are the same gene, the first holds the value.
    `.layers["shift_<state>"]`
        With `target`: the same with respect to `source` and each of `others`.
    `.layers["shift__method"]`
        After ``"screen+exact"``: int8, 1 where a value is exact, 0 where it is an estimate.
    `.obsm["shift_sets"]`, `.obsm["shift_sets_<state>"]`
        DataFrame (n_obs, n_sets), float64, NaN where a set was not perturbed; if `sets`.
    `.varp["shift"]`, `.varp["shift_n"]`, `.varp["shift_sd"]`
        If `effects`: CSR (n_vars, n_vars), for each perturbed gene (row) the mean over cells of the cosine between each other gene's
        (column's) state before and after, the number of cells, and the standard deviation. Of sets in `.varm["shift_sets"]`, ... (n_vars, n_sets).
    `.uns["shift"]`
        ``"params"``: all of the above, model, sha256 of its weights, vocabulary hash, numbers of cells and pairs, version.
        ``"states"``: the position of each state, float64 (width,).

    Raises
    ------
    KeyError
        If there are no tokens, no column `groupby`, or no cells of these names.
    ValueError
        If a gene is not in the vocabulary or in no cell, a state has no or one cell, options contradict each other,
        `checkpoint` holds parts of another run, or a slot holds something else than an earlier perturbation.

    Notes
    -----
    Formulas are the official tool's (Theodoris 2023): cell mode for V1, cls mode for V2. Overexpression of the gene that is at the top
    already is not tested, as there; nor is a deletion that would leave no gene.

    Estimates of the screen are first-order, corrected by some exact runs. How well they agree with exact values, and where they do not, is
    told in the documentation, "The screen"; in short: the rank correlation within a cell is about 0.99 for cells of some hundred
    genes and above 0.995 for full ones, and above 0.999 for genes that are not expressed; it is lower towards the state that a cell is in. They cannot be had without a target, because then the first order is zero.
    """
    from scanpy import logging as logg

    data = adata.copy() if copy else adata
    table = keys.as_adata(data, mod)
    check_design(
        kind,
        rank_shift,
        method,
        genes,
        sets,
        anchor,
        target,
        n_top,
        compat,
        checkpoint,
        shard,
        missing=missing,
        max_cells=max_cells,
        max_state_cells=max_state_cells,
        effects=effects,
    )
    others = [others] if isinstance(others, str) else list(others)
    members = state_members(table, groupby, source, target, others)
    with_genes = sets is None or genes is not None
    marked, states = method == "screen+exact", list(members)
    written = shift_slots(
        key_added, states, target, genes=with_genes, sets=sets is not None, marked=marked, effects=effects
    )
    slots.check_free(table, "tl.perturb", key_added, written)
    wanted = precision or settings.precision
    task = prepare(
        table,
        model,
        tokens_key=tokens_key,
        pooling=pooling,
        emb_layer=emb_layer,
        device=device,
        precision="float32" if wanted == "auto" else wanted,  # changes of a cosine are below what bfloat16 resolves
        token_budget=token_budget,
    )
    rng = np.random.default_rng(rng)
    if target is not None:
        check_positions(members, state_positions, task.pretrained.encoder.config.width)
    coming_in = kind == "overexpress"
    asked_sets = {} if sets is None else tokens_of_sets(task, sets, missing=missing, coming_in=coming_in)
    column_of = columns_by_token(task.token_id, len(task.vocabulary))
    if genes is None or (isinstance(genes, str) and genes == "vocabulary"):
        asked = np.flatnonzero(column_of >= 0)  # a gene that was dropped from var after tokenizing has no place
    else:
        asked = tokens_of_genes(task, genes, missing=missing)
        check_columns(task, asked, column_of)
    anchor_token = None if anchor is None else int(tokens_of_genes(task, anchor, missing="error", name="anchor")[0])

    chosen = choose_cells(table, cells, None if source is None else members[source], max_cells, rng)
    tokens = np.asarray(task.tokens[chosen])
    if genes is not None and kind != "overexpress":
        check_expressed(task, asked, tokens)
    everywhere = kind == "overexpress" and genes is not None
    if anchor_token is not None:
        check_anchor(task, anchor_token, asked, None if everywhere else tokens)

    start = logg.info(f"perturbing genes ({kind}) in {len(chosen)} cells with {task.pretrained.name}")
    design = Design(
        task=task,
        tokens=tokens,
        chosen=chosen,
        column_of=column_of,
        kind=kind,
        rank_shift=int(rank_shift),
        members={} if target is None else draw_members(members, max_state_cells, rng),
        target=target,
        state_positions=state_positions,
        effects=effects,
        official=compat == "official",
        checkpoint=checkpoint,
        shard=shard,
    )
    results = []
    if with_genes:
        results.append(perturb_genes(design, asked, anchor_token, method, n_top, key_added, absent=everywhere))
    if sets is not None:
        results.append(perturb_sets(design, asked_sets, key_added))
    missing_parts = sum(result.missing for result in results)
    if missing_parts:
        logg.info(f"    {missing_parts} parts are left to other shards; nothing is written to adata", time=start)
        return data if copy else None

    values = {slot: value for result in results for slot, value in result.values.items()}
    slots.write(
        table,
        "tl.perturb",
        key_added,
        values,
        kind=kind,
        rank_shift=rank_shift if kind in ("inhibit", "activate") else None,
        groupby=groupby,
        source=source,
        target=target,
        others=others,
        state_positions=None if target is None else state_positions if isinstance(state_positions, str) else "given",
        max_state_cells=max_state_cells,
        max_cells=max_cells,
        anchor=anchor if anchor is None or column_of[anchor_token] < 0 else table.var_names[column_of[anchor_token]],
        method=method,
        n_top=n_top if marked else None,
        compat=compat,
        **task.provenance,
        n_cells=len(chosen),
        n_pairs=sum(result.n_pairs for result in results),
    )
    if target is not None:
        placed = zip(design.states, design.positions, strict=True)
        table.uns[key_added]["states"] = {keys.slot_name(state): vector for state, vector in placed}
    logg.info("    finished", time=start, deep="\n    ".join(["added", *values]))
    return data if copy else None
