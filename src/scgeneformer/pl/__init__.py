"""Plots. Functions return Axes, or the Figure if `return_fig`, or show it as scanpy does; none writes files."""

from __future__ import annotations

from ._effects import effects
from ._embedding import shift_embedding
from ._heatmap import shift_heatmap
from ._shift import shift

__all__ = ["effects", "shift", "shift_embedding", "shift_heatmap"]
