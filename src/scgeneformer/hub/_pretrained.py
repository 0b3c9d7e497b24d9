"""A model together with its vocabulary."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from scgeneformer._arguments import checked

from . import _cellfm, _registry
from ._cache import fetch, sha256_of
from ._vocabularies import find_folder, fitting, of_checkpoint, of_folder, official, vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from scgeneformer.nn import Backbone, MaskedGeneModel, NextGeneModel
    from scgeneformer.tokens import Vocabulary


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Weights with the vocabulary that they were trained with. Weights are read on first use.

    Attributes
    ----------
    name
        Name in :func:`available`, or of the folder.
    vocabulary
        Gene vocabulary.
    folder
        Folder with config and weights in the Hugging Face layout, or CellFM's ``.ckpt`` file; None for a model in memory.
    model
        A module of :mod:`scgeneformer.nn` in memory (a backbone, or a module with `.encoder`); None for a folder.
    pinned_sha256
        Verified `sha256` of a downloaded model; None to compute it when needed.

    Examples
    --------
    >>> pretrained = sg.hub.load("default")
    >>> pretrained.vocabulary.name, pretrained.encoder.config.n_layers
    ('PBMC-mini', 3)
    """

    name: str
    vocabulary: Vocabulary
    folder: Path | None = None
    model: nn.Module | None = None
    pinned_sha256: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.model is None):
            msg = "A Pretrained has either a folder or a model in memory."
            raise ValueError(msg)

    @cached_property
    def encoder(self) -> Backbone:
        """Backbone in evaluation mode and float32, read once; for a model in memory, the backbone itself, not a copy."""
        if self.folder is None:
            return cast("Backbone", getattr(self.model, "encoder", self.model))
        from scgeneformer.nn import load_backbone, load_cellfm

        if self.folder.is_file():
            return load_cellfm(self.folder, len(self.vocabulary) - self.vocabulary.n_special)
        return load_backbone(self.folder)

    def masked_gene_model(self) -> MaskedGeneModel:
        """Encoder and masked-gene head for further training, a new copy at each call.

        Raises
        ------
        TypeError
            If the model has no masked-gene head.
        """
        from scgeneformer.nn import MaskedGeneModel, load_masked_gene_model

        if self.folder is not None:
            return load_masked_gene_model(self.folder)
        if not isinstance(self.model, MaskedGeneModel):
            msg = f"{self.name!r} is of class {type(self.model).__name__} and has no masked-gene head."
            raise TypeError(msg)
        return copy.deepcopy(self.model)

    def next_gene_model(self) -> NextGeneModel:
        """Decoder and scores of the next gene; for a model in memory, the model itself.

        Raises
        ------
        TypeError
            If the model has no scores of the next gene.
        """
        from scgeneformer.nn import NextGeneModel, load_next_gene_model

        if self.folder is not None:
            return load_next_gene_model(self.folder)
        if not isinstance(self.model, NextGeneModel):
            msg = f"{self.name!r} is of class {type(self.model).__name__} and has no scores of the next gene."
            raise TypeError(msg)
        return self.model

    @property
    def address(self) -> str | None:
        """Name or folder by which :func:`load` finds the weights; None if they are in memory only."""
        if self.folder is None:
            return None
        return (
            self.name if self.name in (_registry.DEFAULT, *_registry.MODELS, *_cellfm.PUBLISHED) else str(self.folder)
        )

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file with the weights; for a model in memory, of its parameters (name, type, shape, bytes)."""
        if self.pinned_sha256 is not None:
            return self.pinned_sha256
        if self.folder is None:
            return _sha256_of_parameters(cast("nn.Module", self.model))
        from scgeneformer.nn import weights_file

        return sha256_of(self.folder if self.folder.is_file() else weights_file(self.folder))


def _sha256_of_parameters(model: nn.Module) -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@checked
def load(model: Any, *, vocabulary: Any = None) -> Pretrained:
    """Load a pretrained model and its vocabulary. Both are downloaded on first use.

    Parameters
    ----------
    model
        Name or source in :func:`available`, such as ``"V2-104M"`` or ``"ctheodoris/Geneformer/Geneformer-V2-104M"``, at a pinned revision; a
        folder in the Hugging Face layout (``config.json`` and ``model.safetensors``, or the older ``pytorch_model.bin``, from which only tensors
        are unpickled), such as one written by ``save`` of a model class; a ``.ckpt`` file of CellFM, or its name if the file and its gene list
        are in the folder ``CellFM`` of the cache; a :class:`Pretrained`; or a trained model with `.to_pretrained()`.
    vocabulary
        Vocabulary that the model was trained with, in any form that :func:`vocabulary` accepts. By default the file in the folder
        (``vocabulary.json``, ``vocabulary.json.gz`` or ``vocabulary.parquet``), else the official vocabulary of the same size; for CellFM the
        gene list in the folder of the file, ``gene_info.csv`` or ``expand_gene_info.csv``, or the path of another CSV file.

    Returns
    -------
    The model, whose weights are read on first use, and its vocabulary.

    Warns
    -----
    UserWarning
        If the config of a folder names a classifier and the weights have no head. The encoder can still be used.

    Raises
    ------
    ValueError
        If there is no such model, a downloaded file fails verification, or the vocabulary does not have the size of the model.
    FileNotFoundError, ConnectionError
        If a file is neither cached nor available.
    TypeError
        If `model` has another type.

    Examples
    --------
    >>> pretrained = sg.hub.load("default")
    >>> pretrained.name
    'default'
    """
    if not isinstance(model, str | os.PathLike):
        return _with_vocabulary(_from_object(model), vocabulary)
    if (published := _registry.find(model)) is not None:
        return _from_registry(published, vocabulary)
    if (checkpoint := _cellfm.find_checkpoint(model)) is not None:
        name = str(model) if model in _cellfm.PUBLISHED else checkpoint.stem
        return Pretrained(name, of_checkpoint(checkpoint, vocabulary), checkpoint)
    folder = find_folder(model)
    model_vocabulary = of_folder(folder, vocabulary)
    from scgeneformer.nn.checkpoints import missing_head, weights_file

    weights_file(folder)  # raises now, rather than at first use, if there are no weights
    if (message := missing_head(folder)) is not None:
        warnings.warn(message, stacklevel=3)
    name = _registry.DEFAULT if model == _registry.DEFAULT else folder.resolve().name
    return Pretrained(name, model_vocabulary, folder)


def load_classifier(model: str | Path, kind: str, vocabulary: Any = None) -> tuple[Path, Vocabulary]:
    """Folder and vocabulary of a classifier by its name or path.

    Raises
    ------
    TypeError
        If the name is that of another model, which then is not downloaded.
    """
    published = _registry.find(model)
    if published is not None and published.classifier != kind:
        what = "a pretrained model" if published.classifier is None else f"a {published.classifier}"
        msg = f"{model!r} is {what}, not a {kind}. Train one from it: `sg.model.{kind}(adata, ..., pretrained={model!r})`."
        raise TypeError(msg)
    pretrained = load(model, vocabulary=vocabulary)
    return cast("Path", pretrained.folder), pretrained.vocabulary


def _from_registry(model: _registry.Model, given: Any) -> Pretrained:
    config, weights = (fetch(file) for file in model.files)
    if given is None:
        model_vocabulary = official(_registry.GENERATIONS[model.generation])
    else:
        model_vocabulary = of_folder(config.parent, given)
    return Pretrained(model.name, model_vocabulary, weights.parent, pinned_sha256=model.weights.sha256)


def _from_object(model: Any) -> Pretrained:
    pretrained = model.to_pretrained() if hasattr(model, "to_pretrained") else model
    if not isinstance(pretrained, Pretrained):
        msg = (
            f"Expected a model's name or path, a hub.Pretrained or a trained model, got {type(model).__name__}. "
            "See `sg.hub.available()` for names."
        )
        raise TypeError(msg)
    return pretrained


def _with_vocabulary(pretrained: Pretrained, given: Any) -> Pretrained:
    if given is None:
        return pretrained
    config = pretrained.encoder.config
    fitted = fitting(vocabulary(given), config.vocab_size, config.max_length, repr(pretrained.name))
    return replace(pretrained, vocabulary=fitted)
