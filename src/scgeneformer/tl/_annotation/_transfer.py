from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scgeneformer import _keys, _slots

from ._neighbors import LARGEST_EXACT, nearest

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.random import Generator

METRICS = ("euclidean", "cosine")


def transfer(
    adata: AnnData | MuData,
    reference: AnnData | MuData,
    labels: str,
    *,
    use_rep: str = _keys.embedding_key(_keys.GENEFORMER),
    n_neighbors: int = 15,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    exact: bool | None = None,
    key_added: str | None = None,
    rng: int | Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells by their nearest neighbours in an annotated reference.

    Each neighbour votes for its label with the inverse of its distance; a cell that coincides with reference cells listens
    to those alone (as :class:`sklearn.neighbors.KNeighborsClassifier` with ``weights="distance"``).

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
        Label with most votes, categorical with the categories of the reference.
    ``.obs[key_added + "_score"]``
        Its share of the votes, float64.
    ``.obsm[key_added + "_proba"]``
        DataFrame of the shares of all labels, float64 of shape (n_obs, n_labels). Columns are the labels, ``/`` replaced
        by ``|``, since files have no names with slashes.
    ``.uns[key_added]["params"]``
        Parameters.

    Raises
    ------
    KeyError
        If the representation or the column of labels is missing.
    ValueError
        If the representations differ in width or in the model that made them, if no cell is labelled, or if a slot holds something else
        than earlier results.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.embed(adata)
    >>> query, reference = adata[::2].copy(), adata[1::2].copy()
    >>> sg.tl.transfer(query, reference, "disease", key_added="transferred")
    >>> query.obs["transferred"].cat.categories.tolist()
    ['dcm', 'nf']
    """
    if metric not in METRICS:
        msg = f"metric={metric!r} is not one of {METRICS}."
        raise ValueError(msg)
    if n_neighbors < 1:
        msg = f"n_neighbors={n_neighbors} must be at least 1."
        raise ValueError(msg)
    from scanpy import logging as logg

    if copy:
        adata = adata.copy()
    data, annotated = _keys.as_adata(adata, mod), _keys.as_adata(reference, mod)
    key = f"{labels}_transferred" if key_added is None else key_added
    slots = [f"obs/{key}", f"obs/{_keys.score_key(key)}", f"obsm/{_keys.answer_key(key)}"]
    _slots.check_free(data, "tl.transfer", key, [*slots, f"uns/{key}"])
    classes = pd.Categorical(_keys.obs_column(reference, labels, mod, slot="reference.obs")).remove_unused_categories()
    query, points = _read_rep(data, use_rep, "adata"), _read_rep(annotated, use_rep, "reference")
    placed, labelled = np.isfinite(query).all(axis=1), np.isfinite(points).all(axis=1) & (classes.codes >= 0)
    _check_alike(data, annotated, use_rep, query.shape[1], points.shape[1])

    if not labelled.any():
        msg = f"No cell of the reference has both a label in .obs[{labels!r}] and a place in .obsm[{use_rep!r}]."
        raise ValueError(msg)
    if not placed.all():
        logg.warning(f"{np.sum(~placed)} cells have no place in .obsm[{use_rep!r}] (NaN), and get no label.")
    points = points[labelled]
    exact = len(points) <= LARGEST_EXACT if exact is None else exact
    k = min(n_neighbors, len(points))
    start = logg.info(f"labelling {data.n_obs} cells by {len(points)} of the reference")
    votes = np.full((data.n_obs, len(classes.categories)), np.nan)
    codes = np.full(data.n_obs, -1)
    if placed.any():
        neighbors = nearest(points, query[placed], k, metric=metric, exact=exact, rng=np.random.default_rng(rng))
        votes[placed] = neighbors.votes(classes.codes[labelled], len(classes.categories))
        codes[placed] = votes[placed].argmax(axis=1)

    columns = [_keys.slot_name(category) for category in classes.categories]
    values = (
        pd.Categorical.from_codes(codes, dtype=classes.dtype),
        votes.max(axis=1),
        pd.DataFrame(votes, index=data.obs_names, columns=columns),
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
