"""Files of the official tool, read into AnnData and written from it."""

from __future__ import annotations

from ._export import export_official
from ._read import read_official

__all__ = ["export_official", "read_official"]
