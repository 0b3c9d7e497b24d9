from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scgeneformer._arguments import checked
from scgeneformer.atlas import Reference, build

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.random import Generator


@checked
def transfer(
    adata: AnnData | MuData,
    reference: AnnData | MuData | Reference | str | Path,
    labels: str | None = None,
    *,
    use_rep: str | None = None,
    n_neighbors: int | None = None,
    metric: Literal["euclidean", "cosine"] | None = None,
    exact: bool | None = None,
    donor: str | None = None,
    weights: Literal["distance", "uniform", "gaussian"] = "distance",
    unknown: float | None = None,
    majority_by: str | None = None,
    key_added: str | None = None,
    rng: int | Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells by their nearest neighbours in an annotated reference.

    By default the vote of each neighbour is weighted by the inverse of its distance; for a cell that coincides with reference cells, only
    these vote (as in :class:`sklearn.neighbors.KNeighborsClassifier` with ``weights="distance"``).

    The share of the votes shows how clear the choice among the labels of the reference is, not whether the cell belongs to any of them: a cell far
    from all reference cells often has a unanimous label. Therefore the distance of each cell to its neighbours is also compared with the distances of reference cells
    to theirs, for those reference cells that receive the same label when they are left out one by one and labelled by the others.

    Parameters
    ----------
    adata
        Cells to label, with a representation in ``.obsm[use_rep]``. Cells with NaN in it, such as embeddings of cells without
        known genes, get no label.
    reference
        Labelled cells, with the same representation by the same model; they are not changed. Or a :class:`~scgeneformer.Reference`,
        or the folder where it was saved. These arguments are then fixed by the reference: `labels`, `use_rep`, `n_neighbors`,
        `metric`, `exact`, `donor` and `rng`.
    labels
        Column of ``reference.obs`` with labels; for MuData, also of the MuData itself or of another modality (``"prot:gate"``).
        Cells without a label, or with NaN in their representation, are ignored.
    use_rep
        Slot of the representation in ``.obsm`` of both; by default ``"X_geneformer"``.
    n_neighbors
        Number of neighbours, at most the number of labelled cells of the reference; by default 15.
    metric
        Distance between representations; by default euclidean.
    exact
        Compare with every reference cell, instead of searching an index that misses a few neighbours. By default exact up to 50,000
        reference cells.
    donor
        Column of ``reference.obs``, or of the other places allowed for `labels`, with the donor of each cell. Cells of the reference are then left out with
        their whole donor, because the reference has no cells of the donor of a query. Otherwise differences between donors look like novelty.
    weights
        Weights of the votes: ``"distance"``, the inverse of the distance d; ``"uniform"``; or ``"gaussian"``, exp(-d² / (2 s²)), where s is the
        distance to the farthest neighbour, whose weight is thus 0.61 of that of a neighbour at distance 0.
    unknown
        Cells with a novelty below this value get the label ``"unknown"``: at most this share of the cells whose type is in the reference,
        if they otherwise follow the distribution of its cells. Across studies and technologies this is not guaranteed; it holds more closely the more the
        donors of the reference differ (`donor`).
    majority_by
        Column of ``adata.obs``, or of the other places allowed for `labels`, with clusters. All cells of a cluster get the label with the largest sum of shares.
        With `unknown`, the whole vote of an unknown cell counts for ``"unknown"``, so that either all or no cells of a cluster are unknown. The guarantee
        of `unknown` then holds for the cells before the vote, not for the clusters. Cells without a cluster keep their own label.
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
        Largest share of the votes, float64, before the vote of the cluster.
    ``.obs[key_added + "_distance"]``
        Mean distance to the neighbours, divided by its median among the reference cells that receive the same label, float64: 1 is typical.
    ``.obs[key_added + "_novelty"]``
        Conformal p value of the cell: ``(1 + m) / (n + 1)``, where n reference cells receive the same label and m of these are at least as far
        from their neighbours, float64. Small if the cell is unlike all cells of the reference.
    ``.obs[key_added + "_nearest"]``
        Label with most votes for each single cell, including unknown cells. Only with `unknown` or `majority_by`.
    ``.obs[key_added + "_majority"]``
        Share of the votes in the cluster for the label, float64; NaN for cells without a cluster. Only with `majority_by`.
    ``.obsm[key_added + "_proba"]``
        DataFrame of the shares of all labels, float64 of shape (n_obs, n_labels). Columns are the labels, ``/`` replaced
        by ``|``, since files have no names with slashes.
    ``.uns[key_added]["params"]``
        Parameters, and how the representation of the reference was made.

    Raises
    ------
    KeyError
        If the representation or a column is missing.
    FileNotFoundError
        If the folder holds no reference.
    ValueError
        If the representations differ in width or in the model that made them; if no cell is labelled, or none of `adata` has a representation; if
        a label has a single cell; if labelled cells have no donor, or all
        have the same donor; if every label has too few cells for `unknown`; if a parameter differs from that of a `Reference`; or if a slot holds something other
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
    options: dict[str, Any] = {
        "use_rep": use_rep,
        "n_neighbors": n_neighbors,
        "metric": metric,
        "exact": exact,
        "donor": donor,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(reference, str | Path):
        reference = Reference.load(reference)
    if isinstance(reference, Reference):
        _check_same(reference, given if labels is None else {"labels": labels, **given}, rng)
    elif labels is None:
        msg = "labels=None, but a reference of annotated cells needs the column of .obs with their labels. Name it."
        raise ValueError(msg)
    else:
        reference = Reference(**build(reference, labels, name="reference", rng=rng, mod=mod, **given))
    return reference.query(
        adata,
        weights=weights,
        unknown=unknown,
        majority_by=majority_by,
        key_added=key_added,
        mod=mod,
        copy=copy,
    )


def _check_same(reference: Reference, given: dict[str, Any], rng: int | Generator | None) -> None:
    """Raise if an argument is not what the reference was made with."""
    if rng != 0:
        given = {**given, "seed": rng}
    for name, value in given.items():
        if name == "n_neighbors":
            value = min(value, len(reference.points))
        if value != getattr(reference, name):
            argument = "rng" if name == "seed" else name
            msg = (
                f"{argument}={value!r} differs from the reference, which was made with {getattr(reference, name)!r}. "
                "Leave it out, or make another reference with `sg.Reference.from_adata`."
            )
            raise ValueError(msg)
