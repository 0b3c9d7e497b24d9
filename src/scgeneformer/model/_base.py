"""Base of all models: an encoder with its vocabulary, registration of data, embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from scgeneformer import _keys, engine, hub, nn
from scgeneformer._arguments import checked
from scgeneformer._settings import engine_options

from ._savable import SavableModel
from ._saving import STATE, VOCABULARY
from .data._fields import (
    SAMPLE_FIELD,
    TOKENS_FIELD,
    registered_tokens,
    registry_without_data,
)
from .data._vocabulary import packed, published_vocabulary, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .objectives._objective import Network, TokenModule


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TransformerModel(SavableModel):
    """A model that reads tokens of a vocabulary, independent of the genes in the data."""

    module: TokenModule
    history_: dict[str, pd.DataFrame] | None

    def _init_data(
        self,
        adata: AnnData | MuData | None,
        registry: dict[str, Any] | None,
        vocabulary: Vocabulary | Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Attach data and vocabulary; return the vocabulary as the plain values that are saved."""
        given = None if vocabulary is None else unpacked(vocabulary)
        if adata is None and registry is None:
            if given is None:
                msg = "Pass tokenized and registered `adata`, or a `vocabulary`."
                raise ValueError(msg)
            registry = registry_without_data(type(self).__name__, given.name, given.hash)
        super().__init__(adata, registry)
        state = self.registry["field_registries"][TOKENS_FIELD]["state_registry"]
        self._vocabulary = published_vocabulary(state) if given is None else given
        if self._vocabulary.hash != state["vocabulary_hash"]:
            msg = (
                f"The tokens of this data were made with vocabulary {state['vocabulary']!r}, which is not the one given "
                f"({self._vocabulary.name!r}). Run `sg.pp.tokenize(adata, vocabulary)` first."
            )
            raise ValueError(msg)
        return packed(self._vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """Gene vocabulary of this model: token ids, medians, special tokens."""
        return self._vocabulary

    @property
    def encoder(self) -> nn.Backbone:
        """The encoder, weights shared."""
        return self.module.network.encoder

    @checked
    def get_var_names(self, *, legacy_mudata_format: bool = False) -> np.ndarray:
        """Ids of the vocabulary, special tokens first: the inputs of this model, independent of the genes in the data."""
        return np.array(self.vocabulary.ids)

    def _export(
        self,
        folder: str | Path,
        network: Network,
        dtype: str,
        *,
        labels: list[str] | None = None,
        **config: Any,
    ) -> None:
        """Write `network` and the vocabulary to a folder in the Hugging Face layout, and add `config` to its ``config.json``."""
        precision, folder = get_dtype(dtype), Path(folder)
        (folder / STATE).unlink(missing_ok=True)  # of a model that was saved here before
        nn.save_checkpoint(folder, network, dtype=precision, labels=labels)
        nn.add_to_config(folder, config)
        self.vocabulary.save(folder / VOCABULARY)

    def to_pretrained(self) -> hub.Pretrained:
        """The network of this model with its vocabulary, as :func:`scgeneformer.hub.load` returns them; weights are shared."""
        return hub.Pretrained(type(self).__name__, self.vocabulary, model=self.module.network)

    def check_tokens(self, tokens: np.ndarray) -> None:
        """Raise if a cell has more tokens than this model has positions.

        Parameters
        ----------
        tokens
            Right-padded with 0, (n_cells, L).

        Raises
        ------
        ValueError
            If a cell has too many; the message says what to do.
        """
        self._check_length(int(engine.row_lengths(tokens).max(initial=0)))

    def _check_length(self, longest: int) -> None:
        positions = self.encoder.config.max_length
        if longest > positions:
            msg = (
                f"The longest cell has {longest} tokens, but this model has {positions} positions. "
                f"Run `sg.pp.tokenize(adata, model.vocabulary, max_length={positions})`."
            )
            raise ValueError(msg)

    @checked
    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        pooling: Literal["mean", "cls", "eos"] | None = None,
        emb_layer: int | None = None,
        **embed_kwargs: Any,
    ) -> np.ndarray:
        """Embed cells, as :func:`scgeneformer.tl.embed` does.

        A :class:`CellClassifier` without `pooling` and `emb_layer` returns the states in the last layer that its head reads.

        Parameters
        ----------
        adata
            Tokenized data. Defaults to the data of this model.
        indices
            Cells, as numbers or as a mask. Defaults to all.
        pooling
            ``"mean"`` over genes, or the state of the ``"cls"`` token or, for a decoder, of the ``"eos"`` token. Defaults to the pooling of the model,
            or else to cls if the vocabulary has that token.
        emb_layer
            0 is the last layer, -1 the second to last. Defaults to the layer of the model, or else to -1.
        **embed_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.embed`. Default to the settings.

        Returns
        -------
        float32 (n_cells, width), cells in the order of `indices`.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.Geneformer.setup_anndata(adata)
        >>> model = sg.model.Geneformer.from_pretrained("default", adata)
        >>> adata.obsm["X_geneformer"] = model.get_latent_representation(pooling="mean")
        """
        return self._latent(self._read_tokens(adata, indices), pooling, emb_layer, **embed_kwargs)

    def _latent(
        self, tokens: np.ndarray, pooling: engine.Pooling | None, emb_layer: int | None, **kwargs: Any
    ) -> np.ndarray:
        pooling = engine.resolve_pooling(pooling, self.encoder.config, has_cls=self.vocabulary.has_cls)
        return self._embed(tokens, pooling=pooling, emb_layer=emb_layer, **kwargs).cells

    @checked
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
            Average the state of a gene over the cells whose tokens contain it. If False, return the rows of the input embedding,
            which requires no data.

        Returns
        -------
        DataFrame with `width` columns, indexed by gene id: the genes that occur or, if not `contextual`, all genes of the vocabulary.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.Geneformer.setup_anndata(adata)
        >>> model = sg.model.Geneformer.from_pretrained("default", adata)
        >>> genes = model.get_gene_embedding()
        >>> genes.shape[1]
        128
        """
        if contextual:
            cells = self._read_tokens(adata, indices)
            embeddings = self._embed(cells, pooling="mean", emb_layer=emb_layer, genes=True, **embed_kwargs)
            matrix, tokens = embeddings.genes, np.flatnonzero(embeddings.n_cells)
        else:
            matrix = self.encoder.token_vectors.detach().float().cpu().numpy()
            tokens = np.arange(self.vocabulary.n_special, len(matrix))
        return pd.DataFrame(matrix[tokens], index=pd.Index(self.vocabulary.ids[tokens], name="gene_id"))

    def _embed(self, tokens: np.ndarray, **kwargs: Any) -> engine.Embeddings:
        kwargs["emb_layer"] = engine.resolve_layer(kwargs["emb_layer"], self.encoder.config)
        return engine.embed(self.encoder, tokens, n_special=self.vocabulary.n_special, **engine_options(**kwargs))

    def _read_tokens(self, adata: Any, indices: Any) -> np.ndarray:
        """Tokens of `adata` or of this model's data, in memory, (n_cells, L)."""
        if adata is None and self.adata is None:
            msg = "This model has no data: pass tokenized `adata`."
            raise ValueError(msg)
        adata = self._validate_anndata(adata)
        tokens, lengths = registered_tokens(self.get_anndata_manager(adata, required=True), self.vocabulary)
        self._check_length(int(lengths.max(initial=0)))
        return np.asarray(tokens if indices is None else tokens[np.asarray(indices)])

    def _training_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the data of this model, in memory, (n_cells, L), and the length of each row."""
        if self.adata_manager is None:
            name = type(self).__name__
            msg = f"This model has no data. Run `{name}.setup_anndata` and pass `adata` to the constructor or `load`."
            raise ValueError(msg)
        tokens, lengths = registered_tokens(self.adata_manager, self.vocabulary)
        self._check_length(int(lengths.max(initial=0)))
        return np.asarray(tokens), lengths

    def _cells(self) -> AnnData:
        """The AnnData, or modality, that has the tokens."""
        mod = self.adata_manager.data_registry[TOKENS_FIELD].get("mod_key")
        return self.adata if mod is None else _keys.as_adata(self.adata, mod)

    def _column(self, field: str) -> pd.Series:
        """A registered column of ``obs``, in the order of the tokenized cells."""
        where = self.adata_manager.data_registry[field]
        mod = where.get("mod_key")
        data = self.adata if mod is None else self.adata[mod]
        return data.obs[where["attr_key"]].reindex(self._cells().obs_names)

    def _samples(self) -> np.ndarray | None:
        """Sample of each cell, or None if the data were set up without samples."""
        registered = SAMPLE_FIELD in self.adata_manager.data_registry
        return self._column(SAMPLE_FIELD).to_numpy() if registered else None

    def _names(self, adata: AnnData | MuData | None, indices: Any) -> pd.Index:
        """Names of cells."""
        names = (self.adata if adata is None else adata).obs_names
        return names if indices is None else names[np.asarray(indices)]


def get_dtype(name: str) -> torch.dtype:
    """Precision of exported weights.

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    if name not in DTYPES:
        msg = f"dtype={name!r} is not one of {tuple(DTYPES)}."
        raise ValueError(msg)
    return DTYPES[name]
