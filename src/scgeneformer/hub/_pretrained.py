"""A model and its vocabulary, which are one thing."""

from __future__ import annotations

import copy
import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from . import _registry
from ._cache import fetch, sha256_of
from ._vocabularies import find_folder, fitting, of_folder, official, vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from scgeneformer.nn import Encoder, MaskedGeneModel
    from scgeneformer.tokens import Vocabulary


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Weights and the vocabulary they were trained with. Weights are read when first used.

    Attributes
    ----------
    name
        As given to :func:`load`; the folder's name for a path.
    vocabulary
        Token ids, medians and maximal length.
    folder
        Where config and weights are, in the Hugging Face layout; None for a model in memory.
    model
        A module of :mod:`scgeneformer.nn` in memory (an encoder, or one with `.encoder`); None for a folder.
    pinned_sha256
        What `sha256` is known to be, from the check of a download; None to compute it when asked.

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
    def encoder(self) -> Encoder:
        """The encoder, in evaluation mode and float32; read once. For a model in memory it is the live one."""
        if self.folder is None:
            return cast("Encoder", getattr(self.model, "encoder", self.model))
        from scgeneformer.nn import load_encoder

        return load_encoder(self.folder)

    def masked_gene_model(self) -> MaskedGeneModel:
        """Encoder and masked-gene head, a fresh copy at each call, to be trained further.

        Raises
        ------
        TypeError
            If the model has none.
        """
        from scgeneformer.nn import MaskedGeneModel, load_masked_gene_model

        if self.folder is not None:
            return load_masked_gene_model(self.folder)
        if not isinstance(self.model, MaskedGeneModel):
            msg = f"{self.name!r} is of class {type(self.model).__name__} and has no masked-gene head."
            raise TypeError(msg)
        return copy.deepcopy(self.model)

    @cached_property
    def sha256(self) -> str:
        """Sha256 of the file with the weights; of a model in memory, over its parameters (name, type, shape, bytes)."""
        if self.pinned_sha256 is not None:
            return self.pinned_sha256
        if self.folder is None:
            return _sha256_of_parameters(cast("nn.Module", self.model))
        from scgeneformer.nn import weights_file

        return sha256_of(weights_file(self.folder))


def _sha256_of_parameters(model: nn.Module) -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load(model: Any, *, vocabulary: Any = None) -> Pretrained:
    """Return a pretrained model together with its vocabulary, downloaded on first use.

    Parameters
    ----------
    model
        Name in :func:`available`; path of a folder in the Hugging Face layout (``config.json`` and ``model.safetensors``,
        or the older ``pytorch_model.bin``, of which nothing but tensors is unpickled); a :class:`Pretrained`; or a trained
        model with `.to_pretrained()`.
    vocabulary
        What the model was trained with, in any form that :func:`vocabulary` takes. None takes the file in the folder
        (``vocabulary.json``, ``vocabulary.json.gz``, ``vocabulary.parquet``), else the official one of the same size.

    Raises
    ------
    ValueError
        If there is no such model, a downloaded file is not the expected one, or the vocabulary has another size than the
        model's (both are named).
    FileNotFoundError, ConnectionError
        If a file is not cached and cannot be had.
    TypeError
        If `model` is none of the above.

    Examples
    --------
    >>> pretrained = sg.hub.load("default")
    >>> pretrained.name
    'default'
    """
    if not isinstance(model, str | os.PathLike):
        return _with_vocabulary(_from_object(model), vocabulary)
    if model in _registry.MODELS:
        return _from_registry(_registry.MODELS[model], vocabulary)
    folder = find_folder(model)
    own = of_folder(folder, vocabulary)
    from scgeneformer.nn import weights_file

    weights_file(folder)  # a folder without weights is an error here, not at first use
    return Pretrained(_registry.DEFAULT if model == _registry.DEFAULT else folder.resolve().name, own, folder)


def _from_registry(model: _registry.Model, given: Any) -> Pretrained:
    config, weights = (fetch(file) for file in model.files)
    if given is None:
        own = official(_registry.GENERATIONS[model.generation])
    else:
        own = of_folder(config.parent, given)
    return Pretrained(model.name, own, weights.parent, pinned_sha256=model.weights.sha256)


def _from_object(model: Any) -> Pretrained:
    found = model.to_pretrained() if hasattr(model, "to_pretrained") else model
    if not isinstance(found, Pretrained):
        msg = (
            f"Expected a model's name or path, a hub.Pretrained or a trained model, got {type(model).__name__}. "
            "See `sg.hub.available()` for names."
        )
        raise TypeError(msg)
    return found


def _with_vocabulary(pretrained: Pretrained, given: Any) -> Pretrained:
    if given is None:
        return pretrained
    config = pretrained.encoder.config
    own = fitting(vocabulary(given), config.vocab_size, config.max_length, repr(pretrained.name))
    return replace(pretrained, vocabulary=own)
