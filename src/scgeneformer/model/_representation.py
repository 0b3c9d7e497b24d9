"""What a model makes of cells and genes, by the engine's own embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scgeneformer import engine
from scgeneformer._settings import settings

from .data._fields import registered_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData


class RepresentationMixin:
    """Gives a model with an encoder its representations."""

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        pooling: Literal["mean", "cls"] | None = None,
        emb_layer: int | None = None,
        **embed_kwargs: Any,
    ) -> np.ndarray:
        """Embed cells, with the function that :func:`scgeneformer.tl.embed` uses.

        Parameters
        ----------
        adata
            Tokenized data; None for those of this model.
        indices
            Cells, as numbers or as a mask; None for all.
        pooling
            ``"mean"`` over the genes or the state of ``"cls"``; None as the model was told, else cls where the vocabulary has it.
        emb_layer
            0 is the last layer, -1 the second to last; None as the model was told, else -1.
        **embed_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.embed`.

        Returns
        -------
        float32 (n_cells, width), cells in the order of `indices`.
        """
        pooling = engine.resolve_pooling(pooling, self.encoder.config, has_cls=self.vocabulary.has_cls)
        return self._embed(adata, indices, pooling=pooling, emb_layer=emb_layer, **embed_kwargs).cells

    def get_gene_embedding(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        contextual: bool = True,
        emb_layer: int | None = None,
        **embed_kwargs: Any,
    ) -> pd.DataFrame:
        """Embed genes.

        Parameters
        ----------
        adata, indices, emb_layer, **embed_kwargs
            As in :meth:`get_latent_representation`.
        contextual
            True: a gene's state averaged over the cells in which it is among the tokens. False: the rows of the input embedding,
            for which no data are needed.

        Returns
        -------
        DataFrame with gene ids as index and `width` columns: genes that occur, or all genes of the vocabulary.
        """
        if contextual:
            found = self._embed(adata, indices, pooling="mean", emb_layer=emb_layer, genes=True, **embed_kwargs)
            matrix, tokens = found.genes, np.flatnonzero(found.n_cells)
        else:
            matrix = self.encoder.embedding.gene.weight.detach().float().cpu().numpy()
            tokens = np.arange(self.vocabulary.n_special, len(matrix))
        return pd.DataFrame(matrix[tokens], index=pd.Index(self.vocabulary.ids[tokens], name="gene_id"))

    def _embed(self, adata: Any, indices: Any, **kwargs: Any) -> engine.Embeddings:
        tokens = self._read_tokens(adata, indices)
        kwargs["emb_layer"] = engine.resolve_layer(kwargs["emb_layer"], self.encoder.config)
        return engine.embed(self.encoder, tokens, n_special=self.vocabulary.n_special, **settled(kwargs))

    def _read_tokens(self, adata: Any, indices: Any) -> np.ndarray:
        """Tokens of `adata` or of this model's data, in memory, (n_cells, L)."""
        if adata is None and self.adata is None:
            msg = "This model has no data: pass tokenized `adata`."
            raise ValueError(msg)
        adata = self._validate_anndata(adata)
        tokens, lengths = registered_tokens(self.get_anndata_manager(adata, required=True), self.vocabulary)
        self._check_lengths(int(lengths.max(initial=0)))
        return np.asarray(tokens if indices is None else tokens[np.asarray(indices)])


def settled(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the engine, with what is not given taken from the settings."""
    return {"device": settings.device, "precision": settings.precision, "token_budget": settings.token_budget} | options
