"""Plots. Functions return Axes, or the Figure if `return_fig`, or show it as scanpy does; none writes files."""

from __future__ import annotations

from ._shift import shift

__all__ = ["shift"]
