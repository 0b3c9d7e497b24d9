"""Times and groups of cells: read from ``obs``, checked, and noted when data are set up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer.model.data._fields import ColumnField
from scgeneformer.model.data._gene_labels import few

from ._tokens import MOST_STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class TimeField(ColumnField):
    """Times of cells, which cells to be predicted need not have; the registry keeps the first time and the number of steps."""

    def __init__(self, registry_key: str, attr_key: str, time_step: float) -> None:
        super().__init__(registry_key, attr_key)
        self.time_step = time_step

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Note the first time and the number of steps."""
        self.validate_field(adata)
        times = read_times(adata.obs[self.attr_key])
        return {"first": float(times.min()), "n_steps": count_steps(times, str(self.attr_key), self.time_step)}


def read_times(column: pd.Series) -> np.ndarray:
    """Times of cells, float64 (n,).

    Raises
    ------
    TypeError
        If they are not numbers.
    ValueError
        If there are none, or some are missing or infinite.
    """
    slot, name = f".obs[{column.name!r}]", column.name
    if column.dtype == bool:
        values = None
    else:
        try:
            values = column.astype(np.float64).to_numpy()
        except (TypeError, ValueError):
            values = None
    if values is None:
        msg = (
            f"Times in {slot} are {column.dtype}, such as {column.iloc[0]!r}, and must be numbers. Make a column of them, such as "
            f"`adata.obs['time'] = adata.obs[{name!r}].astype(str).str.extract(r'(\\d+)')[0].astype(float)`."
        )
        raise TypeError(msg)
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad or not len(values):
        msg = f"{n_bad} of {len(values)} cells have no finite time in {slot}. Remove them: `adata = adata[np.isfinite(adata.obs[{name!r}])].copy()`."
        raise ValueError(msg)
    return values


def to_steps(times: np.ndarray, first: float, time_step: float) -> np.ndarray:
    """Times as whole numbers of steps after the first, int64 (n,)."""
    return np.rint((times - first) / time_step).astype(np.int64)


def count_steps(times: np.ndarray, name: str, time_step: float) -> int:
    """Steps from the first time to the last.

    Raises
    ------
    ValueError
        If there is none, or too many.
    """
    n_steps = int(np.rint((times.max() - times.min()) / time_step))
    if n_steps == 0:
        msg = f"All times in .obs[{name!r}] are within one step ({times.min():g} to {times.max():g}, time_step={time_step:g}). Use cells of several times, or a smaller time_step=."
        raise ValueError(msg)
    if n_steps > MOST_STEPS:
        msg = f"Times in .obs[{name!r}] span {n_steps:,} steps of time_step={time_step:g}, more than {MOST_STEPS:,}. Use a larger time_step=."
        raise ValueError(msg)
    return n_steps


def read_groups(columns: Sequence[pd.Series], n_obs: int) -> pd.Series:
    """The group of each cell, by the values of all columns, as text.

    Raises
    ------
    ValueError
        If values are missing.
    """
    names = pd.Series([""] * n_obs, dtype=object)
    for column in columns:
        if column.isna().any():
            msg = f"{int(column.isna().sum())} cells have no value in .obs[{column.name!r}]. Remove them: `adata = adata[adata.obs[{column.name!r}].notna()].copy()`."
            raise ValueError(msg)
        texts = column.astype(str).reset_index(drop=True).astype(object)
        names = texts if names.eq("").all() else names + ", " + texts
    return names


def check_groups(steps: np.ndarray, names: pd.Series, n_times: int, keys: Sequence[str], time_key: str) -> None:
    """Raise if a group has cells of too few times for a trajectory.

    Raises
    ------
    ValueError
        If so.
    """
    table = pd.DataFrame({"step": steps, "group": names.to_numpy()}).drop_duplicates()
    counts = table.groupby("group")["step"].size()
    lacking = counts[counts < n_times]
    if not len(lacking):
        return
    cure = "Use cells of more times."
    if keys:
        cure = f"Remove the cells of these groups, or name fewer columns by group_keys= (now {list(keys)})."
    where = f"Groups with cells of fewer than {n_times} times: {few(list(lacking.index))}" if keys else "All cells"
    msg = f"{where}: a trajectory begins with cells of {n_times} different times in .obs[{time_key!r}]. {cure}"
    raise ValueError(msg)
