"""Geneformer as steps of a scanpy analysis.

Tokenize, embed and perturb AnnData in place (`pp`, `tl`, `pl`, `get`), train with scvi-tools-style classes (`model`).
`nn`, `engine`, `hub`, `model` and `datasets` are loaded when first used, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import evaluation, get, pl, pp, tl
from ._settings import settings
from ._version import __version__
from .atlas import Reference
from .tokens import Vocabulary

if TYPE_CHECKING:
    from . import datasets, engine, hub, model, nn

_LAZY = ("datasets", "engine", "hub", "model", "nn")

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
    if name in _LAZY:
        return import_module(f"{__name__}.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
