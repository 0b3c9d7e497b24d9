"""``tl.embed``: cells and genes as vectors of a Geneformer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._cluster import one_at_a_time
from scgeneformer._settings import settings

from ._model_inputs import ModelInputs, model_inputs

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer
    from scgeneformer.nn import Backbone


@checked
def embed(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer | None = None,
    *,
    pooling: Literal["mean", "cls", "eos"] | None = None,
    emb_layer: int | None = None,
    genes: bool = False,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.GENEFORMER,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed cells with a pretrained or fine-tuned model, without training.

    Only the layers up to the requested one are computed, without masked-gene scores. Batches hold cells of similar
    length; the result is in the order of `adata` and does not depend on batches or padding.

    Parameters
    ----------
    adata
        Tokenized by `scgeneformer.pp.tokenize`.
    model
        Name of a model, path of a checkpoint, or a trained model. Defaults to the model that the tokens were made for. Name it
        if several models share its vocabulary.
    pooling
        ``"mean"`` over the genes of a cell; ``"cls"``, the state of the special first token of a BERT encoder; or ``"eos"``, the state of the last token of
        a decoder, the only token that attends to the whole cell. Defaults to the pooling stored with the model (``"mean"`` for the bundled model and for
        decoders), else, as in the official tool, to ``"cls"`` if the vocabulary has that token (V2) and ``"mean"``
        otherwise (V1).
    emb_layer
        Hidden layer, counted as in the official tool: 0 is the last, -1 the second to last. Defaults to the layer stored with the model (0 for the
        bundled model and for decoders), else to -1.
    genes
        Also average the contextual state of each gene over the cells that express it.
    tokens_key
        Slot of the tokens in `obsm`.
    key_added
        Name of the results, with or without ``X_`` in front.
    mod
        Modality to use of a MuData.
    copy
        Work on a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    `.obsm["X_geneformer"]`
        float32 (n_obs, width); a dask array if the tokens are one. With mean pooling, NaN for cells without genes of the vocabulary.
    `.varm["geneformer"]`
        float32 (n_vars, width), if `genes`; NaN for genes that are not in the vocabulary or in no cell's tokens.
    `.uns["geneformer"]["params"]`
        Model, sha256 of its weights, vocabulary hash, layer, pooling, precision, version.

    Raises
    ------
    KeyError
        If there are no tokens.
    ValueError
        If the tokens were made for another vocabulary, if pooling, layer or device do not exist, or if a slot holds something other than an earlier
        embedding.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> adata.obsm["X_geneformer"].shape
    (32, 128)
    """
    from scgeneformer import engine

    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    key_added = keys.embedding_name(key_added)
    written = [f"obsm/{keys.embedding_key(key_added)}", *([f"varm/{key_added}"] if genes else [])]
    slots.check_free(cells, "tl.embed", key_added, [*written, f"uns/{key_added}"])
    inputs = model_inputs(
        cells,
        model,
        tokens_key=tokens_key,
        pooling=pooling,
        emb_layer=emb_layer,
    )
    lazy = not isinstance(inputs.tokens, np.ndarray)
    if genes and lazy:
        msg = f"genes=True needs tokens in memory, but .obsm[{tokens_key!r}] is a dask array. Call .compute() on it first."
        raise ValueError(msg)
    token_id = inputs.token_id if genes else None
    start = logg.info(f"embedding {cells.n_obs} cells with {inputs.pretrained.name}")
    if lazy:
        values = [_lazily(inputs)]
    else:
        encoder = inputs.pretrained.encoder
        embeddings = engine.embed(encoder, inputs.tokens, genes=genes, progress=settings.progress, **inputs.options)
        values = [embeddings.cells, *([] if token_id is None else [by_gene(embeddings.genes, token_id)])]
        n_empty = int(np.isnan(embeddings.cells).any(axis=1).sum())
        if n_empty:
            msg = (
                f"{n_empty} cells have no gene of vocabulary {inputs.vocabulary.name!r}: their rows of "
                f".obsm[{keys.embedding_key(key_added)!r}] are NaN. Filter by .obs[{keys.lengths_key(tokens_key)!r}] before going on."
            )
            warnings.warn(msg, stacklevel=3)

    slots.write(cells, "tl.embed", key_added, dict(zip(written, values, strict=True)), **inputs.provenance)
    added = f"    {keys.embedding_key(key_added)!r}, embedding of cells (adata.obsm)"
    if genes:
        added += f"\n    {key_added!r}, embedding of genes (adata.varm)"
    logg.info("    finished", time=start, deep=f"added\n{added}")
    return data if copy else None


def by_gene(of_token: np.ndarray, token_id: np.ndarray) -> np.ndarray:
    """Rows of `of_token` (V, H) in the order of `var`, NaN where a gene has no token; (n_vars, H)."""
    rows = of_token[np.maximum(token_id, 0)]
    rows[token_id < 0] = np.nan
    return rows


def _lazily(inputs: ModelInputs) -> Any:
    """Embedding of dask tokens as a dask array, one block of cells at a time. The model is a node of its graph, which goes to each worker once."""
    import dask.array as da
    from dask.delayed import delayed

    encoder, rows = inputs.pretrained.encoder, inputs.tokens.rechunk({1: -1})
    width = encoder.config.width
    return da.map_blocks(
        _embed_block,
        rows,
        delayed(encoder, name=f"scgeneformer-model-{inputs.pretrained.sha256}", traverse=False),
        options=inputs.options,
        dtype=np.float32,
        chunks=(rows.chunks[0], (width,)),
        meta=np.empty((0, width), np.float32),
    )


def _embed_block(block: np.ndarray, encoder: Backbone, options: dict[str, Any]) -> np.ndarray:
    from scgeneformer import engine

    with one_at_a_time():
        return engine.embed(encoder, block, **options).cells
