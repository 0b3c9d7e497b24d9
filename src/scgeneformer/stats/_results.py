from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class GroupTest:
    """One test per group: a score whose sign is the direction, and its two-sided p-value, each float64 of shape (n_groups,)."""

    score: np.ndarray
    pvalue: np.ndarray
