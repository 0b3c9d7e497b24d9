"""Trajectories as rows of tokens: cells with the steps between them, then a question, then its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._tokens import TimeTokens

_PROTECTED = 3  # <bos> and two genes of the first cell, which are never cut
_WITHOUT_GENES = 2  # tokens of a cell that has none


def between(steps: Sequence[int] | np.ndarray) -> list[int]:
    """Steps from each cell to the next."""
    return np.diff(np.asarray(steps, dtype=np.int64)).tolist()


def context(cells: Sequence[np.ndarray], steps: Sequence[int] | np.ndarray, tokens: TimeTokens) -> list[np.ndarray]:
    """Cells with the numbers of steps between them."""
    parts = [cells[0]]
    for cell, number in zip(cells[1:], between(steps), strict=True):
        parts += [np.array([tokens.of(number)]), cell]
    return parts


def time_question(cell: np.ndarray, tokens: TimeTokens) -> list[np.ndarray]:
    """How many steps after the last cell of the context this one is."""
    return [np.array([tokens.boq]), cell, np.array([tokens.eoq])]


def cell_question(n_steps: int, tokens: TimeTokens) -> list[np.ndarray]:
    """What the cell is like after this number of steps."""
    return [np.array([tokens.boq, tokens.of(n_steps), tokens.eoq])]


def joined(parts: Sequence[np.ndarray], max_length: int) -> np.ndarray:
    """One row of tokens; what exceeds the maximum length is cut from the end of its first cell, before the token that ends the cell.

    Raises
    ------
    ValueError
        If the first cell is too short to be cut: two of its genes stay.
    """
    excess = sum(map(len, parts)) - max_length
    if excess > 0:
        first = parts[0]
        kept = len(first) - 1 - excess
        if kept < _PROTECTED:
            msg = (
                f"A trajectory has {sum(map(len, parts))} tokens, and its first cell is too short to be cut to max_length={max_length}. "
                "Make a model with a larger max_length=, or run `sg.pp.tokenize(adata, model, max_length=...)` for shorter cells."
            )
            raise ValueError(msg)
        parts = [np.concatenate([first[:kept], first[-1:]]), *parts[1:]]
    return np.concatenate(parts)


def padded(rows: Sequence[np.ndarray], dtype: type[np.integer] = np.int64) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens as a matrix, padded with 0 on the right, and their lengths."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    matrix = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=dtype)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix, lengths


def longest_trajectory(longest_cell: int, n_cells: int) -> int:
    """Tokens of `n_cells` cells of the most tokens, with the steps between them and a question."""
    return n_cells * longest_cell + (n_cells - 2) + 3


def has_genes(lengths: np.ndarray) -> np.ndarray:
    """Which cells have tokens of genes, by their number of tokens."""
    return lengths > _WITHOUT_GENES
