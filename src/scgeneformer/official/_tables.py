"""CSV files of the official tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def read_header(path: Path) -> list[str]:
    """Names of the columns, without that of the index."""
    return list(_read(path, nrows=0).columns)


def read_table(path: Path) -> pd.DataFrame:
    """The table, with its first column as index and numbers to the last bit.

    Raises
    ------
    ValueError
        If it is not a table.
    """
    return _read(path)


def numbers(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raise if a column does not hold numbers."""
    for name in columns:
        if table[name].dtype.kind not in "iuf":
            msg = f"Column {name!r} of {path} must hold numbers. Write the file again with the official tool."
            raise ValueError(msg)


def _read(path: Path, **options: object) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=0, float_precision="round_trip", **options)
    except (ValueError, LookupError, OSError, MemoryError) as error:  # those of pandas are ValueErrors
        msg = (
            f"{path} is not a CSV table of official Geneformer, or is damaged ({type(error).__name__}). Write it again."
        )
        raise ValueError(msg) from None
