"""The pairs of genes of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scgeneformer.model.data._cell_labels import CellTask

from ._items import SETS, TrainingItems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from scgeneformer.model.pairs._pair_encoder import PairEncoder


@dataclass(frozen=True, eq=False)
class TrainingPairs(TrainingItems):
    """Pairs of genes, each read from the cells in which both genes occur.

    Attributes
    ----------
    pairs
        int64 (n_items, 2), tokens of genes. Both genes of each occur in some cell.
    cells
        Rows of tokens in which both genes of a training pair occur.
    """

    model: PairEncoder  # type: ignore[assignment]  # no model of scvi-tools, but all that a training asks of one
    pairs: np.ndarray
    cells: np.ndarray

    what: ClassVar[str] = "pairs"
    least: ClassVar[tuple[int, int]] = (50, 10)

    @property
    def tasks(self) -> Sequence[CellTask]:
        """The classes of pairs, as those of a column."""
        return [CellTask("class", "categorical", self.model.classes)]

    @property
    def task_weights(self) -> Mapping[str, float]:
        """There is one column."""
        return {"class": 1.0}

    @property
    def class_weights(self) -> Mapping[str, Tensor]:
        """None: each pair counts once."""
        return {}

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The cells to train on; none are read to validate on the way."""
        return dict.fromkeys(SETS, np.arange(0)) | {"train": self.cells}

    def with_states(self, name: str) -> np.ndarray:
        """Pairs of a set."""
        pairs: np.ndarray = getattr(self.split, name)
        return pairs

    def states(self, items: np.ndarray) -> np.ndarray:
        """Their mean features."""
        return self.model.features(self.tokens, self.pairs[items])

    def scores(self, items: np.ndarray) -> np.ndarray:
        """Their mean scores."""
        return self.model.scores_of(self.states(items))
