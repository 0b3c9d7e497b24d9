"""Vocabularies of models: as plain values, and from the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgeneformer import hub
from scgeneformer.tokens import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

_GENERATIONS, _BUNDLED = ("V1", "V2"), "default"


def published_vocabulary(state: Mapping[str, str]) -> Vocabulary:
    """The vocabulary in the hub that the tokens were made with.

    Raises
    ------
    ValueError
        If it is not in the hub.
    """
    if state["vocabulary"] in _GENERATIONS:
        return hub.vocabulary(state["vocabulary"])
    if _BUNDLED in hub.available().index and hub.vocabulary(_BUNDLED).hash == state["vocabulary_hash"]:
        return hub.vocabulary(_BUNDLED)
    msg = f"The tokens were made with the vocabulary {state['vocabulary']!r}, which is not a published one. Pass it as `vocabulary=`."
    raise ValueError(msg)


def packed(vocabulary: Vocabulary) -> dict[str, Any]:
    """Plain values from which `unpacked` restores the vocabulary."""
    names = ("name", "ids", "medians", "max_length", "aliases", "symbols")
    return {name: getattr(vocabulary, name) for name in names} | {"aliases": dict(vocabulary.aliases)}


def unpacked(vocabulary: Vocabulary | Mapping[str, Any]) -> Vocabulary:
    """The vocabulary itself, or that of plain values."""
    return vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(**vocabulary)
