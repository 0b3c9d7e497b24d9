"""Labelled cells as a reference for others: kept in a folder, asked for labels, distances and the nearest cells."""

from __future__ import annotations

from ._build import build
from ._query import read_query
from ._reference import Reference

__all__ = ["Reference", "build", "read_query"]
