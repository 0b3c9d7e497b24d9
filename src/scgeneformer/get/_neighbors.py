"""``get.neighbors``: the cells of a reference that are most like some cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer._arguments import checked
from scgeneformer.atlas import Reference, read_query

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

COLUMNS = ("cell", "rank", "neighbor", "distance")


@checked
def neighbors(
    adata: AnnData | MuData,
    reference: Reference | str | Path,
    cells: Sequence[str] | None = None,
    *,
    n_neighbors: int | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Nearest reference cells of each query cell, with their annotations.

    Parameters
    ----------
    adata
        Query cells, embedded in the same way as the reference.
    reference
        A reference, or the folder of a saved one.
    cells
        Names of query cells in ``.obs_names``; by default all.
    n_neighbors
        Number of neighbours of each cell; by default that of the reference, and at most the number of its cells.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with one row per pair of cells: ``cell``, ``rank`` (1 is the nearest), ``neighbor``, the name of the reference cell, and
    ``distance``; then the annotations of the reference cell, labels first. The prefix ``reference_`` is added to a column with one of these names.
    Cells without a representation (NaN) have no rows.

    Raises
    ------
    KeyError
        If a cell or the representation is missing.
    FileNotFoundError
        If there is no reference in the folder.
    ValueError
        If the cells were not embedded in the same way as the reference, or a saved reference is damaged.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.embed(adata)
    >>> reference = sg.Reference.from_adata(adata[1:], "disease", donor="donor", obs=["cell_type"])
    >>> table = sg.get.neighbors(adata, reference, ["cell 0"], n_neighbors=3)
    >>> list(table.columns), len(table)
    (['cell', 'rank', 'neighbor', 'distance', 'disease', 'donor', 'cell_type'], 3)
    """
    data = keys.as_adata(adata, mod)
    rows = np.arange(data.n_obs) if cells is None else _rows(data, cells)
    if not isinstance(reference, Reference):
        reference = Reference.load(reference)
    points = read_query(reference, data)[rows]
    placed = np.isfinite(points).all(axis=1)
    k = min(reference.n_neighbors if n_neighbors is None else n_neighbors, len(reference.points))
    columns = [f"reference_{name}" if name in COLUMNS else name for name in reference.cells]
    if not placed.any():
        return pd.DataFrame(columns=[*COLUMNS, *columns])
    nearest = reference.index.nearest(points[placed], k)
    pairs = nearest.indices.ravel()
    table = pd.DataFrame(
        {
            "cell": np.repeat(data.obs_names[rows[placed]].to_numpy(), k),
            "rank": np.tile(np.arange(1, k + 1), int(placed.sum())),
            "neighbor": reference.cells.index[pairs].to_numpy(),
            "distance": nearest.distances.ravel().astype(np.float64),
        }
    )
    known = reference.cells.iloc[pairs].set_axis(columns, axis=1).reset_index(drop=True)
    return pd.concat([table, known], axis=1)


def _rows(data: AnnData, cells: Sequence[str]) -> np.ndarray:
    """Positions of cells by name, (n,)."""
    names = [cells] if isinstance(cells, str) else list(cells)
    missing = [name for name in names if name not in data.obs_names]
    if missing:
        msg = f"{len(missing)} of {len(names)} cells are not in adata.obs_names, such as {missing[0]!r}. Name cells of adata."
        raise KeyError(msg)
    return np.flatnonzero(data.obs_names.isin(names))
