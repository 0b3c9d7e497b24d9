"""Dropout with masks that are fast to draw on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 2**16  # probabilities are rounded to multiples of 1 / _LEVELS


class Dropout(nn.Dropout):
    """As :class:`torch.nn.Dropout`, with four decisions from each number that a CPU draws.

    On CPUs torch draws one number for every value, one after the other on one core, which took a seventh of a training
    step.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        dropped = round(self.p * _LEVELS)
        keep = bits >= dropped - _LEVELS // 2
        scale = _LEVELS / (_LEVELS - dropped) if dropped < _LEVELS else 0.0  # nothing is left to be scaled
        return x * keep.to(x.dtype).mul_(scale)
