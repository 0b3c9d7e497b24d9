"""Edges as a graph of igraph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    from scipy import sparse

EDGES_PER_GENE = 10


def import_igraph() -> ModuleType:
    """The package igraph.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import igraph
    except ImportError as error:
        msg = "Graphs need igraph. Install it with `pip install 'scgeneformer[network]'`."
        raise ImportError(msg) from error
    return igraph


def strongest(
    matrix: sparse.csr_matrix, n_edges: int | None, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Genes of a network, and its strongest edges of positive weight.

    Parameters
    ----------
    matrix
        CSR (n_vars, n_vars).
    n_edges
        How many; edges that are as strong as the last are taken too. None for ten for each gene.
    among
        Which edges may be taken, bool (nnz,).

    Returns
    -------
    Columns of ``.var`` of the genes that have any edge, (n,); and of the strongest the places of sources and targets among these genes, and the
    weights, (m,).
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    genes = np.union1d(rows, matrix.indices)
    wanted = EDGES_PER_GENE * len(genes) if n_edges is None else n_edges
    weights = matrix.data.astype(np.float64)
    taken = among & (weights > 0)
    if wanted < taken.sum():
        taken &= weights >= np.sort(weights[taken])[-wanted]
    sources, targets = (np.searchsorted(genes, x[taken]) for x in (rows, matrix.indices))
    return genes, sources, targets, weights[taken]


def as_graph(n: int, sources: np.ndarray, targets: np.ndarray) -> Any:
    """Directed graph of `n` genes."""
    return import_igraph().Graph(n, np.column_stack([sources, targets]).tolist(), directed=True)
