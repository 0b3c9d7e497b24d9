"""The files of a Hugging Face folder: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"


def read_config(folder: str | Path) -> dict[str, Any]:
    """Content of the ``config.json`` in `folder`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not JSON.

    Examples
    --------
    >>> sg.nn.read_config(sg.hub.load("default").folder)["hidden_size"]
    128
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        msg = f"No {CONFIG} in {folder}. Expected a folder in the Hugging Face layout: {CONFIG} and {WEIGHTS}."
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError
        return config
    except (ValueError, RecursionError):
        msg = f"{path} is not JSON, or is damaged. Fetch it again from its source."
        raise ValueError(msg) from None


def add_to_config(folder: str | Path, values: dict[str, Any]) -> None:
    """Add keys to the ``config.json`` in `folder`; transformers keeps those that it does not know.

    Examples
    --------
    >>> sg.nn.save_checkpoint("copy", sg.hub.load("default").encoder)
    >>> sg.nn.add_to_config("copy", {"pooling": "cls"})
    >>> sg.nn.load_encoder("copy").config.pooling
    'cls'
    """
    config = read_config(folder) | values
    (Path(folder) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def weights_file(folder: str | Path) -> Path:
    """The file with the weights in `folder`: safetensors, or the older ``pytorch_model.bin``.

    Examples
    --------
    >>> sg.nn.weights_file(sg.hub.load("default").folder).name
    'model.safetensors'
    """
    for name in (WEIGHTS, OLD_WEIGHTS):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    msg = f"No {WEIGHTS} (nor {OLD_WEIGHTS}) in {folder}."
    raise FileNotFoundError(msg)
