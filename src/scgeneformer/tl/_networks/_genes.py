"""Genes of a network: sources, which are its rows, and targets, which are its columns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer.tl._perturbation._select import find_tokens
from scgeneformer.tl._perturbation._write import columns_by_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

    from scgeneformer.tl._model_inputs import ModelInputs

COLUMNS = ("source", "target")  # of tables of edges
N_GENES = 2_000  # of a network whose genes are not named


def named_columns(
    cells: AnnData,
    inputs: ModelInputs | None,
    names: Sequence[str] | str | None,
    what: str,
    missing: str,
) -> np.ndarray | None:
    """Columns of `var` of named genes, in their order and once each; None if none are named.

    Parameters
    ----------
    cells
        The cells.
    inputs
        Model and tokens, by whose vocabulary names are looked up too; None if no model is run.
    names
        As the caller gave them.
    what
        The argument, for errors.
    missing
        ``"error"`` or ``"ignore"``.

    Raises
    ------
    ValueError
        If a gene is not there, unless `missing` is ``"ignore"``; if none is left.
    """
    if names is None:
        return None
    names = list(dict.fromkeys([names] if isinstance(names, str) else map(str, names)))
    columns, where = _columns_of(cells, inputs, names), _where(inputs)
    lost = [name for name, column in zip(names, columns, strict=True) if column < 0]
    if len(lost) == len(names):
        msg = f"No gene in `{what}` is in {where}. Name genes by var_names, Ensembl id or symbol."
        raise ValueError(msg)
    text = f"{', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''}"
    if lost and missing == "error":
        msg = f"{len(lost)} genes in `{what}` are not in {where}: {text}. Leave them out, or pass missing='ignore'."
        raise ValueError(msg)
    if lost:
        warnings.warn(f"Left {len(lost)} genes out of `{what}`, not in {where}: {text}.", stacklevel=4)
    return np.array(list(dict.fromkeys(columns[columns >= 0].tolist())))


def choose_genes(
    genes: np.ndarray | None, tfs: np.ndarray | None, n_cells: np.ndarray, min_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns of `var` of sources and targets, both in the order of `var`.

    Parameters
    ----------
    genes, tfs
        Columns that were named, or None.
    n_cells
        Number of cells that express each gene, (n_vars,); negative for genes without a token.
    min_cells
        Minimum of these.

    Raises
    ------
    ValueError
        If there are no two such genes, or none of `tfs` is among `genes`.
    """
    if genes is None:
        order = np.argsort(-n_cells, kind="stable")[:N_GENES]
        order = order[n_cells[order] >= min_cells]
        genes = order if tfs is None else np.union1d(order, tfs)
    targets = np.sort(genes[n_cells[genes] >= max(min_cells, 0)])
    if len(targets) < len(genes):
        logg.info(f"    left out {len(genes) - len(targets)} genes that fewer than {min_cells} cells express")
    sources = targets if tfs is None else np.intersect1d(targets, tfs)
    if len(sources) == 0 or len(targets) < 2:
        what = "no gene of `tfs`" if len(targets) >= 2 else "fewer than two genes"
        msg = f"There is {what} among the genes of the network that min_cells={min_cells} cells express. Name others, or use more cells."
        raise ValueError(msg)
    return sources, targets


@dataclass(frozen=True)
class KnownEdges:
    """Edges that a network is restricted to.

    Attributes
    ----------
    matrix
        True at the edges between genes of `var`, CSR bool (n_vars, n_vars).
    n_edges
        Number of edges that were given, each counted once.
    """

    matrix: sparse.csr_matrix
    n_edges: int

    @property
    def params(self) -> dict[str, int]:
        """What `uns` keeps."""
        return {"n_known_edges": self.n_edges, "n_known_edges_in_data": self.matrix.nnz}

    def genes(self, chosen: np.ndarray | None) -> np.ndarray:
        """Columns of genes: those that are `chosen`, else all with an edge."""
        return np.union1d(*self.matrix.nonzero()) if chosen is None else chosen

    def sources(self, chosen: np.ndarray | None) -> np.ndarray:
        """Columns of the sources of edges, of those that are `chosen`, if any are."""
        sources = np.flatnonzero(np.diff(self.matrix.indptr))
        return sources if chosen is None else np.intersect1d(sources, chosen)

    def among(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Which pairs are edges, bool (S, G)."""
        return self.matrix[sources][:, targets].toarray()


def known_edges(cells: AnnData, inputs: ModelInputs | None, edges: pd.DataFrame) -> KnownEdges:
    """Edges between genes of `var`, without those of a gene with itself.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If no edge is between two genes of the data.
    """
    named = edge_ends(edges, "edges")
    ends = [_columns_of(cells, inputs, list(named[column])) for column in COLUMNS]
    there = (ends[0] >= 0) & (ends[1] >= 0) & (ends[0] != ends[1])
    if not there.any():
        examples = ", ".join(map(repr, named.to_numpy().ravel()[:2])) or "no edges"
        msg = f"No edge of `edges` is between two genes in {_where(inputs)}; `edges` has {examples}. Name genes by var_names, Ensembl id or symbol."
        raise ValueError(msg)
    shape = (cells.n_vars, cells.n_vars)
    matrix = sparse.csr_matrix((np.ones(there.sum(), dtype=bool), (ends[0][there], ends[1][there])), shape=shape)
    matrix.sum_duplicates()
    logg.info(f"    {matrix.nnz} of {len(named)} known edges are between genes of the data")
    return KnownEdges(matrix, len(named))


def edge_ends(edges: pd.DataFrame, name: str) -> pd.DataFrame:
    """Columns ``source`` and ``target`` of edges as text, each edge once, without those of a gene with itself; errors call the table `name`.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    lost = [column for column in COLUMNS if column not in edges]
    if lost:
        msg = f"`{name}` has no columns {lost}; it has {list(edges)}. Rename them: {name}.rename(columns={{...: {lost[0]!r}}})."
        raise KeyError(msg)
    ends = edges.loc[:, list(COLUMNS)].dropna().astype(str)
    return ends[ends["source"] != ends["target"]].drop_duplicates()


def _columns_of(cells: AnnData, inputs: ModelInputs | None, names: list[str]) -> np.ndarray:
    """Column of `var` of each gene, -1 if there is none; by the vocabulary too if a model is run."""
    if inputs is None:
        return keys.gene_columns(cells, names)
    tokens, column_of = find_tokens(inputs, names), columns_by_token(inputs.token_id, len(inputs.vocabulary))
    return np.where(tokens >= 0, column_of[tokens], -1)


def _where(inputs: ModelInputs | None) -> str:
    return ".var" if inputs is None else f"both vocabulary {inputs.vocabulary.name!r} and .var"
