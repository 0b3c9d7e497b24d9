"""Which genes of which cells are perturbed, and with what each perturbed cell is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._batching import row_lengths

if TYPE_CHECKING:
    from ._edits import Kind


@dataclass(frozen=True)
class Plan:
    """What is to be done to every cell.

    Attributes
    ----------
    kind, rank_shift
        As for `edit`.
    genes
        int64 (G,), tokens to perturb one by one, ascending; or None, if `sets` are perturbed.
    sets
        Tokens of genes that are perturbed together, distinct, in the order in which overexpression puts them; or None.
    anchor
        Token that is perturbed together with each of `genes`, or None.
    absent
        Whether `genes` that a cell does not express are perturbed in it too. Only for ``"overexpress"``.
    every
        Whether a set is perturbed only in cells that express every gene of it, as the official tool does for deletions; else in those
        that express any. Overexpression of a set works in every cell.
    official
        Compare cells at the length limit with the originals that the official tool takes: see `_make_room`.
    """

    kind: Kind
    rank_shift: int = 1
    genes: np.ndarray | None = None
    sets: tuple[np.ndarray, ...] | None = None
    anchor: int | None = None
    absent: bool = False
    every: bool = False
    official: bool = False


@dataclass(frozen=True)
class Perturbations:
    """P perturbations of cells.

    Attributes
    ----------
    cells
        int64 (P,), the cell of each, as a row of the tokens that `enumerate_perturbations` got.
    what
        int64 (P,), what is perturbed: the token of a gene, or the number of a set.
    targets
        int64 (P, K), tokens to be perturbed together, 0 for none.
    tokens
        uint16 (M, L), distinct rows that edits start from: cells, with room made for what comes in.
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


def enumerate_perturbations(tokens: np.ndarray, plan: Plan, *, n_special: int, max_length: int) -> Perturbations:
    """All perturbations of some cells, cell by cell, genes in the order of their ranks and sets in theirs.

    Parameters
    ----------
    tokens
        uint16 (n, L), right-padded with 0.
    plan
        What to do.
    n_special
        Token ids below this one are no genes.
    max_length
        Most tokens in a cell.

    Notes
    -----
    Left out are perturbations that would leave no gene, and overexpression of the gene that already is at the top (as in the official
    tool), unless it is in a set.
    """
    cells, what, targets = (_sets if plan.genes is None else _genes)(tokens, plan, n_special)
    base, rows, originals, of = _make_room(tokens, cells, what, targets, plan, n_special, max_length)
    return Perturbations(cells, what, targets, base, rows, originals, of)


def _genes(tokens: np.ndarray, plan: Plan, n_special: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, tokens and targets of single genes, or of pairs of the anchor and a gene."""
    expressed = tokens >= n_special
    wanted = expressed & np.isin(tokens, plan.genes)
    n_left = 0 if plan.kind == "delete" else -1  # how many genes must be there besides what is deleted
    if plan.anchor is not None:
        has_anchor = (tokens == plan.anchor).any(1)
        if not (plan.absent and plan.kind == "overexpress"):
            wanted &= has_anchor[:, None]
        wanted &= tokens != plan.anchor
        n_left += has_anchor if plan.kind == "delete" else 0
    wanted &= expressed.sum(1, keepdims=True) > np.reshape(n_left + 1, (-1, 1))
    if plan.kind == "overexpress" and plan.anchor is None:
        first = int(tokens[:, :1].max(initial=0) < n_special)  # <cls> comes before all genes
        wanted[:, first : first + 1] = False  # already at the top
    cells, position = np.nonzero(wanted)
    what = tokens[cells, position].astype(np.int64)
    if plan.absent:
        cells, what = _with_absent(tokens, plan, n_special, cells, what)
    targets = what[:, None]
    if plan.anchor is not None:
        targets = np.column_stack([np.full_like(what, plan.anchor), what])
    return cells, what, targets


def _with_absent(
    tokens: np.ndarray, plan: Plan, n_special: int, cells: np.ndarray, what: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add the genes that a cell does not express, behind those that it does."""
    genes = plan.genes if plan.anchor is None else plan.genes[plan.genes != plan.anchor]
    absent = ~_held(tokens, genes)[:, genes]
    more_cells, column = np.nonzero(absent & (tokens >= n_special).any(1)[:, None])
    cells, what = np.r_[cells, more_cells], np.r_[what, genes[column]]
    order = np.argsort(cells, kind="stable")
    return cells[order], what[order]


def _sets(tokens: np.ndarray, plan: Plan, n_special: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, numbers and targets of sets."""
    n_genes = (tokens >= n_special).sum(1)
    present = np.stack([np.isin(tokens, genes).sum(1) for genes in plan.sets], 1)  # (n, sets)
    sizes = np.array([len(genes) for genes in plan.sets])
    wanted = present == sizes if plan.every else present > 0
    if plan.kind == "delete":
        wanted &= n_genes[:, None] > present
    if plan.kind == "overexpress":
        wanted = np.broadcast_to(n_genes[:, None] > 0, wanted.shape)
    cells, what = np.nonzero(wanted)
    table = np.zeros((len(sizes), sizes.max()), np.int64)
    for row, genes in zip(table, plan.sets, strict=True):
        row[: len(genes)] = genes
    return cells, what, table[what]


def _make_room(
    tokens: np.ndarray,
    cells: np.ndarray,
    what: np.ndarray,
    targets: np.ndarray,
    plan: Plan,
    n_special: int,
    max_length: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that edits start from and rows that they are compared with.

    Where genes come in and the cell would grow beyond `max_length`, its lowest genes that are not perturbed are taken out of it, both before
    the edit and in the original, so that the two differ in the perturbed genes only. The official tool counts the genes that come in
    twice, so that from originals of `max_length` - 2 k < L < `max_length` tokens too many are taken (k is the number of genes that come in).
    """
    if plan.kind != "overexpress":
        return tokens, cells, tokens, cells
    n_in = _n_coming_in(tokens, cells, targets)
    lengths = row_lengths(tokens)[cells]
    too_many = np.maximum(lengths + n_in - max_length, 0)
    own = np.full(
        len(cells), -1
    )  # the room depends on what is perturbed only where that is among the lowest genes, which stays
    for p in np.flatnonzero((too_many > 0) & ((targets > 0).sum(1) > n_in)):
        genes = tokens[cells[p]][tokens[cells[p]] >= n_special]
        if np.isin(genes[-too_many[p] :], targets[p]).any():
            own[p] = what[p]
    base, rows = _shortened(tokens, cells, too_many, own, targets, n_special)
    if not plan.official:
        return base, rows, base, rows
    too_many = np.maximum(np.minimum(lengths + n_in, max_length) + n_in - max_length, 0)
    originals, of = _shortened(tokens, cells, too_many, np.full_like(own, -1), np.zeros_like(targets), n_special)
    return base, rows, originals, of


def _n_coming_in(tokens: np.ndarray, cells: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How many targets of each perturbation its cell does not hold, int64 (P,)."""
    return ((targets > 0) & ~_held(tokens, targets)[cells[:, None], targets]).sum(1)


def _held(tokens: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which tokens each cell holds, bool (n, V); V is large enough to look up those `asked` for."""
    held = np.zeros((len(tokens), int(max(asked.max(initial=0), tokens.max(initial=0))) + 1), bool)
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
            lowest = np.flatnonzero((row >= n_special) & ~np.isin(row, targets[p]))[-n:]
            kept = np.delete(row, lowest)
            row[:] = 0
            row[: len(kept)] = kept
    return out, rows.ravel()
