"""Expression of the cells that were tokenized, for comparison with the model."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scgeneformer.tokens import token_params

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

SCALE = 1e4  # counts per cell, the usual ones


@contextmanager
def threads_of_torch_kept() -> Iterator[None]:
    """Undo what numba's parallel loops, which scanpy runs, do to the number of threads of torch: both use one OpenMP."""
    import torch

    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@threads_of_torch_kept()
def log_profile(cells: AnnData, rows: np.ndarray, *, layer: str | None, tokens_key: str, cure: str) -> AnnData:
    """log1p of counts per 10,000 of some cells.

    Parameters
    ----------
    cells
        With the counts that were tokenized.
    rows
        Indices of the cells, (n,).
    layer
        Where the counts are; None where the tokens came from.
    tokens_key
        Slot of the tokens, whose params tell where that is, and whether the values are logarithms already.
    cure
        What to do without them, for errors.

    Returns
    -------
    AnnData of float32 CSR (n, n_vars) with the same ``var_names``.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If there are no values.
    """
    import scanpy as sc
    from anndata import AnnData

    values, are_logarithms = _tokenized_values(cells, rows, layer=layer, tokens_key=tokens_key, cure=cure)
    profile = AnnData(values)
    profile.var_names = cells.var_names
    if not are_logarithms:
        sc.pp.normalize_total(profile, target_sum=SCALE)
        sc.pp.log1p(profile)
    return profile


def counts_of(cells: AnnData, rows: np.ndarray, *, layer: str | None, tokens_key: str, cure: str) -> sparse.csr_matrix:
    """The counts themselves, float32 (n, n_vars), with the parameters of `log_profile`.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If there are no values, or they are logarithms.
    """
    values, are_logarithms = _tokenized_values(cells, rows, layer=layer, tokens_key=tokens_key, cure=cure)
    if are_logarithms:
        msg = f"The tokens were made from logarithms, not counts. {cure}"
        raise ValueError(msg)
    return values


def _tokenized_values(
    cells: AnnData, rows: np.ndarray, *, layer: str | None, tokens_key: str, cure: str
) -> tuple[sparse.csr_matrix, bool]:
    """What the tokens came from, a copy in float32, and whether these are logarithms."""
    made = token_params(cells, tokens_key)
    layer = made.get("layer") if layer is None else layer
    slot = ".X" if layer is None else f".layers[{layer!r}]"
    if layer is not None and layer not in cells.layers:
        msg = f"No layer {layer!r} in .layers, which has {list(cells.layers)}. {cure}"
        raise KeyError(msg)
    values = cells.X if layer is None else cells.layers[layer]
    if values is None or cells.n_vars == 0:
        msg = f"There are no counts in {slot}. {cure}"
        raise ValueError(msg)
    selected = values[rows]
    selected = selected.compute() if hasattr(selected, "compute") else selected
    transformed_since = layer is None and "log1p" in cells.uns  # by scanpy, after tokenizing
    are_logarithms = made.get("counts", "raw") == "log1p" or transformed_since
    return sparse.csr_matrix(selected, dtype=np.float32, copy=True), are_logarithms
