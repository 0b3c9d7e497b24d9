"""What all models of this room share: an encoder, the vocabulary that it reads, and how both are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from scgeneformer import _keys, hub, nn
from scgeneformer.tokens import Vocabulary

from ._data import TOKENS_FIELD, MuDataTokensField, TokensField, registry_without_data
from ._representation import RepresentationMixin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from anndata import AnnData
    from mudata import MuData


_GENERATIONS, _EMBEDDED = ("V1", "V2"), "default"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TransformerModel(RepresentationMixin, BaseModelClass):
    """A model whose inputs are tokens: the names of its inputs are the vocabulary's, whatever the genes of the data."""

    def _begin(
        self,
        adata: AnnData | MuData | None,
        registry: dict[str, Any] | None,
        vocabulary: Vocabulary | Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Register the data and settle the vocabulary; returns what `vocabulary` is saved as."""
        own = None if vocabulary is None else unpacked(vocabulary)
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
        return packed(self._vocabulary)

    @classmethod
    def _register(cls, data: AnnData | MuData, fields: Sequence[TokensField], setup_args: dict, **kwargs: Any) -> None:
        """Register `fields` of `data` with this class."""
        manager = AnnDataManager(fields=list(fields), setup_method_args=setup_args)
        manager.register_fields(data, **kwargs)
        cls.register_manager(manager)

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
        cls._register(adata, [TokensField(TOKENS_FIELD, tokens_key)], setup_method_args, **kwargs)

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
        cls._register(mdata, [field], setup_method_args, **kwargs)

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
    def load(cls, dir_path: str, adata: AnnData | MuData | Literal[False] | None = None, **kwargs: Any) -> Self:
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

    def to_pretrained(self) -> hub.Pretrained:
        """Pair this model with its vocabulary for :mod:`scgeneformer.tl`, weights shared."""
        return hub.Pretrained(type(self).__name__, self.vocabulary, model=self.module.network)

    def _check_lengths(self, longest: int) -> None:
        positions = self.encoder.config.max_length
        if longest > positions:
            msg = (
                f"The longest cell has {longest} tokens, but this model has {positions} positions. "
                f"Run `sg.pp.tokenize(adata, model.vocabulary, max_length={positions})`."
            )
            raise ValueError(msg)


def packed(vocabulary: Vocabulary) -> dict[str, Any]:
    """Plain values from which `unpacked` makes the vocabulary again."""
    names = ("name", "ids", "medians", "max_length", "aliases", "symbols")
    return {name: getattr(vocabulary, name) for name in names} | {"aliases": dict(vocabulary.aliases)}


def unpacked(vocabulary: Vocabulary | Mapping[str, Any]) -> Vocabulary:
    """The vocabulary itself, or the one that `packed` took apart."""
    return vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(**vocabulary)


def dtype_named(name: str) -> torch.dtype:
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


def _known_vocabulary(state: Mapping[str, str]) -> Vocabulary:
    """The vocabulary of a model in the hub that the tokens were made with; one of your own must be given."""
    if state["vocabulary"] in _GENERATIONS:
        return hub.vocabulary(state["vocabulary"])
    if _EMBEDDED in hub.available().index and hub.vocabulary(_EMBEDDED).hash == state["vocabulary_hash"]:
        return hub.vocabulary(_EMBEDDED)
    msg = f"The tokens were made with the vocabulary {state['vocabulary']!r}, which is not a published one. Pass it as `vocabulary=`."
    raise ValueError(msg)
