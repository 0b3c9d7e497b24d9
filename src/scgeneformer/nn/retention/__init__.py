"""CellFM: an encoder of genes with values, by linear attention."""

from __future__ import annotations

from ._cellfm import CellFM
from ._config import CellFMConfig

__all__ = ["CellFM", "CellFMConfig"]
