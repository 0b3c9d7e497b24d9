"""Edits of ranked cells, as index arithmetic on batches of token rows.

An edit answers with `source` (B, L'): for each position of the edited row, which position of the original row its token came
from. Edited tokens, masks and the matching of background genes all follow from it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def delete(length: int, position: Tensor) -> Tensor:
    """Take the token at `position` (B,) out of rows of `length` L; everything behind it moves up one rank.

    Returns
    -------
    `source`, int64 (B, L - 1).
    """
    kept = torch.arange(length - 1, device=position.device)  # (L - 1,)
    return kept + (kept >= position[:, None])
