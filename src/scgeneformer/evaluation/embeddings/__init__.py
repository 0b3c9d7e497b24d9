"""How well embeddings keep labels of cells together and batches mixed; places of cells on an axis between two states."""

from __future__ import annotations

from ._axis import NEITHER, SOURCE, TARGET, held_out_positions
from ._scib import by_scib_metrics, has_scib_metrics
from ._scikit import by_scikit_learn

__all__ = [
    "NEITHER",
    "SOURCE",
    "TARGET",
    "by_scib_metrics",
    "by_scikit_learn",
    "has_scib_metrics",
    "held_out_positions",
]
