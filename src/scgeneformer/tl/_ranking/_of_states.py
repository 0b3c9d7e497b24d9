"""Shifts against those that the same cells would have shown with their states' labels permuted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scgeneformer import _keys, stats

from ._shifts import read_shifts

if TYPE_CHECKING:
    from ._rank_genes import Ranking


def permute_labels(ranking: Ranking) -> stats.PermutedLabels:
    """Shifts towards the target, and less those towards the source, with centroids of the cells that were not perturbed.

    Raises
    ------
    ValueError
        If fewer than two cells of a state are left.
    """
    data, run, labels = ranking.data, ranking.run, ranking.labels
    embedded = np.asarray(data.obsm[_keys.state_embedding_key(ranking.key)], dtype=np.float64)
    states = str(run["target"]), str(run["source"])
    left = np.isin(labels, states) & ~np.isnan(embedded).any(axis=1)
    left[read_shifts(data, ranking.key, goal=True).cells] = False
    if ranking.donors is not None:
        left &= ranking.donors.codes >= 0
    is_target = labels[left] == states[0]
    numbers = int(is_target.sum()), int((~is_target).sum())
    if min(numbers) < 2:
        msg = (
            f"Of the cells that were not perturbed, {numbers[0]} are {states[0]!r} and {numbers[1]} {states[1]!r}: two "
            "of each are needed, since their labels are permuted. Perturb fewer cells (`max_cells`)."
        )
        raise ValueError(msg)
    return stats.permuted_labels(
        _directions(ranking),
        embedded[left],
        is_target,
        blocks=None if ranking.donors is None else ranking.donors.codes[left].astype(np.int64),
        summary=np.mean if run["centroids"] == "mean" else np.median,
        n_permutations=ranking.n_permutations,
        rng=ranking.rng,
    )


def _directions(ranking: Ranking) -> np.ndarray:
    """Mean movement by each gene, float64 (n_vars, H); centred as the shifts are: less the mean movement of each of its cells.

    Raises
    ------
    ValueError
        If a cell was perturbed without any of the random genes that its shifts are centred by.
    """
    data, key = ranking.data, ranking.key
    directions = np.asarray(data.varm[_keys.direction_key(key, ranking.group)], dtype=np.float64)
    if not ranking.centered:
        return directions
    shifts, reference = ranking.shifts(data, key, ranking.states[0])
    common = np.asarray(data.obsm[_keys.movement_key(key)], dtype=np.float64)
    if np.isnan(common[shifts.cells]).any():
        msg = f"Cells were perturbed without a random gene to centre by in .layers[{_keys.reference_key(key)!r}]. Rank with centered=False."
        raise ValueError(msg)
    centred, _ = ranking.centre(data, key, shifts, reference)
    n, n_centred = (np.bincount(some.genes, minlength=data.n_vars)[:, None] for some in (shifts, centred))
    in_cell = sparse.csr_array((np.ones(len(shifts.genes)), (shifts.genes, shifts.cells)), shape=data.shape[::-1])
    # the only gene that was tested in a cell is the cell's mean: nothing is left of it
    left = n * directions - in_cell @ np.nan_to_num(common)
    return np.divide(left, n_centred, out=np.full_like(left, np.nan), where=n_centred > 0)
