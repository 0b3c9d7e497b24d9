"""Labels, distances and novelty of cells by a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer import stats
from scgeneformer._cluster import in_order, map_parts
from scgeneformer._slots import check_alike, provenance, read_embedding

from ._unknown import check_unknown, novelty_slots, novelty_values, with_unknown

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from ._reference import Reference

VERB = "tl.transfer"
PART_SIZE = 8192  # cells


def query(
    reference: Reference,
    adata: AnnData | MuData,
    *,
    weights: stats.Weights,
    unknown: float | None,
    majority_by: str | None,
    key_added: str | None,
    mod: str,
    copy: bool,
) -> AnnData | MuData | None:
    """Write labels to `adata`, or to a copy; see :func:`scgeneformer.tl.transfer`."""
    if copy:
        adata = adata.copy()
    data = keys.as_adata(adata, mod)
    key = f"{reference.labels}_transferred" if key_added is None else key_added
    written = [f"obs/{key}", f"obs/{keys.score_key(key)}", f"obsm/{keys.answer_key(key)}"]
    written += novelty_slots(key, nearest=unknown is not None or majority_by is not None)
    written += [] if majority_by is None else [f"obs/{keys.majority_key(key)}"]
    slots.check_free(data, VERB, key, [*written, f"uns/{key}"])
    categories, codes = reference.categories, reference.codes
    check_unknown(unknown, categories)
    if unknown is not None:
        _check_size(int(np.bincount(codes[reference.standard]).max()), unknown)
    clusters = None if majority_by is None else keys.obs_column(adata, majority_by, mod, slot="adata.obs")
    points = read_query(reference, data)
    placed = np.isfinite(points).all(axis=1)
    if not placed.all():
        logg.warning(f"{np.sum(~placed)} cells have no place in .obsm[{reference.use_rep!r}] (NaN), and get no label.")

    start = logg.info(f"labelling {data.n_obs} cells by {len(reference.points)} of the reference")
    votes = np.full((data.n_obs, len(categories)), np.nan)
    told = np.full(data.n_obs, -1)
    distance, novelty = np.full((2, data.n_obs), np.nan)
    if placed.any():
        neighbors = _nearest(reference, points[placed])
        votes[placed] = neighbors.votes(codes, len(categories), weights=weights)
        told[placed] = votes[placed].argmax(axis=1)
        left_out = reference.left_out
        far, cell_far = neighbors.mean_distances(left_out.distances.shape[1]), left_out.mean_distances()
        cell_told, _ = left_out.winners(codes, len(categories), weights=weights)  # like with like
        typical = stats.median_distances(cell_far, cell_told, len(categories))
        distance[placed] = stats.relative_distances(far, told[placed], typical)
        novelty[placed] = stats.conformal_p(far, told[placed], cell_far, cell_told)
        if unknown is not None:
            _warn_of_small(categories, np.bincount(cell_told, minlength=len(categories)), unknown)

    nearest = pd.Categorical.from_codes(told, dtype=reference.cells[reference.labels].dtype)
    labels = with_unknown(nearest, novelty, unknown)
    majority = []
    if clusters is not None:
        labels, share = _majority(labels, votes, pd.factorize(clusters)[0])
        majority = [share]
    values = (
        labels,
        votes.max(axis=1),
        pd.DataFrame(votes, index=data.obs_names, columns=keys.slot_names(categories, "Labels of the reference")),
        *novelty_values(distance, novelty, nearest if unknown is not None or majority else None),
        *majority,
    )
    slots.write(
        data,
        VERB,
        key,
        dict(zip(written, values, strict=True)),
        labels=reference.labels,
        use_rep=reference.use_rep,
        n_neighbors=reference.n_neighbors,
        metric=reference.metric,
        weights=weights,
        exact=reference.exact,
        donor=reference.donor,
        unknown=unknown,
        majority_by=majority_by,
        n_reference=len(reference.points),
        n_held_out=reference.n_held_out,
        embedding=reference.embedding or None,
    )
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, labels (adata.obs)")
    return adata if copy else None


def read_query(reference: Reference, data: AnnData) -> np.ndarray:
    """Representation of cells, float32 (n_obs, d), if it can be compared with that of the reference.

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If it was made in another way, or is NaN in all cells.
    """
    use_rep, width = reference.use_rep, reference.points.shape[1]
    points = read_embedding(data, use_rep, name="adata", like=reference.embedding).astype(np.float32, copy=False)
    if points.shape[1:] != (width,):
        msg = (
            f".obsm[{use_rep!r}] has {points.shape[-1]} columns in adata, {width} in the reference. Embed both in the "
            "same way."
        )
        raise ValueError(msg)
    check_alike(provenance(data, use_rep), reference.embedding, use_rep, "the reference")
    if len(points) and not np.isfinite(points).all(axis=1).any():
        msg = (
            f"No cell of adata has a place in .obsm[{use_rep!r}]: all are NaN. Such cells have no gene of the "
            "vocabulary: compare adata.var_names with it, set `gene_ids` of `sg.pp.tokenize`, and embed again."
        )
        raise ValueError(msg)
    return points


def _nearest(reference: Reference, points: np.ndarray) -> stats.Neighbors:
    """Nearest cells of the reference, part by part."""
    starts = range(0, len(points), PART_SIZE)
    parts = ((number, (points[start : start + PART_SIZE],)) for number, start in enumerate(starts))
    found = list(in_order(map_parts(_search, parts, shared=(reference.index, reference.n_neighbors))))
    return stats.Neighbors(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _search(index: stats.NeighborIndex, k: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    neighbors = index.nearest(points, k)
    return neighbors.indices, neighbors.distances


def _majority(labels: pd.Categorical, votes: np.ndarray, clusters: np.ndarray) -> tuple[pd.Categorical, np.ndarray]:
    """The label with the largest sum of shares in each cluster, for all its cells, and its mean share in the cluster, (n,) each.

    An unknown cell gives its whole vote to "unknown". Cells without a place have no vote and no label; those without a cluster keep theirs.
    """
    codes = labels.codes.astype(np.int64)
    n_labels, share = votes.shape[1], np.full(len(codes), np.nan)
    votes = np.pad(votes, ((0, 0), (0, len(labels.categories) - n_labels)))
    is_unknown = codes >= n_labels
    votes[is_unknown] = np.eye(votes.shape[1])[-1]
    for cluster in range(clusters.max(initial=-1) + 1):
        inside = (clusters == cluster) & (codes >= 0)
        if inside.any():
            mean = votes[inside].mean(axis=0)
            codes[inside], share[inside] = mean.argmax(), mean.max()
    return pd.Categorical.from_codes(codes, dtype=labels.dtype), share


def _check_size(largest: int, unknown: float) -> None:
    """Raise if no label has enough cells for a p below `unknown`."""
    least = stats.smallest_sample(unknown)
    if largest < least:
        msg = (
            f"unknown={unknown:g} needs at least {least} reference cells of a label, since p is never below 1 / (n + "
            f"1), but no label has more than {largest}. Add reference cells, or choose a larger `unknown`."
        )
        raise ValueError(msg)


def _warn_of_small(categories: pd.Index, n_cells: np.ndarray, unknown: float) -> None:
    """Name the labels whose cells are never unknown."""
    least = stats.smallest_sample(unknown)
    small = categories[n_cells < least]
    if len(small):
        names = ", ".join(map(repr, map(str, small)))
        logg.warning(
            f"Cells with the labels {names} are never unknown: fewer than {least} reference cells would get them (n in 1 / (n + 1))."
        )
