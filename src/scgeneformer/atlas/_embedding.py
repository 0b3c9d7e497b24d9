"""Representations of cells, and whether two of them can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

COMPARED = ("weights_sha256", "vocabulary_hash", "pooling", "emb_layer")


def read_rep(adata: AnnData, use_rep: str, name: str, provenance: Mapping[str, Any] | None = None) -> np.ndarray:
    """Representation of cells, float32 (n_obs, d).

    Parameters
    ----------
    adata
        Cells.
    use_rep
        Slot in ``.obsm``.
    name
        What errors call the cells.
    provenance
        Of the representation to compare with.

    Raises
    ------
    KeyError
        If there is none; the error says how to make it.
    """
    if use_rep not in adata.obsm:
        call = f"`sg.tl.embed({_arguments(name, use_rep, provenance or {})})`"
        msg = f"No representation in {name}.obsm[{use_rep!r}]. Run {call} first, or name another by `use_rep`."
        raise KeyError(msg)
    value = adata.obsm[use_rep]
    return np.asarray(value.toarray() if sparse.issparse(value) else value, dtype=np.float32)


def provenance(adata: AnnData, use_rep: str) -> dict[str, Any]:
    """How ``.obsm[use_rep]`` was made: the name of the model, and what `COMPARED` lists, as far as it is known."""
    params = adata.uns.get(_key(use_rep), {}).get("params", {})
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name in ("model", *COMPARED)
        if (value := params.get(name)) is not None
    }


def check_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any], use_rep: str) -> None:
    """Raise if a query, `ours`, was embedded in another way than a reference: distances would be numbers without a meaning.

    Raises
    ------
    ValueError
        If so.
    """
    for name in COMPARED:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            call = f"`sg.tl.embed({_arguments('adata', use_rep, theirs)})`"
            msg = (
                f".obsm[{use_rep!r}] was made with {name}={ours[name]!r} in adata, {theirs[name]!r} in the reference. "
                f"Embed both alike: {call}."
            )
            raise ValueError(msg)


def _arguments(name: str, use_rep: str, provenance: Mapping[str, Any]) -> str:
    """Arguments of `sg.tl.embed` for an embedding like another."""
    model = [repr(provenance["model"])] if "model" in provenance else []
    options = [f"{option}={provenance[option]!r}" for option in ("pooling", "emb_layer") if option in provenance]
    key = _key(use_rep)
    return ", ".join([name, *model, *options, *([] if key == keys.GENEFORMER else [f"key_added={key!r}"])])


def _key(use_rep: str) -> str:
    return keys.embedding_name(use_rep)
