"""Which device, which precision, how many tokens at once."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

Network = TypeVar("Network", bound="nn.Module")

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TOKEN_BUDGET = {"cuda": 131_072, "mps": 16_384, "cpu": 4_096}


def resolve_device(device: str = "auto") -> torch.device:
    """``"auto"`` is CUDA where there is one, else MPS, else the CPU.

    Raises
    ------
    ValueError
        If the device asked for is not there.
    """
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    found = torch.device(device)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(found.type, False):
        msg = f"device={device!r} is not available on this machine. Use device='auto' or 'cpu'."
        raise ValueError(msg)
    return found


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """``"auto"`` is bfloat16 on CUDA devices that have it and float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if precision not in _PRECISIONS:
        msg = f"precision={precision!r} is not one of 'auto', 'float32', 'bfloat16'."
        raise ValueError(msg)
    return _PRECISIONS[precision]


def default_token_budget(device: torch.device) -> int:
    """Tokens of one forward pass that keep `device` busy without filling its memory."""
    return _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])


def placed(network: Network, device: torch.device, dtype: torch.dtype) -> Network:
    """The network on `device` in `dtype`: itself if it is there already, else a copy."""
    here = next(network.parameters())
    if here.device == device and here.dtype == dtype:
        return network
    return copy.deepcopy(network).to(device, dtype)


@contextmanager
def on_device(
    network: Network, device: torch.device, dtype: torch.dtype, *, gradients: bool = False
) -> Iterator[Network]:
    """The network on `device` in `dtype` and evaluation mode; the one passed in stays as it was.

    Without `gradients` nothing that is computed can be differentiated, which is faster; with them it can be where that is asked for.
    """
    network = placed(network, device, dtype)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad() if gradients else torch.inference_mode():
            yield network
    finally:
        network.train(was_training)
