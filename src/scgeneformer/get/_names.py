"""Names of genes in a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def insert_names(frame: pd.DataFrame, genes: np.ndarray, symbols: np.ndarray | None) -> None:
    """Put the columns ``names`` and, where `symbols` are known, ``symbol`` first in `frame`, (n,) each."""
    if symbols is not None:
        frame.insert(0, "symbol", symbols)
    frame.insert(0, "names", genes)
