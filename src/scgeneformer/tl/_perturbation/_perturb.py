"""``tl.perturb``: in silico perturbation of single genes."""

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


@checked
@doc_params(**DOCS)
def perturb(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer | None = None,
    genes: Sequence[str] | Literal["vocabulary"] | None = None,
    *,
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
    decompose: bool = False,
    directions: bool = False,
    n_reference: int = 10,
    untrained: bool = True,
    missing: Literal["error", "ignore"] = "error",
    compat: Literal["official"] | None = None,
    pooling: Literal["mean", "cls", "eos"] | None = None,
    emb_layer: int | None = None,
    checkpoint: str | Path | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.SHIFT,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Perturb genes of cells in silico, one by one, and measure where the cells move.

    The model runs once for each perturbation of a cell. For estimates of all genes see :func:`~scgeneformer.tl.screen`, for genes that are
    perturbed together :func:`~scgeneformer.tl.perturb_sets`.

    Parameters
    ----------
    {adata_model}
    genes
        Genes to perturb one by one: names in `var_names`, Ensembl ids or symbols. Defaults to every gene that a cell expresses, in that
        cell. Listed genes are deleted, inhibited or activated in the cells that express them, and overexpressed in all cells.
        ``"vocabulary"``, for ``"overexpress"``, takes all genes of `var` in the vocabulary, expressed or not.
    {kind}
    {factor}
    {states}
    target
        State towards which shifts are measured. Without it the distance that a cell moves is measured.
    {centroids}
    {outputs}
    effects
        Also measure the effect of each perturbation on the other genes of the cell.
    decompose
        Also tell what each shift of an ordinary deletion is made of, with a `target`: the gene's own vector, the network of the others, and
        their renumbering. Runs the model twice for each deletion. See the page *Perturbing genes in silico*.
    directions
        Also keep where each gene moves the cells, for ``test="permuted_labels"`` of :func:`~scgeneformer.tl.rank_shifts`. Needs computed centroids
        of `source` and `target`, and cells of the source that are not perturbed (`max_cells`).
    {reference}
    {untrained}
    {missing}
    compat
        ``"official"`` follows the official tool where it differs: cells near the length limit lose too many genes before they are compared
        (it counts inserted genes twice).
    {embedding}
    {checkpoint}
    {rest}

    Returns
    -------
    None, or the copy. Writes

    `.layers["shift"]`
        CSR (n_obs, n_vars), float64, one stored value (zeros too) for each tested pair of a cell and a gene. With `target` the change
        of the cosine similarity between the cell and the target's centroid (positive: the perturbation moves the cell towards the
        target); with `outputs` the change of the first of them. Without either, the cosine similarity between perturbed and original cell (1: no effect); for ``"mean"`` the mean over the genes
        that are not perturbed of the cosine of each gene's own state, for ``"cls"`` that of the first state. Where several columns of
        `var` are the same gene, the first holds the value.
    `.layers["shift_<state>"]`
        With `target`: the same with respect to `source` and each of `others`; with `outputs` for each further one.
    `.layers["shift__reference"]`, `.layers["shift__reference_<state>"]`
        Where genes are listed: the same of the random genes beside them.
    `.layers["shift__own"]`, `.layers["shift__network"]`, `.layers["shift__renumbering"]`
        If `decompose`: parts of the values of ``layers["shift"]``, which add up to them. ``own``: the gene's own vector leaves the mean over
        genes (0 for ``"cls"``). ``network``: the others lose the gene as something to attend to. ``renumbering``: those behind it move up by
        one. With respect to `source` and `others` ``"shift__own_<state>"`` and so on. Reference genes are not decomposed.
    {untrained_slot}
    `.varp["shift"]`, `.varp["shift_n"]`, `.varp["shift_sd"]`
        If `effects`: CSR (n_vars, n_vars), for each perturbed gene (row) the mean over cells of the cosine between each other gene's
        (column's) state before and after, the number of cells, and the standard deviation.
    `.varm["shift__direction"]`, `.varm["shift__direction_<group>"]`, `.obsm["shift__movement"]`, `.obsm["shift__embedding"]`
        If `directions`: mean over cells of the movement of the embedding, after less before, each at length 1, float32 (n_vars, width); the mean
        of each cell over the genes that its shifts are centred by, float32 (n_obs, width), NaN for cells that were not perturbed; and the
        embeddings of the cells that the centroids are made of, float32 (n_obs, width), NaN for all others.
    `.uns["shift"]`
        ``"params"``: the arguments, model, sha256 of its weights, vocabulary hash, numbers of cells and pairs, version. ``"centroids"``:
        the centroid of each state, float64 (width,); by group with `within`. With `outputs` the direction along which each grows.

    Raises
    ------
    {raises}

    Notes
    -----
    Formulas are the official tool's (Theodoris 2023): cell mode for V1, cls mode for V2. Overexpression of the gene that is at the top
    already is not tested, as there; nor is a deletion that would leave no gene.

    Device, precision and token budget are settings (:attr:`scgeneformer.settings`). Shifts are small (about 1e-3), so that bfloat16 is often
    too coarse; the precision ``"auto"`` therefore means float32 here, on every device.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.perturb(adata, genes=["STAT1", "IRF9"], groupby="disease", source="dcm", target="nf")
    >>> adata.layers["shift"].shape == adata.shape
    True
    >>> adata.layers["shift"].nnz  # two genes in each of the 16 cells of dcm
    32
    """
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
        decompose=decompose,
        directions=directions,
        n_reference=n_reference,
        untrained=untrained,
        missing=missing,
        compat=compat,
        pooling=pooling,
        emb_layer=emb_layer,
        checkpoint=checkpoint,
        tokens_key=tokens_key,
        key_added=key_added,
        rng=rng,
    )
    return run_perturbation("tl.perturb", adata, model, options, genes=genes, mod=mod, copy=copy)
