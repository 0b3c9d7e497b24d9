"""Representations of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer._provenance import embed_call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


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
        call = embed_call(name, use_rep, provenance or {})
        msg = f"No representation in {name}.obsm[{use_rep!r}]. Run {call} first, or name another by `use_rep`."
        raise KeyError(msg)
    value = adata.obsm[use_rep]
    return np.asarray(value.toarray() if sparse.issparse(value) else value, dtype=np.float32)
