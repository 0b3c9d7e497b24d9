"""The installed version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("scgeneformer")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"
