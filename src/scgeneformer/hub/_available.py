"""Table of models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from . import _cellfm, _registry, _vocabularies
from ._cache import is_cached


def available() -> pd.DataFrame:
    """List the models that :func:`load` loads by name.

    Returns
    -------
    One row per model, indexed by name: `generation` (of the vocabulary), `backbone`, `layers`, `width`, `parameters` (including the scores of
    genes), `max_length` (tokens per cell, including special tokens), `download_mb` (1e6 bytes, including dictionaries, without files of unknown
    size; missing for models that are not downloaded), `cached` (whether all files are in the cache), `licence`, `source` (repository on Hugging
    Face and folder in it), `description`.

    Examples
    --------
    >>> models = sg.hub.available()
    >>> int(models.loc["V2-104M", "layers"])
    12
    """
    bundled = [_bundled()] if (_vocabularies.DEFAULT_FOLDER / "config.json").is_file() else []
    rows = bundled + [_published(model) for model in _registry.MODELS.values()]
    rows += [_of_user(name, model) for name, model in _cellfm.PUBLISHED.items()]
    return pd.DataFrame(rows).set_index("name")


def pretrained_of(vocabulary: str) -> list[str]:
    """Names of the models with this vocabulary, without those that were fine-tuned for one question."""
    models = available()
    names = models.index[models["generation"] == vocabulary]
    return [name for name in names if name not in _registry.MODELS or _registry.MODELS[name].classifier is None]


def name_of(model: Any) -> str | None:
    """Name, folder or checkpoint by which `model` can be loaded again; None for a vocabulary or a model in memory."""
    if not isinstance(model, str | os.PathLike):
        return None
    models = available()
    if model in models.index:
        return str(model)
    if len(of_source := models.index[models["source"] == str(model)]):
        return str(of_source[0])
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() or path.suffix == _cellfm.SUFFIX else None


def _published(model: _registry.Model) -> dict[str, Any]:
    generation = _registry.GENERATIONS[model.generation]
    files = (*model.files, *generation.files)
    return {
        "name": model.name,
        "generation": model.generation,
        "backbone": model.backbone,
        "layers": model.n_layers,
        "width": model.width,
        "parameters": model.parameters,
        "max_length": generation.max_length,
        "download_mb": round(sum(file.size or 0 for file in files) / 1e6, 1),
        "cached": all(is_cached(file) for file in files),
        "licence": model.licence,
        "source": model.source,
        "description": model.description,
    }


def _of_user(name: str, model: _cellfm.Published) -> dict[str, Any]:
    return {
        "name": name,
        "generation": _cellfm.name_of_vocabulary(model.n_genes),
        "backbone": _registry.CELLFM,
        "layers": model.n_layers,
        "width": model.width,
        "parameters": model.parameters,
        "max_length": _cellfm.MAX_LENGTH,
        "download_mb": float("nan"),
        "cached": all(path.is_file() for path in (model.path, model.path.with_name(model.genes))),
        "licence": _cellfm.LICENCE,
        "source": "",
        "description": "Zeng 2025; reads values of genes; not downloaded, but read from your own files",
    }


def _bundled() -> dict[str, Any]:
    config = json.loads((_vocabularies.DEFAULT_FOLDER / "config.json").read_text())
    shape = [
        config[name]
        for name in ("vocab_size", "max_position_embeddings", "num_hidden_layers", "hidden_size", "intermediate_size")
    ]
    return {
        "name": _registry.DEFAULT,
        "generation": "own",
        "backbone": _registry.BERT,
        "layers": shape[2],
        "width": shape[3],
        "parameters": count_parameters(*shape),
        "max_length": shape[1],
        "download_mb": 0.0,
        "cached": True,
        "licence": "BSD-3-Clause",
        "source": "",
        "description": "bundled with the package: small, pretrained on blood cells, for trying things out",
    }


def count_parameters(n_tokens: int, max_length: int, n_layers: int, width: int, feed_forward: int) -> int:
    """Number of parameters of a BERT with masked-gene head, whose output matrix is the embedding."""
    norm = 2 * width
    embedding = (n_tokens + max_length + 2) * width + norm
    attention = 4 * (width * width + width) + norm
    mlp = 2 * width * feed_forward + feed_forward + width + norm
    head = width * width + width + norm + n_tokens
    return embedding + n_layers * (attention + mlp) + head
