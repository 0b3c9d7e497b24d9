"""CellFM: an encoder of genes with values, by linear attention."""

from __future__ import annotations

from ._cellfm import CellFM
from ._config import CellFMConfig
from ._load import load_cellfm

__all__ = ["CellFM", "CellFMConfig", "load_cellfm"]
