"""The cells of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ._items import SETS, TrainingItems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from scgeneformer.model._cell_classifier import CellClassifier
    from scgeneformer.model.data._cell_labels import CellTask


@dataclass(frozen=True, eq=False)
class TrainingCells(TrainingItems):
    """Cells with labels.

    Attributes
    ----------
    samples
        (n_obs,), or None.
    """

    model: CellClassifier
    samples: np.ndarray | None

    what: ClassVar[str] = "cells"
    plain: ClassVar[dict[str, Any]] = {
        "max_epochs": 10,
        "learning_rate": 2e-4,
        "keep_best": "validation_loss",
        "batch_size": None,
    }
    least: ClassVar[tuple[int, int]] = (50, 3)

    @property
    def tasks(self) -> Sequence[CellTask]:
        """The columns of labels."""
        return self.model.tasks

    @property
    def task_weights(self) -> Mapping[str, float]:
        """Weight of each column in the loss."""
        return self.model.module.task_weights

    @property
    def class_weights(self) -> Mapping[str, Tensor]:
        """Weight of each class in the loss."""
        return self.model.module.class_weights

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The cells of each set."""
        return {name: getattr(self.split, name) for name in SETS}

    def with_states(self, name: str) -> np.ndarray:
        """Cells of a set that have tokens."""
        cells: np.ndarray = getattr(self.split, name)
        return cells[self.lengths[cells] > 0]

    def states(self, items: np.ndarray) -> np.ndarray:
        """Their pooled states."""
        return self.model._classify(self.tokens[items]).states

    def scores(self, items: np.ndarray) -> np.ndarray:
        """Scores of all columns."""
        return self.model._classify(self.tokens[items]).scores

    def groups(self, items: np.ndarray) -> np.ndarray | None:
        """Their samples."""
        return None if self.samples is None else self.samples[items]
