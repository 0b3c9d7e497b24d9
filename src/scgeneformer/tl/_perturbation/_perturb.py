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
    directions: bool | None = None,
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
    """Perturb genes of cells in silico, one by one, and measure how the embeddings of the cells change.

    The model runs once for each perturbation of a cell. To estimate the shifts of all genes see :func:`~scgeneformer.tl.screen`; to perturb genes
    together see :func:`~scgeneformer.tl.perturb_sets`.

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
        State towards which shifts are measured. Without a target, similarity to the original cell is measured.
    {centroids}
    {outputs}
    effects
        Also measure the effect of each perturbation on the other genes of the cell.
    decompose
        Split each shift of an ordinary deletion towards a `target` into three parts: the vector of the gene, the network of the other genes, and
        their renumbering. Runs the model twice for each deletion. See the page *Perturbing genes in silico*.
    directions
        Also store how each gene moves the cells in the embedding, by which :func:`~scgeneformer.tl.rank_shifts` tests whether shifts depend on the states. Defaults to
        True with `source`, `target` and computed centroids. The slots are as large as two embeddings of the cells and one of the genes.
    {reference}
    {untrained}
    {missing}
    compat
        ``"official"`` reproduces the official tool: cells near the length limit lose too many genes before the comparison
        (inserted genes are counted twice).
    {embedding}
    {checkpoint}
    {rest}

    Returns
    -------
    None, or the copy. Writes

    `.layers["shift"]`
        CSR (n_obs, n_vars), float64, one stored value (zeros included) for each tested pair of cell and gene. With `target`, the change
        in cosine similarity between the cell and the centroid of the target (positive: the perturbation moves the cell towards the
        target); with `outputs`, the change of the first output. Without either, the cosine similarity between perturbed and original cell (1: no effect): for ``"mean"``
        the cosine between the two states of each unperturbed gene, averaged over genes; for ``"cls"`` the cosine between the two states of ``<cls>``. If several columns of
        `var` are the same gene, the first holds the value.
    `.layers["shift_<state>"]`
        With `target`: the same towards `source` and each of `others`; with `outputs`: the same for each further output.
    `.layers["shift__reference"]`, `.layers["shift__reference_<state>"]`
        If genes are listed: the same for the random genes perturbed with them.
    `.layers["shift__own"]`, `.layers["shift__network"]`, `.layers["shift__renumbering"]`
        If `decompose`: parts that add up to the values of ``layers["shift"]``. ``own``: the vector of the gene leaves the mean over
        genes (0 for ``"cls"``). ``network``: the other genes can no longer attend to the gene. ``renumbering``: the genes after it move up by
        one. Towards `source` and `others`, ``"shift__own_<state>"`` and so on. Reference genes are not decomposed.
    {untrained_slot}
    `.varp["shift"]`, `.varp["shift_n"]`, `.varp["shift_sd"]`
        If `effects`: CSR (n_vars, n_vars). For each perturbed gene (row) and every other gene (column), the cosine between the states of the other gene
        before and after, averaged over cells; the number of cells; and the standard deviation.
    `.varm["shift__direction"]`, `.varm["shift__direction_<group>"]`, `.obsm["shift__movement"]`, `.obsm["shift__embedding"]`
        If `directions`: difference of the embeddings after and before, both normalised to length 1, averaged over cells, float32 (n_vars, width); for each
        perturbed cell its average over the genes that centre the shifts, float32 (n_obs, width), NaN for all other cells; and the
        embeddings of the cells used for the centroids, float32 (n_obs, width), NaN for all other cells.
    `.uns["shift"]`
        ``"params"``: the arguments, model, sha256 of its weights, vocabulary hash, numbers of cells and pairs, version. ``"centroids"``:
        the centroid of each state, float64 (width,); by group with `within`. With `outputs`, the direction along which each output increases.

    Raises
    ------
    {raises}

    Notes
    -----
    The formulas are those of the official tool (Theodoris 2023): cell mode for V1, cls mode for V2. As in the official tool, overexpression of the gene that is
    already at the top is skipped; a deletion that would leave no gene is skipped as well.

    Device, precision and token budget are settings (:attr:`scgeneformer.settings`). Shifts are small (about 1e-3), and bfloat16 is often
    too coarse; here the precision ``"auto"`` therefore means float32, on every device.

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
    ).with_directions(asked=directions)
    return run_perturbation("tl.perturb", adata, model, options, genes=genes, mod=mod, copy=copy)
