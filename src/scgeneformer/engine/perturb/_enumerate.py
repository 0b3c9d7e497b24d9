"""Which genes of which cells are perturbed, and with what each perturbed cell is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer.engine._batching import row_lengths
from scgeneformer.tokens import token_of

if TYPE_CHECKING:
    from ._edits import Kind, Positions


@dataclass(frozen=True)
class Perturbation:
    """What is done to every cell.

    Attributes
    ----------
    kind, quartiles, ranks
        As for `edit`.
    positions
        Where tokens stand after one that was deleted: each one position higher (``"renumbered"``), or where they stood
        before (``"kept"``), so that the cell loses the gene and nothing else. ``"kept"`` is for ``"delete"`` only.
    genes
        int64 (G,), tokens to perturb one by one, ascending; or None, if `sets` are perturbed.
    sets
        Tokens of genes that are perturbed together, distinct, in the order in which overexpression puts them; empty if `genes` are.
    anchor
        Token that is perturbed together with each of `genes`, or None.
    absent
        Whether `genes` that a cell does not express are perturbed in it too. Only for ``"overexpress"``.
    every
        Whether a set is perturbed only in cells that express every gene of it, as the official tool does for deletions; else in those
        that express any. Overexpression of a set works in every cell.
    factor
        By what ``"scale"`` multiplies counts.
    official
        Compare cells at the length limit with the originals that the official tool takes: see `_make_room`.
    """

    kind: Kind
    quartiles: int = 1
    positions: Positions = "renumbered"
    genes: np.ndarray | None = None
    sets: tuple[np.ndarray, ...] = ()
    anchor: int | None = None
    absent: bool = False
    every: bool = False
    official: bool = False
    ranks: int | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Edits:
    """P edits of cells: one cell and what is perturbed in it each.

    Attributes
    ----------
    cells
        int64 (P,), the cell of each, as a row of the tokens given to `enumerate_edits`.
    what
        int64 (P,), what is perturbed: the token of a gene, or the number of a set.
    targets
        int64 (P, K), tokens to be perturbed together, 0 for none.
    tokens
        uint16 (M, L), distinct rows that edits start from: cells, with room made for genes that are inserted.
    rows
        int64 (P,), the row of `tokens` of each.
    originals, of
        uint16 (N, L) and int64 (P,): distinct rows that edited cells are compared with, and the one of each. The same as `tokens` and
        `rows`, except where the official tool's rule for the length limit is asked for.
    """

    cells: np.ndarray
    what: np.ndarray
    targets: np.ndarray
    tokens: np.ndarray
    rows: np.ndarray
    originals: np.ndarray
    of: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)


def enumerate_edits(tokens: np.ndarray, perturbation: Perturbation, *, n_special: int, max_length: int) -> Edits:
    """All edits of some cells, cell by cell, genes in the order of their ranks and sets in theirs.

    Parameters
    ----------
    tokens
        uint16 (n, L), right-padded with 0.
    perturbation
        What to do to every cell.
    n_special
        Token ids below this one are special.
    max_length
        Maximum number of tokens in a cell.
    """
    cells, what = select(tokens, perturbation, n_special)
    targets = _targets(perturbation, what)
    base, rows, originals, of = _make_room(tokens, cells, what, targets, perturbation, n_special, max_length)
    return Edits(cells, what, targets, base, rows, originals, of)


def select(tokens: np.ndarray, perturbation: Perturbation, n_special: int) -> tuple[np.ndarray, np.ndarray]:
    """What is perturbed in which cell, for exact runs and estimates alike.

    Returns
    -------
    Cells and genes (tokens) or sets (numbers), int64 (P,) each, cell by cell.

    Notes
    -----
    Left out are perturbations that would leave no gene, and overexpression of the gene that already is at the top (as in the official
    tool), unless it is in a set.
    """
    tokens = token_of(tokens)
    if perturbation.genes is None:
        return _select_sets(tokens, perturbation, n_special)
    return _select_genes(tokens, perturbation, perturbation.genes, n_special)


def _select_genes(
    tokens: np.ndarray, perturbation: Perturbation, genes: np.ndarray, n_special: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells and tokens of single genes, each alone or together with the anchor."""
    expressed = tokens >= n_special
    wanted = expressed & np.isin(tokens, genes)
    n_left = 0 if perturbation.kind == "delete" else -1  # how many genes must be there besides what is deleted
    if perturbation.anchor is not None:
        has_anchor = (tokens == perturbation.anchor).any(1)
        if not (perturbation.absent and perturbation.kind == "overexpress"):
            wanted &= has_anchor[:, None]
        wanted &= tokens != perturbation.anchor
        n_left += has_anchor if perturbation.kind == "delete" else 0
    wanted &= expressed.sum(1, keepdims=True) > np.reshape(n_left + 1, (-1, 1))
    if perturbation.kind == "overexpress" and perturbation.anchor is None:
        first = int(tokens[:, :1].max(initial=0) < n_special)  # <cls> comes before all genes
        wanted[:, first : first + 1] = False  # already at the top
    cells, position = np.nonzero(wanted)
    what = tokens[cells, position].astype(np.int64)
    if not perturbation.absent:
        return cells, what
    others = genes if perturbation.anchor is None else genes[genes != perturbation.anchor]
    return _with_absent(tokens, others, n_special, cells, what)


