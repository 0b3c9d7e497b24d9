"""Geneformer as an scvi-tools model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from scgeneformer import _keys, hub, nn
from scgeneformer.tokens import Vocabulary

from ._data import TOKENS_FIELD, MuDataTokensField, TokensField, registry_without_data
from ._module import GeneformerModule
from ._representation import RepresentationMixin
from ._training import TrainingMixin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData

_GENERATIONS, _EMBEDDED = ("V1", "V2"), "default"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Geneformer(TrainingMixin, RepresentationMixin, BaseModelClass):
    """Transformer over ranked genes, pretrained by guessing hidden genes (Theodoris 2023, Chen 2024).

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`. None for a model that gets
        its data later.
    vocabulary
        What the tokens mean. None takes the published vocabulary that the tokens of `adata` were made with. It is saved with the
        model.
    n_layers, width, n_heads, feed_forward
        Number of blocks, size of hidden states, attention heads, inner size of the feed-forward part.
    max_length
        Number of positions; None takes the vocabulary's.
    dropout, attention_dropout
        Of hidden states and attention weights in training. CPUs have a fast attention kernel only without `attention_dropout`.
    activation, layer_norm_eps, initializer_range
        As in :class:`scgeneformer.nn.EncoderConfig`.
    pooling, emb_layer
        What stands for a cell unless asked otherwise: ``"mean"`` of its genes or ``"cls"`` (None: cls where the vocabulary has it), and in
        which layer (None: -1, the second to last). Exported with the model.
    registry
        For scvi-tools' ``load``.

    Examples
    --------
    >>> sg.pp.tokenize(adata, vocabulary)
    >>> sg.model.Geneformer.setup_anndata(adata)
    >>> model = sg.model.Geneformer(adata, vocabulary=vocabulary)
    >>> model.train(max_epochs=10)
    >>> adata.obsm["X_geneformer"] = model.get_latent_representation()
    """

    _module_cls = GeneformerModule

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        *,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        n_layers: int = 4,
        width: int = 128,
        n_heads: int = 4,
        feed_forward: int = 256,
        max_length: int | None = None,
        dropout: float = 0.02,
        attention_dropout: float = 0.0,
        activation: str = "relu",
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        pooling: Literal["mean", "cls"] | None = None,
        emb_layer: int | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        own = None if vocabulary is None else _unpacked(vocabulary)
        if adata is None and registry is None:
            if own is None:
                msg = "Pass tokenized and registered `adata`, or a `vocabulary`."
                raise ValueError(msg)
            registry = registry_without_data(type(self).__name__, own.name, own.hash)
        super().__init__(adata, registry)
        state = self.registry["field_registries"][TOKENS_FIELD]["state_registry"]
        self._vocabulary = _known_vocabulary(state) if own is None else own
        if self._vocabulary.hash != state["vocabulary_hash"]:
            msg = (
                f"The tokens of this data were made with vocabulary {state['vocabulary']!r}, which is not the one given "
                f"({self._vocabulary.name!r}). Run `sg.pp.tokenize(adata, vocabulary)` first."
            )
            raise ValueError(msg)
        config = nn.EncoderConfig(
            vocab_size=len(self._vocabulary),
            n_layers=n_layers,
            width=width,
            n_heads=n_heads,
            feed_forward=feed_forward,
            max_length=max_length or self._vocabulary.max_length,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation=activation,
            layer_norm_eps=layer_norm_eps,
            initializer_range=initializer_range,
            pad_id=self._vocabulary.pad_id,
            pooling=pooling,
            emb_layer=emb_layer,
        )
        self.module = self._module_cls(config)
        self._model_summary_string = (
            f"Geneformer: {n_layers} layers, width {width}, {n_heads} heads, feed-forward {feed_forward}, "
            f"{config.max_length} positions, {self._vocabulary!r}"
        )
        vocabulary = _packed(self._vocabulary)  # what is saved with the model, instead of the object
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(cls, adata: AnnData, *, tokens_key: str = _keys.TOKENS, **kwargs: Any) -> None:
        """Register tokenized data with this model class.

        Parameters
        ----------
        adata
            AnnData with tokens of :func:`scgeneformer.pp.tokenize`.
        tokens_key
            Their name in ``.obsm``.

        Raises
        ------
        KeyError, ValueError
            If there are no tokens, or those of another vocabulary than a given registry's.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        manager = AnnDataManager(fields=[TokensField(TOKENS_FIELD, tokens_key)], setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        tokens_key: str = _keys.TOKENS,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the tokenized modality of a MuData with this model class.

        Parameters
        ----------
        mdata
            MuData of which one modality has tokens.
        tokens_key
            Their name in that modality's ``.obsm``.
        modalities
            Which modality: ``{"tokens_key": "rna"}``, which is also what None means.
        """
        modalities = dict(modalities or {"tokens_key": "rna"})
        setup_method_args = cls._get_setup_method_args(**locals())
        found = cls._create_modalities_attr_dict(modalities, setup_method_args)
        field = MuDataTokensField(TOKENS_FIELD, tokens_key, mod_key=found.tokens_key, mod_required=True)
        manager = AnnDataManager(fields=[field], setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def from_pretrained(cls, model: Any, adata: AnnData | MuData | None = None) -> Geneformer:
        """Start from a pretrained model, with its masked-gene head, to train it further.

        Parameters
        ----------
        model
            Name in :func:`scgeneformer.hub.available`, folder in the Hugging Face layout, or anything that :func:`scgeneformer.hub.load` takes.
        adata
            Data tokenized with that model's vocabulary and registered; None for none yet.

        Raises
        ------
        KeyError, TypeError
            If the model has no masked-gene head.
        ValueError
            If the tokens are of another vocabulary.
        """
        pretrained = hub.load(model)
        network = pretrained.masked_gene_model()
        sizes = asdict(network.encoder.config)
        for derived in ("vocab_size", "pad_id", "n_segments"):
            sizes.pop(derived)
        started = cls(adata, vocabulary=pretrained.vocabulary, **sizes)
        started.module.network.load_state_dict(network.state_dict())
        started.module.eval()
        return started

    @property
    def vocabulary(self) -> Vocabulary:
        """What this model's tokens mean."""
        return self._vocabulary

    @property
    def encoder(self) -> nn.Encoder:
        """The live encoder."""
        return self.module.network.encoder

    def get_var_names(self, *, legacy_mudata_format: bool = False) -> np.ndarray:
        """Ids of the vocabulary, special tokens first: what this model's inputs are, whatever the data's genes."""
        return np.array(self.vocabulary.ids)

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | MuData | Literal[False] | None = None, **kwargs: Any) -> Geneformer:
        """Load a model that was saved with ``save``; the vocabulary is in it.

        Parameters
        ----------
        dir_path
            Folder.
        adata
            Data tokenized with the model's vocabulary. None takes data saved with the model, or none.
        **kwargs
            See :meth:`scvi.model.base.BaseModelClass.load`.
        """
        prefix = kwargs.get("prefix") or ""
        saved = any((Path(dir_path) / f"{prefix}{name}").exists() for name in ("adata.h5ad", "mdata.h5mu"))
        if adata is None and saved:
            return super().load(dir_path, **kwargs)
        # data come after loading, since scvi-tools would compare names of genes, which mean nothing to tokens
        model = super().load(dir_path, adata=False, **kwargs)
        if adata is not None and adata is not False:
            model._validate_anndata(adata)
        return model

    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that :func:`scgeneformer.hub.load` and Hugging Face's ``BertForMaskedLM`` load.

        Parameters
        ----------
        folder
            Made if missing: ``config.json``, ``model.safetensors``, ``vocabulary.json.gz``.
        dtype
            Precision of the weights in the file.
        """
        if dtype not in _DTYPES:
            msg = f"dtype={dtype!r} is not one of {tuple(_DTYPES)}."
            raise ValueError(msg)
        nn.save_checkpoint(folder, self.module.network, dtype=_DTYPES[dtype])
        self.vocabulary.save(Path(folder) / "vocabulary.json.gz")

    def to_pretrained(self) -> hub.Pretrained:
        """Pair this model with its vocabulary for :mod:`scgeneformer.tl`, weights shared."""
        return hub.Pretrained(type(self).__name__, self.vocabulary, model=self.module.network)


def _packed(vocabulary: Vocabulary) -> dict[str, Any]:
    """Plain values from which `_unpacked` makes the vocabulary again."""
    names = ("name", "ids", "medians", "max_length", "aliases", "symbols")
    return {name: getattr(vocabulary, name) for name in names} | {"aliases": dict(vocabulary.aliases)}


def _unpacked(vocabulary: Vocabulary | Mapping[str, Any]) -> Vocabulary:
    return vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(**vocabulary)


def _known_vocabulary(state: Mapping[str, str]) -> Vocabulary:
    """The vocabulary of a model in the hub that the tokens were made with; one of your own must be given."""
    if state["vocabulary"] in _GENERATIONS:
        return hub.vocabulary(state["vocabulary"])
    if _EMBEDDED in hub.available().index and hub.vocabulary(_EMBEDDED).hash == state["vocabulary_hash"]:
        return hub.vocabulary(_EMBEDDED)
    msg = f"The tokens were made with the vocabulary {state['vocabulary']!r}, which is not a published one. Pass it as `vocabulary=`."
    raise ValueError(msg)
