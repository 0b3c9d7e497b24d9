"""Metrics of a run as DataFrames."""

from __future__ import annotations

from typing import Any

import pandas as pd
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class History(Logger):
    """Keeps every logged value in memory, as a list per metric.

    scvi-tools' own logger indexes by epoch, so that values within one epoch overwrite each other, and grows a DataFrame by rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, dict[int, float]] = {}

    @property
    def name(self) -> str:
        """Name of this logger."""
        return "scgeneformer"

    @property
    def version(self) -> int:
        """There is only one."""
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are saved with the model, not here."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep `metrics` of one step."""
        for name, value in metrics.items():
            if name != "epoch":
                self._values.setdefault(name, {})[int(step or 0)] = float(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything logged so far, for a checkpoint."""
        return {name: dict(values) for name, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._values = {name: dict(values) for name, values in state.items()}

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """One DataFrame per metric, with the number of optimizer steps as index and the metric as the only column."""
        return {
            name: pd.DataFrame({name: values.values()}, index=pd.Index(list(values), name="step"), dtype=float)
            for name, values in self._values.items()
        }


def joined(before: dict[str, pd.DataFrame] | None, new: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Histories of two runs of one model, the steps of the second counted on from the first."""
    if not before:
        return new
    offset = max(int(frame.index.max()) + 1 for frame in before.values())
    moved = {name: frame.set_axis(frame.index + offset) for name, frame in new.items()}
    return {
        name: pd.concat([frames[name] for frames in (before, moved) if name in frames]).rename_axis("step")
        for name in {**before, **moved}
    }