def _with_absent(
    tokens: np.ndarray, genes: np.ndarray, n_special: int, cells: np.ndarray, what: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add those of `genes` that a cell does not express, after those that it does."""
    absent = ~_held(tokens, genes)[:, genes]
    more_cells, column = np.nonzero(absent & np.any(tokens >= n_special, axis=1, keepdims=True))
    cells, what = np.r_[cells, more_cells], np.r_[what, genes[column]]
    order = np.argsort(cells, kind="stable")
    return cells[order], what[order]


def _select_sets(tokens: np.ndarray, perturbation: Perturbation, n_special: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells and numbers of sets."""
    n_genes = (tokens >= n_special).sum(1)
    present = np.stack([np.isin(tokens, genes).sum(1) for genes in perturbation.sets], 1)  # (n, sets)
    sizes = np.array([len(genes) for genes in perturbation.sets])
    wanted = present == sizes if perturbation.every else present > 0
    if perturbation.kind == "delete":
        wanted &= n_genes[:, None] > present
    if perturbation.kind == "overexpress":
        wanted = np.broadcast_to(n_genes[:, None] > 0, wanted.shape)
    cells, what = np.nonzero(wanted)
    return cells, what


def _targets(perturbation: Perturbation, what: np.ndarray) -> np.ndarray:
    """Tokens that are perturbed together, int64 (P, K), 0 for none."""
    if perturbation.genes is not None:
        return (
            what[:, None]
            if perturbation.anchor is None
            else np.column_stack([np.full_like(what, perturbation.anchor), what])
        )
    table = np.zeros((len(perturbation.sets), max(map(len, perturbation.sets))), np.int64)
    for row, genes in zip(table, perturbation.sets, strict=True):
        row[: len(genes)] = genes
    return table[what]


def _make_room(
    tokens: np.ndarray,
    cells: np.ndarray,
    what: np.ndarray,
    targets: np.ndarray,
    perturbation: Perturbation,
    n_special: int,
    max_length: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that edits start from and rows that they are compared with.

    Where genes are inserted and the cell would grow beyond `max_length`, its lowest genes that are not perturbed are taken out of it, both before
    the edit and in the original, so that the two differ in the perturbed genes only. The official tool counts inserted genes
    twice, so that from originals of `max_length` - 2 k < L < `max_length` tokens too many are taken (k is their number).
    """
    if perturbation.kind != "overexpress":
        return tokens, cells, tokens, cells
    ids = token_of(tokens)
    n_inserted = _n_inserted(ids, cells, targets)
    lengths = row_lengths(tokens)[cells]
    too_many = np.maximum(lengths + n_inserted - max_length, 0)
    # the room depends on what is perturbed only where that is among the lowest genes, which stays
    own = np.full(len(cells), -1)
    for p in np.flatnonzero((too_many > 0) & ((targets > 0).sum(1) > n_inserted)):
        genes = ids[cells[p]][ids[cells[p]] >= n_special]
        if np.isin(genes[-too_many[p] :], targets[p]).any():
            own[p] = what[p]
    base, rows = _shortened(tokens, cells, too_many, own, targets, n_special)
    if not perturbation.official:
        return base, rows, base, rows
    too_many = np.maximum(np.minimum(lengths + n_inserted, max_length) + n_inserted - max_length, 0)
    originals, of = _shortened(tokens, cells, too_many, np.full_like(own, -1), np.zeros_like(targets), n_special)
    return base, rows, originals, of


def _n_inserted(tokens: np.ndarray, cells: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How many targets of each perturbation its cell does not hold, int64 (P,)."""
    return ((targets > 0) & ~_held(tokens, targets)[cells[:, None], targets]).sum(1)


def _held(tokens: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which tokens each cell holds, bool (n, V); V is large enough to look up `others`."""
    held = np.zeros((len(tokens), int(max(others.max(initial=0), tokens.max(initial=0))) + 1), bool)
    np.put_along_axis(held, tokens.astype(np.int64), values=True, axis=1)
    return held


def _shortened(
    tokens: np.ndarray,
    cells: np.ndarray,
    too_many: np.ndarray,
    own: np.ndarray,
    targets: np.ndarray,
    n_special: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct cells without their lowest `too_many` genes, targets apart; and which of them each perturbation takes."""
    keys, first, rows = np.unique(
        np.column_stack([cells, too_many, own]), axis=0, return_index=True, return_inverse=True
    )
    out = tokens[keys[:, 0]].copy()
    for row, (_, n, _), p in zip(out, keys, first, strict=True):
        if n:
            lowest = np.flatnonzero((token_of(row) >= n_special) & ~np.isin(token_of(row), targets[p]))[-n:]
            kept = np.delete(row, lowest)
            row[:] = 0
            row[: len(kept)] = kept
    return out, rows.ravel()
