"""``get.edges``: edges of a gene network as a tidy data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys, _slots
from scgeneformer._arguments import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData


@checked
def edges(
    adata: AnnData | MuData,
    *,
    key: str = _keys.NETWORK,
    group: str | None = None,
    genes: Sequence[str] | None = None,
    min_cells: int | None = None,
    n_top: int | None = None,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Edges of a gene network, strongest first.

    The table can be used as a network in decoupler, and read by ``networkx.from_pandas_edgelist(edges, edge_attr=True, create_using=networkx.DiGraph)``.

    Parameters
    ----------
    adata
        Annotated data with a network in ``.varp[key]``, from :func:`~scgeneformer.tl.network`.
    key
        Slot of the network.
    group
        Group of cells, if there is a network for each.
    genes
        Leave out edges that neither start nor end at one of these genes, given by names in ``var_names`` or symbols.
    min_cells
        Leave out edges with fewer cells. Scores are means over cells, and means over few cells are often extreme, so edges of few cells would come
        first. Defaults to `min_cells` of the network.
    n_top
        Maximum number of edges.
    gene_symbols
        Column of ``.var`` with the names of genes in the result. Defaults to ``var_names``.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a new index and the columns ``source``, ``target``, ``weight``, ``percentile`` of the weight among all edges of
    the network (mean percentile for ties), and, if the score is computed from cells, ``n_cells``, the number of cells of the edge.

    Raises
    ------
    KeyError
        If there is no such network, or no column `gene_symbols`.
    ValueError
        If the network is empty, there are several and `group` is not one of them, none of `genes` is in ``.var``, or `min_cells` is given for a
        score that is not computed from cells.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.network(adata, score="contextual")
    >>> list(sg.get.edges(adata, genes=["STAT1"]).columns)
    ['source', 'target', 'weight', 'percentile', 'n_cells']
    """
    data = _keys.as_adata(adata, mod)
    name, matrix = _slots.read_network(data, key, group)
    symbols = None if gene_symbols is None else _keys.symbols(data, gene_symbols)
    names = data.var_names.astype(str).to_numpy() if symbols is None else symbols
    pairs = matrix.tocoo()
    frame = pd.DataFrame({"source": names[pairs.row], "target": names[pairs.col], "weight": pairs.data})
    frame["percentile"] = frame["weight"].rank(pct=True) * 100
    n_cells, is_wanted = _slots.cells_of_edges(data, name, matrix, min_cells)
    if n_cells is not None:
        frame["n_cells"] = n_cells
    if genes is not None:
        columns = _keys.gene_columns(data, [genes] if isinstance(genes, str) else genes, gene_symbols)
        if (columns < 0).all():
            msg = f"None of genes={genes!r} is in .var. Name genes by var_names or symbols."
            raise ValueError(msg)
        is_wanted &= np.isin(pairs.row, columns) | np.isin(pairs.col, columns)
    frame = frame[is_wanted]
    return frame.sort_values("weight", ascending=False, kind="stable")[:n_top].reset_index(drop=True)
