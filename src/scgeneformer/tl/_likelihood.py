"""``tl.likelihood``: how well a model predicts the genes of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._settings import settings

from ._embed import by_gene
from ._model_inputs import blocks_of, model_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer


@checked
def likelihood(
    adata: AnnData | MuData,
    model: str | Path | Pretrained | Geneformer | None = None,
    *,
    genes: bool = False,
    n_passes: int = 7,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.LIKELIHOOD,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score cells by the mean log-likelihood of their genes under the model, in nats.

    It is low if a cell is unlike the training cells of the model, for biological or technical reasons: another technology, ambient
    RNA, two cells in one droplet, or values that are not counts. Compare cells with similar numbers of genes, by the same model. A uniform
    distribution over V tokens gives -log(V), which is -9.9 for V2 and MaxToki.

    Parameters
    ----------
    adata
        Tokenized by `scgeneformer.pp.tokenize`. Dask tokens are read chunk by chunk.
    model
        Name of a model, path of a checkpoint, or a pretrained model, with scores of genes. Defaults to the model that the tokens were made for.
        Name it if several models share its vocabulary.
    genes
        Also average over the cells that express each gene.
    n_passes
        For a model with a masked-gene head: number of passes per cell, each of which masks one in `n_passes` genes; 7 is close to the 15 % of
        pretraining. Not used for a decoder, which needs one pass.
    tokens_key
        Slot of the tokens in `obsm`.
    key_added
        Name of the results.
    rng
        Seed or generator, for the ranks that are masked in each pass.
    mod
        Modality to use of a MuData.
    copy
        Work on a copy and return it.

    Returns
    -------
    None, or the copy. Writes

    `.obs["geneformer_loglik"]`
        float64: mean over a cell's genes. NaN for cells without a gene of the vocabulary.
    `.var["geneformer_loglik"]`, `.var["geneformer_loglik_n"]`
        If `genes`: mean over the cells whose tokens contain the gene, NaN if there are none, and the number of these cells.
    `.uns["geneformer_loglik"]["params"]`
        Kind of likelihood, model, sha256 of its weights, vocabulary hash, precision, version.

    Raises
    ------
    KeyError
        If there are no tokens.
    TypeError
        If the checkpoint has no scores of genes.
    ValueError
        If the tokens were made for another vocabulary, or a slot holds something other than earlier likelihoods.

    Notes
    -----
    A decoder gives the probability of each gene given all genes ranked above it (kind ``"causal"``); their product is the probability of the cell. A
    model with a masked-gene head gives the probability of a masked gene given the genes that are not masked (kind ``"pseudo"``; Wang and Cho 2019). Values
    of the two kinds are not comparable. Every gene of a cell is masked once.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.likelihood(adata)
    >>> bool((adata.obs["geneformer_loglik"] < 0).all())
    True
    """
    from scgeneformer import engine

    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    written = [f"obs/{key_added}", *([f"var/{key_added}", f"var/{key_added}_n"] if genes else [])]
    slots.check_free(cells, "tl.likelihood", key_added, [*written, f"uns/{key_added}"])
    inputs = model_inputs(cells, model, tokens_key=tokens_key, pooling=None, emb_layer=None)
    pretrained, token_id = inputs.pretrained, inputs.token_id if genes else None
    options = {name: inputs.options[name] for name in ("n_special", "device", "precision", "token_budget")}
    start = logg.info(f"scoring {cells.n_obs} cells with {pretrained.name}")
    options["progress"] = settings.progress
    if pretrained.encoder.causal:
        kind: dict[str, Any] = {"kind": "causal"}
        decoder = pretrained.next_gene_model()
        parts = [engine.next_gene_likelihood(decoder, block, **options) for block in blocks_of(inputs.tokens)]
    else:
        kind = {"kind": "pseudo", "n_passes": n_passes}
        network = pretrained.masked_gene_model()
        options["mask_id"] = inputs.vocabulary.mask_id
        options["pass_of_rank"] = engine.passes_of_ranks(inputs.tokens.shape[1], n_passes, np.random.default_rng(rng))
        parts = [engine.masked_likelihood(network, block, **options) for block in blocks_of(inputs.tokens)]
    found = engine.Likelihoods.joined(parts)
    values = [found.cells]
    if token_id is not None:
        means, n_cells = (
            by_gene(of_token[:, None].astype(float), token_id)[:, 0] for of_token in (found.genes, found.n_cells)
        )
        values += [means, np.nan_to_num(n_cells).astype(np.int32)]
    provenance = {name: value for name, value in inputs.provenance.items() if name not in ("pooling", "emb_layer")}
    slots.write(cells, "tl.likelihood", key_added, dict(zip(written, values, strict=True)), **kind, **provenance)
    logg.info("    finished", time=start, deep="\n    ".join(["added", *written]))
    return data if copy else None
