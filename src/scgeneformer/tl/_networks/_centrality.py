"""``tl.centrality``: which genes are central in a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked

from ._graph import as_graph, import_igraph, strongest

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from scipy import sparse

MEASURES = ("pagerank", "in_degree", "out_degree", "betweenness", "closeness")


@checked
def centrality(
    adata: AnnData | MuData,
    *,
    key: str = keys.NETWORK,
    n_edges: int | None = None,
    min_cells: int | None = None,
    key_added: str = keys.CENTRALITY,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Compute centralities of the genes in a network, with igraph.

    A network from :func:`network` has an edge between almost any two genes, so only the strongest edges are used.

    Parameters
    ----------
    adata
        Annotated data with a network from :func:`network`.
    key
        Slot of the network. If there is one network for each group of cells, all are used.
    n_edges
        Number of strongest edges. Edges tied with the last one are included; edges of weight 0 or less are not. Defaults to ten per gene.
    min_cells
        Leave out edges with fewer cells, as in :func:`~scgeneformer.get.edges`: many of the strongest edges come from few cells. Defaults to
        `min_cells` of the network.
    key_added
        Name of the results.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Writes float64 columns of ``.var``, NaN for genes that are not in the network; with groups named
    ``centrality_<group>_pagerank`` and so on:

    ``centrality_pagerank``
        PageRank along edges, by their weights: high for targets of many edges from central genes.
    ``centrality_in_degree``, ``centrality_out_degree``
        Number of edges to and from the gene.
    ``centrality_betweenness``
        Fraction of the shortest paths between two other genes that pass through the gene; the length of an edge is 1 divided by its weight. In a network
        with `tfs`, edges start at these only, so all other genes have 0. If no edge leads from one of the
        `tfs` to another, all genes have 0, with a warning.
    ``centrality_closeness``
        Inverse of the mean distance from the gene to the genes that can be reached; 0 if there are none.

    And ``.uns["centrality"]["params"]``: the arguments, and the number of edges used.

    Raises
    ------
    ImportError
        If igraph is not installed: ``pip install 'scgeneformer[network]'``.
    KeyError
        If there is no network.
    ValueError
        If no edge of positive weight has enough cells, `min_cells` is given for a score that does not use cells, or a slot holds something other than earlier centralities.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.network(adata)
    >>> sg.tl.centrality(adata, n_edges=100)
    >>> int(adata.var["centrality_out_degree"].sum())
    100
    """
    import_igraph()
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    run = keys.params(cells, key, cure="sg.tl.network(adata)")
    groups = [str(name) for name in run["groups"]] if "groups" in run else [None]
    names = {group: key_added if group is None else keys.group_key(key_added, group) for group in groups}
    written = [f"var/{keys.centrality_key(name, measure)}" for name in names.values() for measure in MEASURES]
    slots.check_free(cells, "tl.centrality", key_added, [*written, f"uns/{key_added}"])
    matrices = {group: slots.read_network(cells, key, group) for group in groups}
    start = logg.info(f"centralities of genes in {', '.join(name for name, _ in matrices.values())}")
    values: dict[str, Any] = {}
    n_taken = []
    for group, (slot, matrix) in matrices.items():
        _, supported = slots.cells_of_edges(cells, slot, matrix, min_cells)
        columns, n = _centralities(matrix, n_edges, slot, supported)
        n_taken.append(n)
        if not columns["betweenness"][columns["out_degree"] + columns["in_degree"] > 0].any():
            logg.warning(
                f"No gene of .varp[{slot!r}] is on a shortest path between two others, so that its betweenness is 0 for all. Edges of a network with `tfs` start at "
                "these only: rank genes by another measure, or make a network without `tfs`."
            )
        values |= {f"var/{keys.centrality_key(names[group], measure)}": column for measure, column in columns.items()}
    params = {"network": key, "n_edges": n_edges, "min_cells": min_cells, "n_edges_taken": n_taken}
    slots.write(cells, "tl.centrality", key_added, values, **params)
    logg.info("    finished", time=start, deep="\n    ".join(["added", *values]))
    return data if copy else None


def _centralities(
    matrix: sparse.csr_matrix, n_edges: int | None, slot: str, supported: np.ndarray
) -> tuple[dict[str, np.ndarray], int]:
    """Each measure, (n_vars,), and the number of edges, among those that are `supported`."""
    genes, sources, targets, weights = strongest(matrix, n_edges, supported)
    if len(weights) == 0:
        msg = (
            f"No edge in .varp[{slot!r}] has a weight above 0 and enough cells ({supported.sum():,} of {matrix.nnz:,} "
            "have enough cells). Run `sg.tl.network(adata)` with other genes or another score, or lower min_cells."
        )
        raise ValueError(msg)
    graph, n = as_graph(len(genes), sources, targets), len(genes)
    lengths = (1 / weights).tolist()
    found = {
        "pagerank": graph.pagerank(weights=weights.tolist()),
        "in_degree": graph.degree(mode="in"),
        "out_degree": graph.degree(mode="out"),
        "betweenness": np.array(graph.betweenness(weights=lengths)) / max((n - 1) * (n - 2), 1),
        "closeness": np.nan_to_num(graph.closeness(mode="out", weights=lengths)),
    }
    columns = {}
    for measure in MEASURES:
        columns[measure] = np.full(matrix.shape[0], np.nan)
        columns[measure][genes] = found[measure]
    return columns, len(weights)
