"""Tables of ``EmbExtractor``: a row for each cell or gene, numbered columns of its embedding, then labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scgeneformer import _keys as keys
from scgeneformer import _slots
from scgeneformer._slots import read_embedding
from scgeneformer.tokens._names import SPECIAL_TOKENS

from ._cells import labels, with_names
from ._tables import numbers, read_table

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, *, obs_names: str | None) -> AnnData:
    """Cells with ``.obsm["X_geneformer"]``, or genes with ``.varm["geneformer"]``.

    Raises
    ------
    ValueError
        If the columns are not those of embeddings.
    """
    table = read_table(path)
    width = next((i for i, name in enumerate(table.columns) if name != str(i)), table.shape[1])
    if width == 0 or table.empty:
        msg = f"{path} is not a table of embeddings: expected columns '0', '1', ... first, found {list(table.columns[:5])}."
        raise ValueError(msg)
    numbers(table, table.columns[:width], path)
    values, further = table.iloc[:, :width].to_numpy(dtype=np.float32), table.iloc[:, width:]
    slot, place = keys.embedding_key(keys.GENEFORMER), keys.GENEFORMER
    if table.index.dtype.kind in "iu":
        adata = AnnData(obs=with_names(further, obs_names, path))
        _slots.write(adata, "tl.embed", place, {f"obsm/{slot}": values}, file=str(path))
        return adata
    is_gene = ~table.index.isin(SPECIAL_TOKENS)
    if table.index.duplicated().any():
        msg = f"{path} has a gene twice. Write it again with the official tool."
        raise ValueError(msg)
    adata = AnnData(var=further[is_gene].set_axis(table.index[is_gene].astype(str)))
    _slots.write(adata, "tl.embed", place, {f"varm/{place}": values[is_gene]}, file=str(path))
    return adata


def write(adata: AnnData, path: Path, key: str) -> None:
    """Write ``.obsm[key]`` and the labels of cells, as ``EmbExtractor`` does."""
    values = read_embedding(adata, key)
    table = pd.DataFrame(values, columns=[str(i) for i in range(values.shape[1])])
    further = labels(adata)
    if clash := sorted(set(table.columns) & set(further.columns)):
        msg = f"Column {clash[0]!r} of .obs has the name of a column of embeddings. Rename it."
        raise ValueError(msg)
    pd.concat([table, further.reset_index(drop=True)], axis=1).to_csv(path)
