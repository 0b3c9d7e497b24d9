"""Genes with values: the cells of a model that reads how much of a gene there is.

Tokens and values of a cell belong together through all that is done to rows: selection, sorting, cutting, perturbation. They are one array of
pairs, so that no step can move one without the other, and a comparison of pairs with a token is an error rather than a
wrong answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import dask.array as da

VALUED = np.dtype([("token", np.uint16), ("value", np.float32)])


def with_values(tokens: Any, values: Any) -> np.ndarray | da.Array:
    """Pairs of tokens (n, L) and values (n, L), NumPy or dask (if one of them is); :data:`VALUED` (n, L)."""
    if isinstance(tokens, np.ndarray) and isinstance(values, np.ndarray):
        return _paired(tokens, values)
    import dask.array as da

    tokens, values = (da.asarray(part) for part in (tokens, values))
    return da.map_blocks(_paired, tokens, values.rechunk(tokens.chunks), dtype=VALUED, meta=np.empty((0, 0), VALUED))


def token_of(cells: np.ndarray) -> np.ndarray:
    """The tokens of cells with values or without, uint16 (n, L)."""
    return cells["token"] if cells.dtype == VALUED else cells


def value_of(cells: np.ndarray) -> np.ndarray | None:
    """The values of cells, float32 (n, L); None if they have none."""
    return cells["value"] if cells.dtype == VALUED else None


def _paired(tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
    cells = np.empty(tokens.shape, VALUED)
    cells["token"], cells["value"] = tokens, values
    return cells
