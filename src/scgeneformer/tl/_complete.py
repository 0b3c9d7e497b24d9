"""``tl.complete``: the rest of cells, as a decoder expects it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._settings import settings
from scgeneformer.tokens import vocabulary_column

from ._model_inputs import model_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained


@checked
def complete(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | None = None,
    *,
    n_genes: int,
    top_k: int | None = None,
    max_length: int | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.COMPLETED,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Keep the top genes of each cell and sample the others from a decoder, one after the other.

    The result consists of the genes that the model expects below these genes, as tokens: :func:`embed` and the other tools read it by
    `tokens_key`. It is neither a measurement nor a later state of the cell. No gene is sampled twice.

    Parameters
    ----------
    adata
        Tokenized by `scgeneformer.pp.tokenize`. If tokens are a dask array, only the kept tokens are read into memory; the result is in memory.
    model
        Name of a decoder, path of its checkpoint, or a loaded decoder. Defaults to the model that the tokens were made for. Name it if several
        models share its vocabulary.
    n_genes
        Number of top-ranked genes to keep; if a cell has fewer, all of them.
    top_k
        Sample among this number of the most probable genes; 1 always takes the most probable gene. Defaults to all genes, each with the
        probability that the model gives it.
    max_length
        Maximum number of tokens per cell, special tokens included; by default the model's. Longer cells are truncated.
    tokens_key
        Slot of the tokens in `obsm`.
    key_added
        Name of the results.
    rng
        Seed or generator.
    mod
        Modality to use of a MuData.
    copy
        Work on a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    `.obsm["geneformer_completed"]`
        uint16 (n_obs, `max_length`): tokens. Cells without genes of the vocabulary remain empty.
    `.obs["geneformer_completed_n_tokens"]`, `.obs["geneformer_completed_token_vocabulary"]`
        Number of tokens and vocabulary of each cell, as :func:`~scgeneformer.pp.tokenize` writes them.
    `.uns["geneformer_completed"]["params"]`
        Model, sha256 of its weights, vocabulary and its hash, the arguments, version.

    Raises
    ------
    KeyError
        If there are no tokens.
    TypeError
        If the checkpoint has no scores of genes.
    ValueError
        If the model is not a decoder, its vocabulary has no token that ends a cell, `n_genes` leaves nothing to sample, the tokens were made for another
        vocabulary, or a slot holds something other than earlier results.

    Notes
    -----
    Each gene costs one pass of one token, since keys and values of the tokens above are stored.

    Examples
    --------
    A small decoder with random weights, in place of a published one:

    >>> config = sg.nn.LlamaConfig(13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024)
    >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
    >>> sg.pp.tokenize(adata, decoder)
    >>> sg.tl.complete(adata, decoder, n_genes=5, max_length=20)
    >>> adata.obsm["geneformer_completed"].shape
    (32, 20)
    """
    from scgeneformer import engine

    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    written = [f"obsm/{key_added}", f"obs/{keys.lengths_key(key_added)}", f"obs/{keys.vocabulary_key(key_added)}"]
    slots.check_free(cells, "tl.complete", key_added, [*written, f"uns/{key_added}"])
    inputs = model_inputs(cells, model, tokens_key=tokens_key, pooling=None, emb_layer=None)
    pretrained, vocabulary = inputs.pretrained, inputs.vocabulary
    pretrained.encoder.check_offers("completion of cells", "tl.complete")
    longest = vocabulary.max_length if max_length is None else max_length
    if vocabulary.eos_id is None:
        msg = f"Vocabulary {vocabulary.name!r} of model {pretrained.name!r} has no <eos> token, which ends a cell."
        raise ValueError(msg)
    if not n_genes + 2 < longest <= vocabulary.max_length:
        msg = f"max_length={longest} must be above n_genes={n_genes} and two special tokens, and at most {vocabulary.max_length}, the model's maximum."
        raise ValueError(msg)
    prompts = np.array(inputs.tokens[:, : n_genes + 1])
    prompts[prompts == vocabulary.eos_id] = 0
    is_empty = ~(prompts >= vocabulary.n_special).any(axis=1)
    prompts[is_empty] = 0
    start = logg.info(f"completing {cells.n_obs} cells with {pretrained.name}")
    completed = engine.complete(
        pretrained.next_gene_model(),
        prompts,
        n_tokens=len(vocabulary),
        eos_id=vocabulary.eos_id,
        max_length=longest,
        top_k=top_k,
        rng=np.random.default_rng(rng),
        progress=settings.progress,
        **{name: inputs.options[name] for name in ("n_special", "device", "precision", "token_budget")},
    )
    completed[is_empty, :2] = vocabulary.cls_id, vocabulary.eos_id
    lengths = engine.row_lengths(completed).astype(np.int32)
    values = [completed, lengths, vocabulary_column(vocabulary, cells.n_obs)]
    slots.write(
        cells,
        "tl.complete",
        key_added,
        dict(zip(written, values, strict=True)),
        **{name: value for name, value in inputs.provenance.items() if name not in ("model", "pooling", "emb_layer")},
        model=pretrained.address,
        n_genes=n_genes,
        top_k=top_k,
        max_length=longest,
    )
    logg.info("    finished", time=start, deep="\n    ".join(["added", *written]))
    return data if copy else None
