"""``tl.perturb_sets``: in silico perturbation of genes together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from scgeneformer import _keys as keys
from scgeneformer._arguments import checked
from scgeneformer._docs import doc_params
from scgeneformer._gene_sets import as_gene_sets

from ._options import DOCS, PerturbOptions
from ._run import run_perturbation

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer


@checked
@doc_params(**DOCS)
def perturb_sets(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer | None = None,
    sets: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | Sequence[str] | pd.DataFrame | Path | None = None,
    *,
    anchor: str | None = None,
    kind: Literal["delete", "overexpress", "inhibit", "activate", "scale"] = "delete",
    factor: float | None = None,
    quartiles: Literal[1, 2, 3] = 1,
    ranks: int | None = None,
    positions: Literal["renumbered", "kept"] = "renumbered",
    groupby: str | None = None,
    source: Hashable | None = None,
    target: Hashable | None = None,
    others: Sequence[Hashable] = (),
    within: str | None = None,
    centroids: Literal["mean", "median"] | Mapping[str, Any] = "mean",
    outputs: str | Sequence[str] | None = None,
    max_state_cells: int | None = None,
    cells: str | Sequence[bool] | Sequence[str] | None = None,
    max_cells: int | None = None,
    effects: bool = False,
    n_random: int = 20,
    n_reference: int = 10,
    missing: Literal["error", "ignore"] = "error",
    compat: Literal["official"] | None = None,
    pooling: Literal["mean", "cls", "eos"] | None = None,
    emb_layer: int | None = None,
    checkpoint: str | Path | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.SHIFT_SETS,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Perturb sets of genes in silico, the genes of a set together, and measure how the embeddings of the cells change.

    Parameters
    ----------
    {adata_model}
    sets
        Names of sets with their genes; a decoupler table with columns ``source`` (sets) and ``target`` (genes); a file that
        :func:`scgeneformer.datasets.read_gene_sets` reads, such as a GMT file; or groups of genes, such as pairs, which are named ``"A+B"``. Sets are
        perturbed in cells that express at least one of their genes, and overexpressed in all cells. With `anchor`: the genes that are perturbed together with it, by default
        every gene that a cell expresses.
    anchor
        Gene that is perturbed together with each gene of `sets`, in the cells that express both; if `sets` is given, overexpressed in all cells.
    {kind}
    {factor}
    {states}
    target
        State towards which shifts are measured. Without a target, similarity to the original cell is measured.
    {centroids}
    {outputs}
    effects
        Also measure the effect of each perturbation on the other genes of the cell.
    n_random
        Number of random sets that are perturbed for comparison with each set, 0 for none. They have the same size and are matched in detection and rank. Every set moves a
        cell; :func:`~scgeneformer.tl.rank_shifts` tests whether the effect of a set exceeds that of its random sets. Not with `anchor`, nor with
        ``compat="official"``.
    n_reference
        With `anchor` and listed genes: number of random genes that are also perturbed together with the anchor in each cell, for comparison.
    {missing}
    compat
        ``"official"`` reproduces the official tool: sets are deleted only in cells that express all their genes, and cells
        near the length limit lose too many genes before the comparison (inserted genes are counted twice).
    {embedding}
    {checkpoint}
    {rest}

    Returns
    -------
    None, or the copy. Writes

    `.obsm["shift_sets"]`, `.obsm["shift_sets_<state>"]`
        DataFrame (n_obs, n_sets), float64, NaN if a set was not perturbed; values as in :func:`~scgeneformer.tl.perturb`. The name
        is `key_added`, with ``"_sets"`` appended unless it ends in it.
    `.obsm["shift_sets__random"]`, `.obsm["shift_sets__random_<state>"]`
        float64 (n_obs, n_sets * n_random), the same for the random sets, those of the first set first.
    `.layers["shift_sets"]`, `.layers["shift_sets_<state>"]`
        With `anchor`, instead: CSR (n_obs, n_vars), for the pairs of the anchor with each gene.
    `.varm["shift_sets"]`, `.varm["shift_sets_n"]`, `.varm["shift_sets_sd"]`
        If `effects`: DataFrame (n_vars, n_sets). For each set (column) and every other gene (row), the cosine between the states of the gene
        before and after, averaged over cells; the number of cells; and the standard deviation. With `anchor`, in `varp`.
    `.uns["shift_sets"]`
        ``"params"`` and ``"centroids"``, as in :func:`~scgeneformer.tl.perturb`.

    Raises
    ------
    TypeError
        If neither `sets` nor `anchor` is given, or sets are given as genes.
    {raises}

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sets = {"ISGF3": ["STAT1", "STAT2", "IRF9"], "STAT1+STAT2": ["STAT1", "STAT2"]}
    >>> sg.tl.perturb_sets(adata, sets=sets, groupby="disease", source="dcm", target="nf")
    >>> list(adata.obsm["shift_sets"])
    ['ISGF3', 'STAT1+STAT2']
    """
    is_gene = anchor is not None and isinstance(sets, str)  # which goes with the anchor
    by_name: Any = sets if is_gene else as_gene_sets(sets)
    nested = isinstance(by_name, Mapping) or any(
        not isinstance(genes, str) for genes in (() if by_name is None else by_name)
    )
    if by_name is None and anchor is None:
        msg = "Name `sets` of genes, such as {'name': ['A', 'B']}, or an `anchor`. Single genes are perturbed by `sg.tl.perturb`."
        raise TypeError(msg)
    if anchor is not None and nested:
        msg = "With `anchor`, `sets` is a list of single genes that go with it. Put the anchor into the sets, or leave it out."
        raise TypeError(msg)
    genes, together = (None, by_name) if anchor is None else (by_name, None)
    options = PerturbOptions(
        kind=kind,
        factor=factor,
        quartiles=quartiles,
        ranks=ranks,
        positions=positions,
        groupby=groupby,
        source=source,
        target=target,
        others=others,
        within=within,
        centroids=centroids,
        outputs=outputs,
        max_state_cells=max_state_cells,
        cells=cells,
        max_cells=max_cells,
        effects=effects,
        n_random=n_random,
        n_reference=n_reference,
        missing=missing,
        compat=compat,
        pooling=pooling,
        emb_layer=emb_layer,
        checkpoint=checkpoint,
        tokens_key=tokens_key,
        key_added=key_added,
        rng=rng,
    )
    return run_perturbation(
        "tl.perturb_sets", adata, model, options, genes=genes, sets=together, anchor=anchor, mod=mod, copy=copy
    )
