"""Classifiers of pairs in folders: JSON, safetensors and the vocabulary, and no pickle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.numpy import load_file

from scgeneformer import _files
from scgeneformer.tokens import Vocabulary

from ._pair_encoder import PairEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

STATE, ARRAYS, VOCABULARY = "pair_classifier.json", "pair_classifier.safetensors", "vocabulary.json.gz"
ENCODER = "encoder"  # folder of a fine-tuned one
_FORMAT = "scgeneformer pairs 1"


def write_folder(
    folder: Path,
    state: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    encoder: PairEncoder | None,
    *,
    overwrite: bool,
) -> None:
    """Write a folder as a whole, in the place of a saved model if `overwrite`.

    Raises
    ------
    ValueError
        If there is something that is not to be overwritten, or that is not a saved PairClassifier.
    """
    if folder.exists() and not overwrite:
        msg = f"{folder} exists. Choose another folder, or pass overwrite=True."
        raise ValueError(msg)
    if folder.exists() and not (folder / STATE).is_file():
        msg = f"{folder} is not a saved PairClassifier and is not replaced. Choose another folder."
        raise ValueError(msg)

    def write(new: Path) -> None:
        new.mkdir(parents=True)
        (new / STATE).write_text(json.dumps({"format": _FORMAT, **state}) + "\n", encoding="utf-8")
        # copies, since safetensors takes no two names for the same memory
        _files.write_tensors(new / ARRAYS, {name: torch.tensor(values) for name, values in arrays.items()})
        vocabulary.save(new / VOCABULARY)
        if encoder is not None:
            encoder.write(new / ENCODER)

    folder.parent.mkdir(parents=True, exist_ok=True)
    _files.replace(folder, write)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], Vocabulary, PairEncoder | None]:
    """What `write_folder` wrote; the encoder has no cells.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    ValueError
        If it is of another format, or damaged.
    """
    if not (folder / STATE).is_file():
        msg = f"No PairClassifier in {folder}, which has no {STATE}. Pass the folder that `model.save` wrote."
        raise FileNotFoundError(msg)
    try:
        state = json.loads((folder / STATE).read_bytes())
        version = state.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError):
        msg = f"{folder / STATE} was not written by `model.save`, or is damaged. Save the model again."
        raise ValueError(msg) from None
    if version != _FORMAT:
        msg = f"{folder / STATE} is in the format {version!r}, but this version of scgeneformer reads {_FORMAT!r}. Install a newer one."
        raise ValueError(msg)
    arrays, vocabulary, encoder = load_file(folder / ARRAYS), Vocabulary.load(folder / VOCABULARY), None
    if (folder / ENCODER).is_dir():
        directed = state["model"]["directed"]
        encoder = PairEncoder.read(folder / ENCODER, vocabulary, tuple(state["classes"]), directed=directed)
    return state, arrays, vocabulary, encoder
