"""What all models of this room share: an encoder, the vocabulary that it reads, and how both are kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi.data import AnnDataManager
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass

from scgeneformer import _keys, hub, nn
from scgeneformer.tokens import Vocabulary

from ._representation import RepresentationMixin
from ._saving import PICKLE, STATE, VOCABULARY, is_saved, load_model, load_registry, save_model, saved_data
from .data._fields import TOKENS_FIELD, MuDataTokensField, TokensField, registry_without_data

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

    def save(
        self,
        dir_path: str | Path,
        *,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Write the model to a folder, with all that :meth:`load` needs to go on with it.

        The folder is an export at the same time, which :func:`scgeneformer.hub.load` and transformers load. What only this package
        knows (arguments, registry, history, split of cells, adapters as such) is beside it in ``scgeneformer.json`` and
        ``scgeneformer.safetensors``. No file can run code when it is loaded.

        Parameters
        ----------
        dir_path
            Folder.
        prefix
            Put before the names of files, so that one folder can hold several models; only :meth:`load` finds these.
        overwrite
            Write to a folder that is there. Other files in it stay.
        save_anndata
            Also write the data.
        **anndata_write_kwargs
            For :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        ValueError
            If the folder is there and `overwrite` is False, or there are no data to write.
        TypeError
            If the model has attributes that cannot be saved.
        """
        folder = Path(dir_path).expanduser()
        options = {"overwrite": overwrite, "save_anndata": save_anndata}
        save_model(self, folder, prefix=prefix or "", **options, **anndata_write_kwargs)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> Self:
        """Load a model that was saved with :meth:`save`; the vocabulary is in it.

        Parameters
        ----------
        dir_path
            Folder.
        adata
            Data tokenized with the model's vocabulary. None takes data saved with the model, or none; False takes none.
        accelerator, device
            Where the model goes, as in scvi-tools.
        prefix
            As it was given to :meth:`save`.
        allow_pickle
            Load also what older versions saved as ``model.pt``. That is a pickle, which may run any code: only if you trust its source.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If it is of another class, a pickle, or damaged, or the data were tokenized with another vocabulary.
        """
        folder, prefix = Path(dir_path).expanduser(), prefix or ""
        *_, place = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
        old = folder / f"{prefix}{PICKLE}"
        if allow_pickle and old.is_file() and not is_saved(folder, prefix):
            msg = f"{old} is a pickle, which runs whatever code it has. Save the model again with `model.save`."
            warnings.warn(msg, stacklevel=2)
            model = super().load(str(folder), adata=False, accelerator=accelerator, device=device, prefix=prefix)
        else:
            model = load_model(cls, folder, prefix)
            model.to_device(place)
        # data come after loading, since scvi-tools would compare names of genes, which mean nothing to tokens
        if adata is None:
            adata = saved_data(folder, prefix)
        if adata is not None and adata is not False:
            model._validate_anndata(adata)
        return model

    @staticmethod
    def is_saved(dir_path: str | Path) -> bool:
        """Whether a folder has a model that :meth:`save` wrote, whatever its class."""
        return is_saved(dir_path)

    @classmethod
    def load_registry(cls, dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """The registry of a model that was saved with :meth:`save`."""
        return load_registry(cls, Path(dir_path).expanduser(), prefix or "")

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Refused: the format that scvi-tools converts from is older than this package, and a pickle."""
        msg = f"No {cls.__name__} was ever saved in the format of scvi-tools before 0.15. Use `{cls.__name__}.load`."
        raise NotImplementedError(msg)

    def _export(
        self,
        folder: str | Path,
        network: torch.nn.Module,
        dtype: str,
        *,
        labels: list[str] | None = None,
        **config: Any,
    ) -> None:
        """Write `network` and the vocabulary to a folder in the Hugging Face layout; `config` goes to ``config.json`` too."""
        precision, folder = dtype_named(dtype), Path(folder)
        (folder / STATE).unlink(missing_ok=True)  # of a model that was saved here before
        nn.save_checkpoint(folder, network, dtype=precision, labels=labels)
        nn.add_to_config(folder, config)
        self.vocabulary.save(folder / VOCABULARY)

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
