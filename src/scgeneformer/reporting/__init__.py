"""A page about analysed cells, for those who do not open the file."""

from __future__ import annotations

from ._report import report

__all__ = ["report"]
