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
    from .official import export_official, read_official
    from .reporting import report
    from .tokens import Vocabulary

_ROOMS = ("datasets", "engine", "evaluation", "get", "hub", "model", "nn", "pl", "pp", "tl")
_MEMBERS = {  # and the rooms that have them
    "Reference": "atlas",
    "Vocabulary": "tokens",
    "export_official": "official",
    "read_official": "official",
    "report": "reporting",
}

__all__ = [
    "Reference",
    "Vocabulary",
    "__version__",
    "datasets",
    "engine",
    "evaluation",
    "export_official",
    "get",
    "hub",
    "model",
    "nn",
    "pl",
    "pp",
    "read_official",
    "report",
    "settings",
    "tl",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _MEMBERS:
        return getattr(import_module(f"{__name__}.{_MEMBERS[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
