"""What recipes train on: cells or genes, their sets and labels, and the model that learns them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from scgeneformer.model.data._rows import TokenRows
from scgeneformer.model.training._train import loader_options, run_training

from ._selection import Judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from scgeneformer import evaluation
    from scgeneformer.model._classifier import Classifier
    from scgeneformer.model.data._cell_labels import CellTask
    from scgeneformer.model.objectives._objective import Objective

SETS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class TrainingItems(ABC):
    """Cells or genes with a label each, and the cells whose tokens they are read from.

    Attributes
    ----------
    model
        What is trained.
    tokens, lengths
        Of the cells, (n_obs, L) and (n_obs,).
    labels
        (n_items, tasks), NaN where missing.
    split
        Numbers of the items of each set.
    objective
        What is trained for.
    what
        Name of the items.
    plain
        Options of a plain run.
    least
        Minimum number of validation items for a comparison, and of those of a class that takes part in it.
    """

    model: Classifier
    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    split: evaluation.Split
    objective: Objective

    what: ClassVar[str]
    plain: ClassVar[dict[str, Any]]
    least: ClassVar[tuple[int, int]]

    @property
    @abstractmethod
    def tasks(self) -> Sequence[CellTask]:
        """The columns of labels."""

    @property
    @abstractmethod
    def task_weights(self) -> Mapping[str, float]:
        """Weight of each column."""

    @property
    @abstractmethod
    def class_weights(self) -> Mapping[str, Tensor]:
        """Weight of each class by column, for those that have weights."""

    @property
    @abstractmethod
    def rows(self) -> dict[str, np.ndarray]:
        """Cells to read in training and validation."""

    @abstractmethod
    def with_states(self, name: str) -> np.ndarray:
        """Items of a set, without those that no token stands for."""

    @abstractmethod
    def states(self, items: np.ndarray) -> np.ndarray:
        """What the head of the model makes their scores from, float32 (n, H)."""

    @abstractmethod
    def scores(self, items: np.ndarray) -> np.ndarray:
        """What the model predicts for them, (n, outputs)."""

    def groups(self, items: np.ndarray) -> np.ndarray | None:
        """What keeps some of them together, such as donors."""
        return None

    def references(self, rng: int) -> dict[str, np.ndarray]:
        """Scores of the validation items by models of other features, reported beside those of the classifiers."""
        return {}

    def judge(self) -> Judge:
        """What compares classifiers on the validation items."""
        return Judge(self.tasks, self.labels[self.with_states("validation")], self.task_weights, self.least)

    def longest(self) -> int:
        """Number of tokens of the longest cell to train on."""
        return int(self.lengths[self.rows["train"]].max())

    def batches(self, options: Mapping[str, Any]) -> TokenRows:
        """Their batches."""
        targets = self.objective.targets
        return TokenRows(self.tokens, self.lengths, sets=self.rows, targets=targets, **loader_options(options))

    def train(self, max_epochs: int, options: Mapping[str, Any], *, stream: int = 0) -> None:
        """One run."""
        batches = self.batches(options)
        run_training(self.model, self.objective, batches, max_epochs=max_epochs, options=options, stream=stream)
