"""Random genes and sets of genes, perturbed beside those that are asked for: what any gene, or any set, does to the same cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Sequence

N_ALIKE = 50  # genes among which one is drawn in place of another
SHARE = 0.95  # of the cells that get as many reference genes as were asked for


def random_genes(
    tokens: np.ndarray, candidates: np.ndarray, n: int, rng: np.random.Generator, *, inserted: bool
) -> np.ndarray:
    """Genes to compare with, drawn in proportion to the number of cells that express them.

    Parameters
    ----------
    tokens
        uint16 (n_cells, L), of the cells.
    candidates
        Tokens of genes to draw from, (C,).
    n
        Number of genes in each cell, or in 95 % of the cells where a gene has to be expressed.
    rng
        Generator.
    inserted
        Whether genes are perturbed in all cells, expressed or not.

    Returns
    -------
    Tokens, ascending; fewer than asked for where there are no more.
    """
    n_cells = np.bincount(tokens.ravel(), minlength=int(candidates.max(initial=0)) + 1)[candidates]
    candidates, n_cells = candidates[n_cells > 0], n_cells[n_cells > 0]
    # the order of exponential waiting times with these rates is a draw without replacement with these weights
    drawn = candidates[np.argsort(rng.exponential(size=len(candidates)) / n_cells, kind="stable")]
    if inserted:
        return np.sort(drawn[:n])
    place = np.full(int(max(tokens.max(initial=0), candidates.max(initial=0))) + 1, len(drawn))
    place[drawn] = np.arange(len(drawn))
    # the place of the n-th gene of each cell is how many have to be drawn for it
    last = np.partition(place[tokens], min(n, tokens.shape[1]) - 1, axis=1)[:, min(n, tokens.shape[1]) - 1]
    return np.sort(drawn[: int(np.quantile(last, SHARE, method="higher")) + 1])


def random_sets(
    tokens: np.ndarray, sets: Sequence[np.ndarray], candidates: np.ndarray, n: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Sets of as many genes, each gene drawn among those most like the one it stands for in detection and rank.

    Parameters
    ----------
    tokens
        uint16 (n_cells, L), of the cells.
    sets
        Tokens of the genes of each set.
    candidates
        Tokens of genes to draw from, (C,).
    n
        Number of random sets of each set.
    rng
        Generator.

    Returns
    -------
    Tokens of ``len(sets) * n`` sets, those of the first set first. No gene of a set is in its random sets.

    Raises
    ------
    ValueError
        If there are fewer candidates than a set needs.
    """
    n_cells, position = _detection_and_rank(tokens, candidates, sets)
    plane = np.column_stack([rankdata(n_cells), rankdata(position)])
    tree = cKDTree(plane[candidates])
    result = []
    for genes in sets:
        others = np.setdiff1d(candidates, genes)
        if len(others) < len(genes):
            msg = f"Random sets of {len(genes)} genes cannot be drawn from {len(others)} other genes of the cells. Perturb without them: n_random=0."
            raise ValueError(msg)
        near = tree.query(plane[genes], k=min(N_ALIKE + len(genes), len(candidates)))[1].reshape(len(genes), -1)
        alike = [np.setdiff1d(candidates[row], genes) for row in near]
        result += [_draw(alike, others, rng) for _ in range(n)]
    return result


def _draw(alike: list[np.ndarray], others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One gene for each of a set, all different; any other gene where those alike are used up."""
    drawn: list[int] = []
    for options in alike:
        left = np.setdiff1d(options, drawn)
        drawn.append(int(rng.choice(left if len(left) else np.setdiff1d(others, drawn))))
    return np.array(drawn)


def _detection_and_rank(
    tokens: np.ndarray, candidates: np.ndarray, sets: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For each token, number of cells that have it and mean position in those, after all others where none has it."""
    size = int(max(tokens.max(initial=0), candidates.max(initial=0), *(genes.max(initial=0) for genes in sets))) + 1
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    n_cells = np.bincount(tokens.ravel(), minlength=size)
    total = np.bincount(tokens.ravel(), weights=place.ravel(), minlength=size)
    return n_cells, np.divide(total, n_cells, out=np.full(size, float(tokens.shape[1])), where=n_cells > 0)
