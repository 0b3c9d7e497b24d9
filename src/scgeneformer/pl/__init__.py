"""Plots. Functions return Axes, or the Figure if `return_fig`, or show it as scanpy does; none writes files."""

from __future__ import annotations

from ._calibration import calibration
from ._confusion import confusion
from ._curves import precision_recall, roc
from ._effects import effects
from ._embedding import shift_embedding
from ._embedding_scores import embedding_scores
from ._heatmap import shift_heatmap
from ._network import network
from ._shift._shift import shift
from ._training import training

__all__ = [
    "calibration",
    "confusion",
    "effects",
    "embedding_scores",
    "network",
    "precision_recall",
    "roc",
    "shift",
    "shift_embedding",
    "shift_heatmap",
    "training",
]
