"""Whether shifts depend on the states: movements of the cells, and the cells that the centroids of the states are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer import _keys, stats

from ._shifts import CURE, Shifts, read_shifts

if TYPE_CHECKING:
    from anndata import AnnData

    from ._rank_genes import Ranking

FLOAT32 = 5e-6  # how far sums of single-precision movements may be from a cosine


def compare_states(ranking: Ranking) -> stats.Summary:
    """Shifts towards the target less those towards the source, with the standard errors that come from the cells of the states.

    Raises
    ------
    ValueError
        If fewer than two cells of a state are left.
    """
    cells, is_target, donors = _cells_of_states(ranking, np.ones(ranking.data.n_obs, bool))
    if (fewest := min(is_target.sum(), (~is_target).sum())) < 2:
        slot = f".obsm[{_keys.state_embedding_key(ranking.key)!r}]"
        msg = (
            f"test='states' compares the cells of both states, but {fewest} of one of them {'is' if fewest == 1 else 'are'} left in {slot}. "
            "Rank before cells are removed, or pass test='rank_sum'."
        )
        raise ValueError(msg)
    return stats.contrast(_directions(ranking), cells, is_target, donors=donors)


def contrasts(ranking: Ranking) -> Shifts:
    """Shift of each gene in each cell towards the target less that towards the source, centred if the ranking is."""
    data, key, source = ranking.data, ranking.key, str(ranking.run["source"])
    shifts, reference = ranking.shifts(data, key, ranking.states[0])
    of_source, reference_of_source = ranking.shifts(data, key, source)
    shifts = _difference(shifts, of_source, key)
    if not ranking.centered:
        return shifts
    if reference is not None and reference_of_source is not None:
        reference = _difference(reference, reference_of_source, _keys.reference_key(key))
    return ranking.centre(data, key, shifts, reference)[0]


def _difference(shifts: Shifts, others: Shifts, key: str) -> Shifts:
    if not (np.array_equal(shifts.genes, others.genes) and np.array_equal(shifts.cells, others.cells)):
        msg = f".layers[{key!r}] has shifts of other genes and cells than the layer of the source. Run `{CURE}` again."
        raise ValueError(msg)
    return replace(shifts, effects=shifts.effects - others.effects)


def permute_labels(ranking: Ranking) -> stats.PermutedLabels:
    """Shifts towards the target, and less those towards the source, with centroids of the cells that were not perturbed.

    Raises
    ------
    ValueError
        If fewer than two cells of a state are left.
    """
    left = np.ones(ranking.data.n_obs, bool)
    left[read_shifts(ranking.data, ranking.key, goal=True).cells] = False
    cells, is_target, donors = _cells_of_states(ranking, left)
    if (fewest := min(is_target.sum(), (~is_target).sum())) < 2:
        msg = (
            f"Of the cells that were not perturbed, {fewest} are left of one of the states, but the labels of at least two are permuted. "
            "Perturb fewer cells (`max_cells`), or use test='states', which needs none to be left."
        )
        raise ValueError(msg)
    return stats.permuted_labels(
        _directions(ranking),
        cells,
        is_target,
        blocks=donors,
        summary=np.mean if ranking.run["centroids"] == "mean" else np.median,
        n_permutations=ranking.n_permutations,
        rng=ranking.rng,
    )


def _cells_of_states(ranking: Ranking, among: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Embeddings of the cells of both states, float64 (n, H), whether each is of the target, and the code of its donor if there are donors."""
    run, labels, donors = ranking.run, ranking.labels, ranking.donors
    embedded = np.asarray(ranking.data.obsm[_keys.state_embedding_key(ranking.key)], dtype=np.float64)
    target, source = str(run["target"]), str(run["source"])
    some = among & np.isin(labels, (target, source)) & ~np.isnan(embedded).any(axis=1)
    if donors is not None:
        some &= donors.codes >= 0
    return embedded[some], labels[some] == target, None if donors is None else donors.codes[some].astype(np.int64)


def _directions(ranking: Ranking) -> np.ndarray:
    """Mean movement by each gene, float64 (n_vars, H); centred as the shifts are: less the mean movement of each of its cells.

    Raises
    ------
    ValueError
        If a cell was perturbed without any of the random genes that its shifts are centred by.
    """
    data, key, group = ranking.data, ranking.key, ranking.group
    directions = np.asarray(data.varm[_keys.direction_key(key, group)], dtype=np.float64)
    if not ranking.centered:
        return _whole(data, key, group, directions)
    shifts, reference = ranking.shifts(data, key, ranking.states[0])
    common = np.asarray(data.obsm[_keys.movement_key(key)], dtype=np.float64)
    if np.isnan(common[np.unique(shifts.cells), 0]).any():
        msg = f"Cells were perturbed without a random gene to centre by in .layers[{_keys.reference_key(key)!r}]. Rank with centered=False."
        raise ValueError(msg)
    centred, _ = ranking.centre(data, key, shifts, reference)
    n, n_centred = (np.bincount(some.genes, minlength=data.n_vars)[:, None] for some in (shifts, centred))
    in_cell = sparse.csr_array((np.ones(len(shifts.genes)), (shifts.genes, shifts.cells)), shape=data.shape[::-1])
    # the only gene that was tested in a cell is the cell's mean: nothing is left of it
    left = n * directions - in_cell @ np.nan_to_num(common)
    return _whole(data, key, group, np.divide(left, n_centred, out=np.full_like(left, np.nan), where=n_centred > 0))


def is_current(data: AnnData, key: str, run: dict[str, Any], group: str | None) -> bool:
    """Whether the mean movements of genes give the mean shifts towards the target that the cells of `data`, those of the group, have."""
    directions = _whole(data, key, group, np.asarray(data.varm[_keys.direction_key(key, group)], dtype=np.float64))
    shifts = read_shifts(data, key, goal=True)
    means = stats.group_means(shifts.effects, shifts.genes, data.n_vars)[1]
    centroids = _of_group(data.uns[key]["centroids"], group)
    target = np.asarray(centroids[_keys.slot_name(str(run["target"]))], dtype=np.float64)
    measured = ~np.isnan(means)
    differences = np.abs(directions[measured] @ target / np.linalg.norm(target) - means[measured])
    return bool(differences.max(initial=0) <= FLOAT32 + 1e-3 * np.abs(means[measured]).max(initial=0))


def _whole(data: AnnData, key: str, group: str | None, movements: np.ndarray) -> np.ndarray:
    """Movements as vectors of the embedding, float64 (n, H): those that a screen stored along some axes, as the shortest with these products."""
    if "axes" not in data.uns[key]:
        return movements
    axes = np.asarray(_of_group(data.uns[key]["axes"], group), dtype=np.float64)
    return movements @ np.linalg.pinv(axes).T  # (n, A) @ (A, H)


def _of_group(values: Any, group: str | None) -> Any:
    return values if group is None else values[_keys.slot_name(group)]
