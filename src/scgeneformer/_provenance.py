"""How an embedding was made, and whether two of them can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _keys as keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

COMPARED = ("weights_sha256", "vocabulary_hash", "pooling", "emb_layer")


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
