"""Vocabulary of a model, loaded without torch, since `pp` uses it."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from scgeneformer._arguments import check
from scgeneformer._settings import settings
from scgeneformer.tokens import Vocabulary

from . import _cellfm, _registry
from ._cache import fetch, intact
from ._token_dictionary import DICTIONARY, read_token_dictionary

if TYPE_CHECKING:
    from ._registry import Generation

DEFAULT_FOLDER = Path(__file__).parent / "default"
VOCABULARY_FILES = ("vocabulary.json", "vocabulary.json.gz", "vocabulary.parquet")
_CONFIG, _PICKLE = "config.json", "model.pt"
_KINDS = ("bert", "llama", "cellfm")  # as `model_type` in a config
_SIZES = {"vocab_size": "vocab_size", "max_length": "max_position_embeddings"}


def vocabulary(model: Any) -> Vocabulary:
    """Load the vocabulary of a model, without loading the model or torch.

    Parameters
    ----------
    model
        Name or source in :func:`~scgeneformer.hub.available`; ``"V1"`` or ``"V2"`` for the official dictionaries of a generation;
        a model folder in the Hugging Face layout, with the vocabulary in ``vocabulary.json``, ``vocabulary.json.gz`` or
        ``vocabulary.parquet``, else inferred from its size (25,426 = V1, 20,275 = V2); such a vocabulary file; a
        :class:`~scgeneformer.Vocabulary`; or any object with a `.vocabulary`.

    Returns
    -------
    The vocabulary. Official ones are downloaded on first use and shared between calls.

    Raises
    ------
    ValueError
        If there is no such name or path, or the vocabulary does not match the ``config.json`` of the folder.
    FileNotFoundError, ConnectionError
        If a dictionary is neither cached nor available.
    TypeError
        If `model` has another type.

    Examples
    --------
    >>> sg.hub.vocabulary("default").max_length
    1024
    """
    if isinstance(model, Vocabulary):
        return model
    if isinstance(model_vocabulary := getattr(model, "vocabulary", None), Vocabulary):
        return model_vocabulary
    if not isinstance(model, str | os.PathLike):
        msg = f"Expected a model's name, path, vocabulary or an object with `.vocabulary`, got {type(model).__name__}."
        raise TypeError(msg)
    if model in _registry.GENERATIONS:
        return official(_registry.GENERATIONS[model])
    if (published := _registry.find(model)) is not None:
        return official(_registry.GENERATIONS[published.generation])
    if (checkpoint := _cellfm.find_checkpoint(model)) is not None:
        return of_checkpoint(checkpoint)
    if Path(model).expanduser().is_file():
        return Vocabulary.load(Path(model).expanduser())
    return of_folder(find_folder(model))


def of_checkpoint(checkpoint: Path, given: Any = None) -> Vocabulary:
    """Vocabulary of CellFM's `checkpoint`: `given` by the user, also as the path of a list of genes, or the list beside it.

    Raises
    ------
    ValueError
        If what was given has no values.
    """
    if given is None:
        return _cellfm.read_gene_list(_cellfm.list_beside(checkpoint), names_of_genes())
    if isinstance(given, str | os.PathLike) and Path(given).suffix == ".csv" and Path(given).expanduser().is_file():
        return _cellfm.read_gene_list(Path(given).expanduser(), names_of_genes())
    found = vocabulary(given)
    if not found.values:
        msg = f"Vocabulary {found.name!r} is of ranked genes, but {checkpoint} reads genes with values. Pass the list of genes that belongs to it."
        raise ValueError(msg)
    return found


def names_of_genes() -> Vocabulary:
    """The vocabulary that knows the Ensembl ids of symbols."""
    try:
        return vocabulary("V2")
    except (FileNotFoundError, ConnectionError) as error:
        bundled = vocabulary("default")
        msg = (
            f"Ensembl ids and aliases of genes are taken from Geneformer's V2, which could not be loaded ({error}). "
            f"Those of the bundled model are used instead, which knows {len(bundled):,} genes: other genes are found "
            "by their symbols only."
        )
        warnings.warn(msg, UserWarning, stacklevel=2)
        return bundled


def find_folder(model: str | os.PathLike[str]) -> Path:
    """Folder of the bundled model, or at the path `model`."""
    if model == _registry.DEFAULT:
        if not (DEFAULT_FOLDER / _CONFIG).is_file():
            msg = f"The bundled model is missing from {DEFAULT_FOLDER}: this installation is incomplete. Reinstall scgeneformer."
            raise FileNotFoundError(msg)
        return DEFAULT_FOLDER
    folder = Path(model).expanduser()
    if not folder.is_dir():
        names = ", ".join(repr(name) for name in (_registry.DEFAULT, *_registry.MODELS))
        msg = f"No model {os.fspath(model)!r}: there is no such folder, and the names are {names} (see `sg.hub.available()`)."
        raise ValueError(msg)
    if not (folder / _CONFIG).is_file():
        msg = f"No {_CONFIG} in {folder}. Expected a model folder in the Hugging Face layout: {_CONFIG} and model.safetensors."
        if (folder / _PICKLE).is_file():
            msg += (
                f" Its {_PICKLE} is a pickle, the format of older versions, and could execute any code. If you trust "
                "its source, load it with `load(folder, allow_pickle=True)` of its class in `sg.model`, and save the "
                "model again."
            )
        raise FileNotFoundError(msg)
    return folder


def of_folder(folder: Path, given: Any = None) -> Vocabulary:
    """Vocabulary of the model in `folder`: `given` by the user, stored in the folder, or the official one of that size."""
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
        kind = config.get("model_type", "bert")
    except (ValueError, AttributeError, RecursionError):
        msg = f"{folder / _CONFIG} is not a JSON dictionary, or is damaged. Fetch it again from its source."
        raise ValueError(msg) from None
    if kind not in _KINDS:
        msg = f"{folder / _CONFIG} describes a model of type {kind!r}. In the Hugging Face layout, only types {_KINDS} can be read."
        raise ValueError(msg)
    try:
        n_tokens, max_length = (check(name, "int", config[theirs]) for name, theirs in _SIZES.items())
    except (ValueError, KeyError, TypeError):
        msg = f"{folder / _CONFIG} does not describe a model, or is damaged. Fetch it again from its source."
        raise ValueError(msg) from None
    if kind != "llama":
        return _of_size(folder, given, n_tokens, max_length)
    if not (folder / DICTIONARY).is_file():
        found = _of_size(folder, given, n_tokens, max_length)
    else:
        names, n_all = read_token_dictionary(folder / DICTIONARY)
        if n_all != n_tokens:
            msg = f"{folder / DICTIONARY} has {n_all:,} tokens, but the model beside it has {n_tokens:,}."
            raise ValueError(msg)
        found = _of_size(folder, given, len(names), max_length)
        if names != found.ids.tolist():
            msg = f"{folder / DICTIONARY} does not match vocabulary {found.name!r}: its genes or their numbers differ."
            raise ValueError(msg)
    for name, token in (("bos_token_id", found.cls_id), ("eos_token_id", found.eos_id)):
        if token is not None and config.get(name) != token:
            msg = f"{folder / _CONFIG} has {name}={config.get(name)!r}, but it is {token} in vocabulary {found.name!r}: the model belongs to another vocabulary."
            raise ValueError(msg)
    return found


def _of_size(folder: Path, given: Any, n_tokens: int, max_length: int) -> Vocabulary:
    """A vocabulary of `n_tokens` tokens for the model in `folder`."""
    if given is not None:
        return fitting(vocabulary(given), n_tokens, max_length, str(folder))
    for name in VOCABULARY_FILES:
        if (folder / name).is_file():
            return fitting(Vocabulary.load(folder / name), n_tokens, max_length, f"{folder} (its {name})")
    for generation in _registry.GENERATIONS.values():
        if generation.n_tokens == n_tokens:
            of_generation = official(generation)
            if of_generation.max_length <= max_length:
                return of_generation
            return replace(of_generation, max_length=max_length)
    msg = (
        f"{folder} has a model of {n_tokens:,} tokens but no vocabulary. Save it there "
        f"(`vocabulary.save({str(folder / VOCABULARY_FILES[0])!r})`) or name it: `sg.hub.load({str(folder)!r}, vocabulary=...)`."
    )
    raise ValueError(msg)


def fitting(vocabulary: Vocabulary, n_tokens: int, max_length: int, where: str) -> Vocabulary:
    """Return `vocabulary` after checking that it fits a model of `n_tokens` tokens and `max_length` positions."""
    if len(vocabulary) != n_tokens:
        msg = (
            f"Vocabulary {vocabulary.name!r} has {len(vocabulary):,} tokens, but the model in {where} has "
            f"{n_tokens:,}. Pass the vocabulary it was trained with as `vocabulary=`."
        )
        raise ValueError(msg)
    if vocabulary.max_length > max_length:
        msg = (
            f"Vocabulary {vocabulary.name!r} allows {vocabulary.max_length:,} tokens per cell, but the model in {where} has "
            f"{max_length:,} positions. Use `dataclasses.replace(vocabulary, max_length={max_length})`."
        )
        raise ValueError(msg)
    return vocabulary


def official(generation: Generation) -> Vocabulary:
    """Vocabulary from the official dictionaries of a generation, or from the cached file of the vocabulary that they make.

    That file is read in a fifth of the time, and trusted only with the sha256 that it has when these dictionaries are read.
    """
    if generation.parsed is None:
        return _read_official(generation, *map(fetch, generation.files))
    parsed = intact(generation.parsed)
    if parsed is None:
        vocabulary = _read_official(generation, *map(fetch, generation.files))
        _keep(vocabulary, settings.cache_dir / generation.parsed.path)
        parsed = intact(generation.parsed)
    return vocabulary if parsed is None else _load(parsed)


@lru_cache(maxsize=4)  # the files were verified, so that the arguments determine their content
def _read_official(generation: Generation, tokens: Path, medians: Path, mapping: Path, names: Path) -> Vocabulary:
    return Vocabulary.from_official(
        tokens, medians, mapping_file=mapping, name_file=names, name=generation.name, max_length=generation.max_length
    )


@lru_cache(maxsize=4)  # likewise
def _load(path: Path) -> Vocabulary:
    return Vocabulary.load(path)


def _keep(vocabulary: Vocabulary, path: Path) -> None:
    """Write a vocabulary for later processes. A cache that cannot be written to is left as it is."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            copy = Path(folder) / path.name
            vocabulary.save(copy)
            copy.replace(path)
