"""``tl.screen``: all single genes, estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer import _keys as keys
from scgeneformer._arguments import checked
from scgeneformer._docs import doc_params

from ._options import DOCS, PerturbOptions
from ._run import run_perturbation

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path
    from typing import Any, Literal

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer

N_AXES = 8  # by which intervals are nearly as wide as by whole movements (benchmarks/judge_screen.py)


@checked
@doc_params(**DOCS)
def screen(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer | None = None,
    genes: Sequence[str] | Literal["vocabulary"] | None = None,
    *,
    target: Hashable,
    groupby: str | None = None,
    source: Hashable | None = None,
    others: Sequence[Hashable] = (),
    within: str | None = None,
    kind: Literal["delete", "overexpress", "inhibit", "activate"] = "delete",
    quartiles: Literal[1, 2, 3] = 1,
    ranks: int | None = None,
    positions: Literal["renumbered", "kept"] = "renumbered",
    refine: int = 0,
    allow_poor: bool = False,
    directions: bool | None = None,
    n_reference: int = 10,
    untrained: bool = True,
    centroids: Literal["mean", "median"] | Mapping[str, Any] = "mean",
    max_state_cells: int | None = None,
    cells: str | Sequence[bool] | Sequence[str] | None = None,
    max_cells: int | None = None,
    missing: Literal["error", "ignore"] = "error",
    pooling: Literal["mean", "cls"] | None = None,
    emb_layer: int | None = None,
    checkpoint: str | Path | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.SHIFT,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Estimate the shifts of all single genes, and compute the strongest exactly.

    The shifts of all genes of a cell are estimated from one backward pass, at about the cost of a dozen forward passes.

    Parameters
    ----------
    {adata_model}
    genes
        As in :func:`~scgeneformer.tl.perturb`.
    target
        State towards which shifts are measured. Without a target there are no estimates, because the first order is zero.
    {states}
    {kind}
    refine
        Number of genes with the largest, and of genes with the smallest, mean shift for which exact shifts are computed. Only genes in at least
        5 cells are considered; with `within`, in each group.
    allow_poor
        Keep estimates that agree poorly with exact values. Each run spends at most a tenth of its cost on exact values of eight genes in up to
        24 cells. A rank correlation within cells below 0.95 gives a warning; if its whole interval is below 0.8, an error is raised.
    {centroids}
    directions
        Also estimate how each gene moves the cells along the eight main axes of their scatter within the states, by which
        :func:`~scgeneformer.tl.rank_shifts` tests whether shifts depend on the states. Defaults to True with `source`, `target` and computed
        centroids. A screen then takes 1.6 times as long in short cells and 2.4 times as long in cells of 2,048 genes.
    {reference}
    {untrained}
    {missing}
    {embedding}
    {checkpoint}
        With `refine`, the exact part starts when all estimates are finished.
    {rest}

    Returns
    -------
    None, or the copy. Writes

    `.layers["shift"]`, `.layers["shift_<state>"]`
        CSR (n_obs, n_vars), as in :func:`~scgeneformer.tl.perturb`; float32, or float64 with `refine`.
    `.layers["shift__method"]`
        With `refine`: CSR int8, 1 for exact values, 0 for estimates.
    {untrained_slot}
    `.varm["shift__direction"]`, `.varm["shift__direction_<group>"]`, `.obsm["shift__movement"]`, `.obsm["shift__embedding"]`
        If `directions`: as in :func:`~scgeneformer.tl.perturb`, but of movements only the products with ``uns["shift"]["axes"]``, float32
        (n_vars, n_axes) and (n_obs, n_axes).
    `.uns["shift"]`
        ``"params"`` and ``"centroids"``, as in :func:`~scgeneformer.tl.perturb`; ``"axes"``, if `directions`: vectors of length 1, float64 (n_axes, width), first the centroids
        of the states, by group with `within`; and ``"screen"``, the agreement of estimates with exact values:
        DataFrame with a row for each state and the columns ``spearman``, the rank correlation over the genes of a cell, averaged over cells, ``slope`` of exact
        values on estimates, their 90 % intervals over cells, ``_low`` and ``_high``, ``n_cells`` and ``n_pairs``. Absent if cells have fewer than
        eight of the genes.

    Raises
    ------
    {raises}

    Notes
    -----
    Estimates are of first order, corrected by some exact runs. The page *The screen* of the documentation shows how well they agree with exact
    values. Agreement depends on the model and is therefore measured in each run. With trained models the rank correlation
    within a cell is about 0.99; it is lower towards the state that the cell is in.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.screen(adata, groupby="disease", source="dcm", target="nf", max_cells=4)
    >>> adata.layers["shift"].shape == adata.shape
    True
    """
    options = PerturbOptions(
        kind=kind,
        quartiles=quartiles,
        ranks=ranks,
        positions=positions,
        groupby=groupby,
        source=source,
        target=target,
        others=others,
        within=within,
        centroids=centroids,
        max_state_cells=max_state_cells,
        cells=cells,
        max_cells=max_cells,
        n_reference=n_reference,
        untrained=untrained,
        n_axes=N_AXES,
        allow_poor=allow_poor,
        missing=missing,
        pooling=pooling,
        emb_layer=emb_layer,
        checkpoint=checkpoint,
        tokens_key=tokens_key,
        key_added=key_added,
        rng=rng,
    ).with_directions(asked=directions)
    return run_perturbation("tl.screen", adata, model, options, genes=genes, refine=refine, mod=mod, copy=copy)
