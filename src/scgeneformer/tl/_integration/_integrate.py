from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer import stats
from scgeneformer._arguments import checked
from scgeneformer._slots import read_embedding
from scgeneformer.tl._expression import threads_of_torch_kept

from ._batches import categories_of, check_condition, composition

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from numpy.random import Generator

APART = 0.3  # total variation distance of a batch from all cells above which centring without labels is warned of
# Params of an embedding that say what its axes are
SPACE = ("model", "weights_sha256", "vocabulary", "vocabulary_hash", "pooling", "emb_layer")


@checked
def integrate(
    adata: AnnData | MuData,
    batch_key: str,
    *,
    method: Literal["harmony", "center", "mnn"] = "harmony",
    use_rep: str = keys.embedding_key(keys.GENEFORMER),
    label_key: str | None = None,
    condition_key: str | None = None,
    reference: str | None = None,
    n_neighbors: int = 15,
    key_added: str | None = None,
    rng: int | Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Correct batch effects in an embedding.

    Embeddings of foundation models retain batch effects. Every difference between batches is removed, including biological
    differences: compare the result with the original embedding by :func:`~scgeneformer.tl.compare_embeddings`.

    Parameters
    ----------
    adata
        Cells with an embedding. Rows with NaN are not changed.
    batch_key
        Column of ``.obs`` with the batch of each cell.
    method
        ``"harmony"`` moves soft clusters until batches mix within each (Korsunsky 2019; needs ``scgeneformer[integrate]``). ``"center"`` gives all batches
        the same mean, or with `label_key` all batches within a label; without labels this is safe only if batches have the same cell types. ``"mnn"``
        moves each batch as a whole to `reference` by the mean difference between mutual nearest neighbours; use it to map a
        query to a reference.
    use_rep
        Slot of the embedding in ``.obsm``.
    label_key
        Column with labels such as cell types. The composition of batches is compared by these labels, and ``"center"`` centres within them.
    condition_key
        Column with the condition of interest, such as a disease or treatment. If every batch has a single condition, an error is raised.
    reference
        Batch that is not moved, for ``"center"`` and ``"mnn"``.
    n_neighbors
        For ``"mnn"``: two cells are mutual neighbours if each is among this number of nearest neighbours of the other.
    key_added
        Name of the result; by default that of the embedding and the method, ``geneformer_harmony``.
    rng
        Seed or generator, for Harmony and for searching large batches.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.obsm[f"X_{key_added}"]``
        The corrected embedding, with the shape and dtype of ``.obsm[use_rep]``.
    ``.uns[key_added]["composition"]``
        DataFrame with a row per batch, if `label_key`: ``n_cells``, and ``total_variation``, the distance between its shares of labels and those
        of all cells: 0 for the same shares, 1 for no label in common.
    ``.uns[key_added]["params"]``
        Parameters, and those of the embedding.

    Raises
    ------
    ImportError
        If harmonypy is not installed, for ``"harmony"``.
    KeyError
        If the embedding or a column is missing.
    ValueError
        If there is one batch, cells have no batch, every batch has a single condition, `reference` is not a batch or does not apply to the method, or
        a slot holds something other than an earlier result.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> sg.tl.integrate(adata, "donor", method="center", label_key="cell_type")
    >>> adata.obsm["X_geneformer_center"].shape
    (32, 128)
    """
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    points = points_of(cells, use_rep)
    key = f"{keys.embedding_name(use_rep)}_{method}" if key_added is None else keys.embedding_name(key_added)
    slot = f"obsm/{keys.embedding_key(key)}"
    slots.check_free(cells, "tl.integrate", key, [slot, f"uns/{key}"])
    placed = np.flatnonzero(np.isfinite(points).all(axis=1))
    batches = categories_of(data, batch_key, mod, placed)
    labels = None if label_key is None else categories_of(data, label_key, mod, placed, least=1, missing=True)
    if condition_key is not None:
        check_condition(batches, categories_of(data, condition_key, mod, placed), batch_key, condition_key)
    anchor = _reference_of(batches, batch_key, reference, method)

    start = logg.info(f"integrating {len(batches.categories)} batches of {len(placed)} cells")
    table = None if labels is None else composition(batches, labels)
    if method == "center" and labels is None:
        logg.warning(
            "Centring without `label_key` assumes that all batches have the same cell types in the same proportions. "
            "Where they do not, it moves types onto each other."
        )
    elif method == "mnn" and table is not None and (table["total_variation"] > APART).any():
        worst = table["total_variation"].idxmax()
        logg.warning(f"Batch {worst!r} is composed differently from all cells ({table['total_variation'].max():.2f}).")
    generator = np.random.default_rng(rng)
    moved = points.copy()
    codes = batches.codes.astype(np.int64)
    if method == "center":
        of_label = None if labels is None else labels.codes.astype(np.int64)
        moved[placed] = stats.center(points[placed], codes, labels=of_label, reference=anchor)
    elif anchor is not None:  # which "mnn" has, and Harmony does not
        moved[placed] = stats.meet_neighbors(
            points[placed], codes, reference=anchor, n_neighbors=n_neighbors, rng=generator
        )
    else:
        with threads_of_torch_kept():
            moved[placed] = stats.harmonise(points[placed], codes, rng=generator)

    source = cells.uns.get(keys.embedding_name(use_rep), {}).get("params", {})
    slots.write(
        cells,
        "tl.integrate",
        key,
        {slot: moved},
        **{name: source[name] for name in SPACE if name in source},
        use_rep=use_rep,
        method=method,
        batch_key=batch_key,
        label_key=label_key,
        condition_key=condition_key,
        reference=reference,
        n_neighbors=n_neighbors if method == "mnn" else None,
        n_cells=len(placed),
    )
    if table is not None:
        cells.uns[key]["composition"] = table
    logg.info("    finished", time=start, deep=f"added\n    {keys.embedding_key(key)!r}, embedding (adata.obsm)")
    return data if copy else None


def points_of(cells: AnnData, use_rep: str) -> np.ndarray:
    """An embedding in memory, float (n_obs, d).

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If it is not a matrix of numbers, or no cell has a place in it.
    """
    points = read_embedding(cells, use_rep)
    if not np.isfinite(points).all(axis=1).any():
        msg = f"No cell has a place in .obsm[{use_rep!r}]: all its rows have NaN."
        raise ValueError(msg)
    return points


def _reference_of(batches: pd.Categorical, batch_key: str, reference: str | None, method: str) -> int | None:
    """Code of the batch that stays."""
    if reference is None:
        if method == "mnn":
            msg = "method='mnn' moves batches to a `reference`. Name the batch that stays in place."
            raise ValueError(msg)
        return None
    if method == "harmony":
        msg = "method='harmony' moves all batches: it has no `reference`. Leave it out, or use 'mnn' or 'center'."
        raise ValueError(msg)
    names = [str(name) for name in batches.categories]
    if reference not in names:
        msg = f"reference={reference!r} is not one of the batches in .obs[{batch_key!r}], which are {', '.join(map(repr, names))}."
        raise ValueError(msg)
    return names.index(reference)
