from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scgeneformer import _keys, _slots, stats
from scgeneformer._arguments import checked

from ._unknown import check_unknown, novelty_slots, novelty_values, with_unknown

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.random import Generator


@checked
def transfer(
    adata: AnnData | MuData,
    reference: AnnData | MuData,
    labels: str,
    *,
    use_rep: str = _keys.embedding_key(_keys.GENEFORMER),
    n_neighbors: int = 15,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    exact: bool | None = None,
    donor: str | None = None,
    unknown: float | None = None,
    key_added: str | None = None,
    rng: int | Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells by their nearest neighbours in an annotated reference.

    Each neighbour votes for its label with the inverse of its distance; a cell that coincides with reference cells listens
    to those alone (as :class:`sklearn.neighbors.KNeighborsClassifier` with ``weights="distance"``).

    The share of the votes tells how clear the choice among the labels of the reference is, not whether the cell is of any of them: a cell far
    from everything often has a unanimous label. For that, each cell's distance to its neighbours is compared with that of the reference cells
    to theirs: those cells that would get the same label if they were left out of the reference one by one, and labelled by the others.

    Parameters
    ----------
    adata
        Cells to label, with a representation in ``.obsm[use_rep]``. Cells where it has NaN, as embeddings of cells without
        a known gene have, get no label.
    reference
        Labelled cells, with the same representation by the same model. It is not changed.
    labels
        Column of ``reference.obs`` with labels; for MuData, also of the MuData itself or of another modality (``"prot:gate"``).
        Cells without a label or with NaN in their representation are left out.
    use_rep
        Slot of the representation in ``.obsm`` of both.
    n_neighbors
        Number of neighbours, or all labelled cells of the reference where it has fewer.
    metric
        Distance between representations.
    exact
        Compare with every reference cell, or search an index that misses a few neighbours. By default exact up to 50,000
        reference cells.
    donor
        Column of ``reference.obs``, or wherever `labels` may be, with the donor of each cell. Cells of the reference are then left out with
        their whole donor, as a query from another donor has none of its own there; otherwise differences between donors look like novelty.
    unknown
        Cells with a novelty below this get the label ``"unknown"``, at most this share of the cells whose type is in the reference,
        if they are like its cells in all else. Across studies and technologies this is not guaranteed; it is the more nearly true the more the
        donors of the reference differ (`donor`).
    key_added
        Column of ``.obs`` for the labels; by default `labels` with ``_transferred``, so that labels of `adata` stay.
    rng
        Seed or generator for the index.
    mod
        Modality of a MuData, of `adata` and `reference`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.obs[key_added]``
        Label with most votes, categorical with the categories of the reference and, if `unknown`, ``"unknown"``.
    ``.obs[key_added + "_score"]``
        Its share of the votes, float64.
    ``.obs[key_added + "_distance"]``
        Mean distance to the neighbours, divided by its median among the reference cells that would get the same label, float64: 1 is typical.
    ``.obs[key_added + "_novelty"]``
        Conformal p of the cell: ``(1 + m) / (n + 1)``, where n reference cells would get the same label and m of these are at least as far
        from their neighbours, float64. Small where the cell is unlike all of the reference.
    ``.obs[key_added + "_nearest"]``
        Label with most votes of all cells, the unknown ones too. Only with `unknown`.
    ``.obsm[key_added + "_proba"]``
        DataFrame of the shares of all labels, float64 of shape (n_obs, n_labels). Columns are the labels, ``/`` replaced
        by ``|``, since files have no names with slashes.
    ``.uns[key_added]["params"]``
        Parameters.

    Raises
    ------
    KeyError
        If the representation or a column is missing.
    ValueError
        If the representations differ in width or in the model that made them; if no cell is labelled; if labelled cells have no donor, or all
        the same; if every label has too few cells for `unknown`; or if a slot holds something else than earlier results.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.embed(adata)
    >>> query, reference = adata[::2].copy(), adata[1::2].copy()
    >>> sg.tl.transfer(query, reference, "disease", key_added="transferred")
    >>> query.obs["transferred"].cat.categories.tolist()
    ['dcm', 'nf']
    """
    from scanpy import logging as logg

    if copy:
        adata = adata.copy()
    data, annotated = _keys.as_adata(adata, mod), _keys.as_adata(reference, mod)
    key = f"{labels}_transferred" if key_added is None else key_added
    slots = [f"obs/{key}", f"obs/{_keys.score_key(key)}", f"obsm/{_keys.answer_key(key)}"]
    slots += novelty_slots(key, unknown=unknown)
    _slots.check_free(data, "tl.transfer", key, [*slots, f"uns/{key}"])
    classes = pd.Categorical(_keys.obs_column(reference, labels, mod, slot="reference.obs")).remove_unused_categories()
    check_unknown(unknown, classes.categories)
    columns = _keys.slot_names(classes.categories, f"Labels in reference.obs[{labels!r}]")
    query, points = _read_rep(data, use_rep, "adata"), _read_rep(annotated, use_rep, "reference")
    placed, labelled = np.isfinite(query).all(axis=1), np.isfinite(points).all(axis=1) & (classes.codes >= 0)
    _check_alike(data, annotated, use_rep, query.shape[1], points.shape[1])

    if not labelled.any():
        msg = f"No cell of the reference has both a label in .obs[{labels!r}] and a place in .obsm[{use_rep!r}]."
        raise ValueError(msg)
    if not placed.all():
        logg.warning(f"{np.sum(~placed)} cells have no place in .obsm[{use_rep!r}] (NaN), and get no label.")
    points, point_codes = points[labelled], classes.codes[labelled].astype(np.int64)
    donors = None if donor is None else _donors_of(reference, donor, mod, labelled)
    largest = 1 if donors is None else int(np.bincount(donors).max())  # that is left out at once
    if largest == len(points):
        unit = "cell" if donors is None else f"donor (.obs[{donor!r}])"
        msg = f"All labelled cells of the reference are of one {unit}: without it none is left to measure distances from. Add others."
        raise ValueError(msg)
    if unknown is not None:
        _check_size(int(np.bincount(point_codes).max()), unknown)
    exact = len(points) <= stats.LARGEST_EXACT if exact is None else exact
    k = min(n_neighbors, len(points))
    k_left = min(n_neighbors, len(points) - largest)
    start = logg.info(f"labelling {data.n_obs} cells by {len(points)} of the reference")
    votes = np.full((data.n_obs, len(classes.categories)), np.nan)
    codes = np.full(data.n_obs, -1)
    distance, novelty = np.full((2, data.n_obs), np.nan)
    if placed.any():
        index = stats.NeighborIndex(points, k, metric=metric, exact=exact, rng=np.random.default_rng(rng))
        neighbors = index.nearest(query[placed], k)
        votes[placed] = neighbors.votes(point_codes, len(classes.categories))
        codes[placed] = votes[placed].argmax(axis=1)
        far, left_out = neighbors.mean_distances(k_left), index.left_out(k_left, donors)
        point_far, point_votes = left_out.mean_distances(), left_out.votes(point_codes, len(classes.categories))
        told = point_votes.argmax(axis=1)  # like with like: the label that each cell of the reference would get
        typical = stats.median_distances(point_far, told, len(classes.categories))
        distance[placed] = stats.relative_distances(far, codes[placed], typical)
        novelty[placed] = stats.conformal_p(far, codes[placed], point_far, told)
        if unknown is not None:
            _warn_of_small(classes.categories, np.bincount(told, minlength=len(classes.categories)), unknown)

    nearest = pd.Categorical.from_codes(codes, dtype=classes.dtype)
    values = (
        with_unknown(nearest, novelty, unknown),
        votes.max(axis=1),
        pd.DataFrame(votes, index=data.obs_names, columns=columns),
        *novelty_values(distance, novelty, nearest, unknown=unknown),
    )
    _slots.write(
        data,
        "tl.transfer",
        key,
        dict(zip(slots, values, strict=True)),
        labels=labels,
        use_rep=use_rep,
        n_neighbors=k,
        metric=metric,
        exact=exact,
        donor=donor,
        unknown=unknown,
        n_reference=len(points),
    )
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, labels (adata.obs)")
    return adata if copy else None


def _read_rep(data: AnnData, use_rep: str, name: str) -> np.ndarray:
    if use_rep not in data.obsm:
        msg = f"No representation in {name}.obsm[{use_rep!r}]. Run `sg.tl.embed({name})` first, or name another by `use_rep`."
        raise KeyError(msg)
    return np.asarray(data.obsm[use_rep], dtype=np.float32)


def _check_alike(data: AnnData, annotated: AnnData, use_rep: str, width: int, reference_width: int) -> None:
    """Distances between embeddings of different models are numbers without a meaning."""
    if width != reference_width:
        msg = f".obsm[{use_rep!r}] has {width} columns in adata, {reference_width} in the reference. Embed both alike."
        raise ValueError(msg)
    slot = use_rep.removeprefix(_keys.embedding_key(""))
    ours, theirs = (x.uns.get(slot, {}).get("params", {}) for x in (data, annotated))
    for name in ("weights_sha256", "vocabulary_hash", "pooling", "emb_layer"):
        if name in ours and name in theirs and ours[name] != theirs[name]:
            msg = (
                f".obsm[{use_rep!r}] was made with {name}={ours[name]!r} in adata, {theirs[name]!r} in the reference. "
                "Embed both alike."
            )
            raise ValueError(msg)


def _donors_of(reference: AnnData | MuData, donor: str, mod: str, labelled: np.ndarray) -> np.ndarray:
    """Code of the donor of each labelled cell."""
    codes, _ = pd.factorize(_keys.obs_column(reference, donor, mod, slot="reference.obs")[labelled])
    if (codes < 0).any():
        msg = f"{np.sum(codes < 0)} labelled cells of the reference have no donor in .obs[{donor!r}]. Name it, or take their labels away."
        raise ValueError(msg)
    return codes


def _check_size(largest: int, unknown: float) -> None:
    """Raise if no label has enough cells for a p below `unknown`."""
    least = stats.smallest_sample(unknown)
    if largest < least:
        msg = (
            f"unknown={unknown:g} takes at least {least} reference cells of a label, since p is never below 1 / (n + 1), and no label has more "
            f"than {largest}. Add reference cells, or choose a larger `unknown`."
        )
        raise ValueError(msg)


def _warn_of_small(categories: pd.Index, n_cells: np.ndarray, unknown: float) -> None:
    """Name the labels whose cells are never unknown."""
    from scanpy import logging as logg

    least = stats.smallest_sample(unknown)
    small = categories[n_cells < least]
    if len(small):
        names = ", ".join(map(repr, map(str, small)))
        logg.warning(
            f"Cells with the labels {names} are never unknown: fewer than {least} reference cells would get them (n in 1 / (n + 1))."
        )
