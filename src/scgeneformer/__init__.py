"""Geneformer as steps of a scanpy analysis.

Tokenize, embed and perturb AnnData in place (`pp`, `tl`, `pl`, `get`), train with scvi-tools-style classes (`model`).
Rooms are loaded when they are first used, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._settings import settings
from ._version import __version__

if TYPE_CHECKING:
    from . import datasets, engine, evaluation, get, hub, model, nn, pl, pp, tl
    from .atlas import Reference
    from .tokens import Vocabulary

_ROOMS = ("datasets", "engine", "evaluation", "get", "hub", "model", "nn", "pl", "pp", "tl")
_CLASSES = {"Reference": "atlas", "Vocabulary": "tokens"}  # and the rooms that have them

__all__ = [
    "Reference",
    "Vocabulary",
    "__version__",
    "datasets",
    "engine",
    "evaluation",
    "get",
    "hub",
    "model",
    "nn",
    "pl",
    "pp",
    "settings",
    "tl",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _CLASSES:
        return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
