"""How well embeddings keep labels of cells together and batches mixed."""

from __future__ import annotations

from ._scib import by_scib_metrics, has_scib_metrics
from ._scikit import by_scikit_learn

__all__ = ["by_scib_metrics", "by_scikit_learn", "has_scib_metrics"]
