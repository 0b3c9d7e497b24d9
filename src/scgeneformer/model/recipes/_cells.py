"""The cells of a training, as every recipe takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scgeneformer.model.data._rows import TokenRows
from scgeneformer.model.training._train import loader_options, run_training

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from scgeneformer import evaluation
    from scgeneformer.model._cell_classifier import CellClassifier
    from scgeneformer.model.objectives._cells import CellLabels

SETS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class TrainingCells:
    """Cells with their tokens, labels, samples and sets.

    Attributes
    ----------
    tokens, lengths
        (n_obs, L) and (n_obs,).
    labels
        (n_obs, tasks).
    samples
        (n_obs,), or None.
    split
        Cells of each set.
    objective
        What is trained for.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    samples: np.ndarray | None
    split: evaluation.Split
    objective: CellLabels

    def with_tokens(self, name: str) -> np.ndarray:
        """Cells of a set, without those that have no tokens."""
        cells = getattr(self.split, name)
        return cells[self.lengths[cells] > 0]

    def batches(self, options: Mapping[str, Any]) -> TokenRows:
        """Their batches."""
        sets = {name: getattr(self.split, name) for name in SETS}
        return TokenRows(
            self.tokens, self.lengths, sets=sets, targets=self.objective.targets, **loader_options(options)
        )

    def train(self, model: CellClassifier, max_epochs: int, options: Mapping[str, Any]) -> None:
        """One run."""
        run_training(model, self.objective, self.batches(options), max_epochs=max_epochs, options=options)
