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

    By default each neighbour votes for its label with the inverse of its distance; a cell that coincides with reference cells listens
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
        Labelled cells, with the same representation by the same model, which are not changed. Or a :class:`~scgeneformer.Reference` that was
        made of them before, or the folder where it was saved; what describes it cannot be chosen again then: `labels`, `use_rep`, `n_neighbors`,
        `metric`, `exact`, `donor` and `rng`.
    labels
        Column of ``reference.obs`` with labels; for MuData, also of the MuData itself or of another modality (``"prot:gate"``).
        Cells without a label or with NaN in their representation are left out.
    use_rep
        Slot of the representation in ``.obsm`` of both; by default ``"X_geneformer"``.
    n_neighbors
        Number of neighbours, or all labelled cells of the reference where it has fewer; by default 15.
    metric
        Distance between representations; by default euclidean.
    exact
        Compare with every reference cell, or search an index that misses a few neighbours. By default exact up to 50,000
        reference cells.
    donor
        Column of ``reference.obs``, or wherever `labels` may be, with the donor of each cell. Cells of the reference are then left out with
        their whole donor, as a query from another donor has none of its own there; otherwise differences between donors look like novelty.
    weights
        Of the votes of the neighbours: ``"distance"``, the inverse of their distance d; ``"uniform"``; or ``"gaussian"``, exp(-d² / (2 s²)), where s is the
        distance to the farthest of them, which thus counts 0.61 of one in the same place.
    unknown
        Cells with a novelty below this get the label ``"unknown"``, at most this share of the cells whose type is in the reference,
        if they are like its cells in all else. Across studies and technologies this is not guaranteed; it is the more nearly true the more the
        donors of the reference differ (`donor`).
    majority_by
        Column of ``adata.obs``, or wherever `labels` may be, with clusters. All cells of a cluster get the label with the largest sum of shares in it.
        With `unknown`, unknown cells give their whole vote to ``"unknown"``, so that a cluster is unknown as a whole or not at all; what is promised
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
        Largest share of the votes, float64: that of the label of the cell by itself.
    ``.obs[key_added + "_distance"]``
        Mean distance to the neighbours, divided by its median among the reference cells that would get the same label, float64: 1 is typical.
    ``.obs[key_added + "_novelty"]``
        Conformal p of the cell: ``(1 + m) / (n + 1)``, where n reference cells would get the same label and m of these are at least as far
        from their neighbours, float64. Small where the cell is unlike all of the reference.
    ``.obs[key_added + "_nearest"]``
        Label with most votes of each cell by itself, of the unknown ones too. Only with `unknown` or `majority_by`.
    ``.obs[key_added + "_majority"]``
        Share of the votes of its cluster for its label, float64; NaN for cells without a cluster. Only with `majority_by`.
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
        the same; if every label has too few cells for `unknown`; if a parameter differs from that of a `Reference`; or if a slot holds something else
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
                f"{argument}={value!r} differs from the reference, which was made with {getattr(reference, name)!r}. Leave it out, or make another "
                "by `sg.Reference.from_adata`."
            )
            raise ValueError(msg)
