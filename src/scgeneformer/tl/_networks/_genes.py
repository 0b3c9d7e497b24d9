"""Genes of a network: sources, which are its rows, and targets, which are its columns."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer.tl._perturbation._select import find_tokens
from scgeneformer.tl._perturbation._write import columns_by_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer.tl._model_inputs import ModelInputs

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
    if inputs is None:
        columns, where = keys.gene_columns(cells, names), ".var"
    else:
        tokens, column_of = find_tokens(inputs, names), columns_by_token(inputs.token_id, len(inputs.vocabulary))
        columns = np.where(tokens >= 0, column_of[tokens], -1)
        where = f"both vocabulary {inputs.vocabulary.name!r} and .var"
    lost = [name for name, column in zip(names, columns, strict=True) if column < 0]
    if len(lost) == len(names):
        msg = f"No gene in `{what}` is in {where}. Name genes by var_names, Ensembl id or symbol."
        raise ValueError(msg)
    text = f"{', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''}"
    if lost and missing == "error":
        msg = f"{len(lost)} genes in `{what}` are not in {where}: {text}. Leave them out, or say missing='ignore'."
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
    from scanpy import logging as logg

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
        msg = f"There is {what} among the genes of the network that min_cells={min_cells} cells express. Name others, or take more cells."
        raise ValueError(msg)
    return sources, targets
