"""Sparse matrices and tables in files of R, read by rdata, which executes nothing."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path


def read_r(path: Path) -> dict[str, Any]:
    """Read the objects in an ``.rda`` or ``.RData`` file, by name.

    Raises
    ------
    ImportError
        If rdata is not installed.
    """
    try:
        import rdata
    except ImportError as error:
        msg = f"{path.name} is a file of R, which rdata reads: `pip install 'scgeneformer[datasets]'`."
        raise ImportError(msg) from error
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # S4 classes that it has no constructor for: their slots are read below
        return rdata.read_rda(path)


def matrix(value: Any) -> tuple[sparse.csc_matrix, list[str], list[str]]:
    """A ``dgCMatrix``, with the names of its rows and columns, which may be lacking."""
    both = value.Dimnames.values() if isinstance(value.Dimnames, dict) else value.Dimnames
    rows, columns = ([] if names is None else [str(name) for name in names] for names in both)
    return sparse.csc_matrix((value.x, value.i, value.p), shape=tuple(map(int, value.Dim))), rows, columns


def frame(value: Any) -> pd.DataFrame:
    """A ``data.frame``, or a ``DFrame`` of Bioconductor."""
    if isinstance(value, pd.DataFrame):
        return value
    return pd.DataFrame(
        dict(value.listData), index=None if value.rownames is None else [str(n) for n in value.rownames]
    )


def counts_of_experiment(value: Any) -> sparse.csc_matrix:
    """Counts in a ``SingleCellExperiment``, genes x cells."""
    slots = vars(value.assays)
    assays = slots["data"] if "data" in slots else slots[".xData"]["data"]
    return matrix(assays.listData["counts"])[0]
