"""Labelled cells as a reference: saved in a folder, and queried for labels, distances and nearest cells."""

from __future__ import annotations

from ._build import build
from ._query import read_query
from ._reference import Reference

__all__ = ["Reference", "build", "read_query"]
