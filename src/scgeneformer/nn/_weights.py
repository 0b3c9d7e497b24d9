"""Tensors from files: read without running code, and checked before they become weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
)  # what torch says of pickles that it refuses, or that are damaged


def load_plain(path: str | Path, *, mmap: bool = False) -> Any:
    """Content of a file of ``torch.save``, if that is tensors and plain values; nothing else is unpickled.

    Parameters
    ----------
    path
        The file.
    mmap
        Leave tensors on disk until they are used.

    Raises
    ------
    ValueError
        If the file holds anything else, or is damaged.

    Examples
    --------
    >>> torch.save({"step": 3, "weight": torch.zeros(2)}, "state.pt")
    >>> sg.nn.load_plain("state.pt")["step"]
    3
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (*_UNREADABLE, OSError) as error:
        if getattr(error, "filename", None) is not None:  # there is no such file, and the like
            raise
        # torch's own message advises to load the file without this restriction
        msg = (
            f"{path} was refused: it is a pickle that holds more than tensors and plain values and could run code, or "
            "it is damaged. Do not load it by other means unless you trust its source; ask that source for "
            "safetensors."
        )
        raise ValueError(msg) from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from an older ``pytorch_model.bin``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds anything but tensors by name, or is damaged.

    Examples
    --------
    >>> weights = sg.nn.read_weights(sg.nn.weights_file(sg.hub.load("default").folder))
    >>> weights["bert.embeddings.word_embeddings.weight"].shape
    torch.Size([13156, 128])
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise _damaged(path, error) from None
    weights = load_plain(path)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        msg = f"{path} does not hold tensors by name. Save the model with `save_pretrained` of transformers."
        raise ValueError(msg)
    return weights


def weight_names(path: str | Path) -> set[str]:
    """Names of the tensors in a file, without their values where it is safetensors."""
    if Path(path).suffix != ".safetensors":
        return set(read_weights(path))
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: SafetensorError) -> ValueError:
    return ValueError(f"{path} is not a safetensors file, or is damaged ({error}). Fetch it again from its source.")


def checked(value: Tensor, dtype: torch.dtype, name: str, path: str | Path) -> Tensor:
    """The weights `name` of the file `path` in `dtype`.

    Raises
    ------
    ValueError
        If they are not floating-point numbers, or not finite.
    """
    if value.dtype not in _FLOATS:
        kind = str(value.dtype).removeprefix("torch.")
        msg = f"Weights {name!r} in {path} are {kind}, not floating-point numbers. Save the model in float32, float16 or bfloat16."
        raise ValueError(msg)
    value = value.to(dtype)
    # a sum is finite only if all its terms are, and takes a tenth of the time; sums of large numbers may overflow
    if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
        n_bad = int((~torch.isfinite(value)).sum())
        msg = (
            f"Weights {name!r} in {path} have {n_bad:,} values of {value.numel():,} that are NaN or infinite: the model would "
            "give no results. Its training diverged, or the file is damaged: use an earlier checkpoint, or fetch it again."
        )
        raise ValueError(msg)
    return value
