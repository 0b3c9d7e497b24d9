"""Hashes of data, by which a run is recognised."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer.tokens import token_of, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROWS = 4096  # at a time


def digest(*arrays: np.ndarray) -> str:
    """Sha256 of arrays of numbers, with their shapes and types."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def digest_of_cells(tokens: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> str:
    """Sha256 of some cells: their rows, lengths, tokens and values in the order of `rows`, however wide their padding is."""
    sha256 = hashlib.sha256(digest(rows.astype(np.int64), lengths[rows].astype(np.int64)).encode())
    for some in np.split(rows, range(_ROWS, len(rows), _ROWS)):
        width = int(lengths[some].max(initial=0))
        cells = np.asarray(tokens[some, :width])[np.arange(width) < lengths[some, None]]
        sha256.update(token_of(cells).astype(np.uint16).data)
        sha256.update(b"" if (values := value_of(cells)) is None else values.tobytes())
    return sha256.hexdigest()


def digest_of_all(digests: Iterable[str]) -> str:
    """Sha256 of several, in their order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()
