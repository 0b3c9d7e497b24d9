"""Command line ``scgeneformer``: each command reads files, calls the public function of its name, and writes files."""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
