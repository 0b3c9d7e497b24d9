"""Embeddings of cells: their numbers, how they were made, and whether two of them can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from . import _keys as keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

COMPARED = ("weights_sha256", "vocabulary_hash", "pooling", "emb_layer")


def read_embedding(
    adata: AnnData, use_rep: str, *, name: str = "", like: Mapping[str, Any] | None = None
) -> np.ndarray:
    """An embedding of cells in memory, float32 or float64 (n_obs, d).

    Parameters
    ----------
    adata
        Cells.
    use_rep
        Slot in ``.obsm``.
    name
        What errors call the cells.
    like
        `provenance` of an embedding that this one is to be like.

    Raises
    ------
    KeyError
        If there is none; the error says how to make it.
    ValueError
        If it is no matrix of numbers.
    """
    if use_rep not in adata.obsm:
        call = embed_call(name or "adata", use_rep, like or {})
        msg = f"No representation in {name}.obsm[{use_rep!r}]. Run {call} first, or name another by `use_rep`."
        raise KeyError(msg)
    stored = adata.obsm[use_rep]
    stored = stored.compute() if hasattr(stored, "compute") else stored
    values = np.asarray(stored.toarray() if sparse.issparse(stored) else stored)
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        msg = f"{name}.obsm[{use_rep!r}] is no matrix of numbers, but has shape {values.shape} and type {values.dtype}. Name an embedding by `use_rep`."
        raise ValueError(msg)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def provenance(adata: AnnData, use_rep: str) -> dict[str, Any]:
    """How ``.obsm[use_rep]`` was made: the name of the model, and what `COMPARED` lists, as far as it is known."""
    params = adata.uns.get(keys.embedding_name(use_rep), {}).get("params", {})
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name in ("model", *COMPARED)
        if (value := params.get(name)) is not None
    }


def check_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any], use_rep: str, whose: str) -> None:
    """Raise if a query, `ours`, was embedded in another way than `theirs`, those of `whose`: numbers would have no meaning.

    Raises
    ------
    ValueError
        If so.
    """
    for name in COMPARED:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            call = embed_call("adata", use_rep, theirs)
            msg = (
                f".obsm[{use_rep!r}] was made with {name}={ours[name]!r} in adata, {theirs[name]!r} in {whose}. "
                f"Embed both alike: {call}."
            )
            raise ValueError(msg)


def embed_call(name: str, use_rep: str, provenance: Mapping[str, Any]) -> str:
    """The call of `sg.tl.embed` that makes an embedding of `name` like another."""
    model = [repr(provenance["model"])] if "model" in provenance else []
    options = [f"{option}={provenance[option]!r}" for option in ("pooling", "emb_layer") if option in provenance]
    key = keys.embedding_name(use_rep)
    arguments = [name, *model, *options, *([] if key == keys.GENEFORMER else [f"key_added={key!r}"])]
    return f"`sg.tl.embed({', '.join(arguments)})`"
