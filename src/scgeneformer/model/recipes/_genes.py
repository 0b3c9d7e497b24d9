"""The genes of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scgeneformer import evaluation
from scgeneformer.model._baselines import expression_features
from scgeneformer.model.data._cell_labels import CellTask
from scgeneformer.model.objectives._cells import class_weights_of

from ._items import TrainingItems
from ._probe import fit_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from scgeneformer import engine
    from scgeneformer.model._gene_classifier import GeneClassifier

EXPRESSION = "expression level"


class StatesOfGenes:
    """Mean states of genes that several trainings with one frozen encoder share, by the cells that they are read from."""

    def __init__(self) -> None:
        self._states: dict[bytes, np.ndarray] = {}

    def of(self, cells: np.ndarray, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Those in these cells, (n_genes, H), which `read` makes the first time."""
        key = cells.tobytes()
        if key not in self._states:
            self._states[key] = read()
        return self._states[key]


@dataclass(frozen=True, eq=False)
class TrainingGenes(TrainingItems):
    """Classified genes, each read from the cells in which it occurs.

    Attributes
    ----------
    cells
        Rows of tokens that may be read.
    with_genes
        Those of them in which genes of each set occur.
    counts
        In how many of them each token occurs, (V,).
    given_weights
        Weight of each class in the loss, ``"balanced"`` or None.
    """

    model: GeneClassifier
    cells: np.ndarray
    with_genes: dict[str, np.ndarray]
    counts: np.ndarray
    given_weights: Any

    what: ClassVar[str] = "genes"
    plain: ClassVar[dict[str, Any]] = {"max_epochs": 1, "learning_rate": 2e-4, "keep_best": None, "batch_size": None}
    least: ClassVar[tuple[int, int]] = (20, 5)

    @property
    def tasks(self) -> Sequence[CellTask]:
        """The classes of genes, as those of a column."""
        return [CellTask("class", "categorical", self.model._classes.names)]

    @property
    def task_weights(self) -> Mapping[str, float]:
        """There is one column."""
        return {"class": 1.0}

    @property
    def class_weights(self) -> Mapping[str, Tensor]:
        """Weight of each class among genes, each of which counts once."""
        given = dict(self.given_weights) if isinstance(self.given_weights, Mapping) else self.given_weights
        return class_weights_of(self.tasks, self.labels[self.with_states("train")], given)

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The cells in which genes of each set occur."""
        return self.with_genes

    def with_states(self, name: str) -> np.ndarray:
        """Genes of a set that occur in the cells."""
        genes: np.ndarray = getattr(self.split, name)
        return genes[self.counts[self.model._classes.tokens[genes]] > 0]

    def states(self, items: np.ndarray) -> np.ndarray:
        """Their mean states."""
        known = self.model._known_states
        if known is None:
            return self._states_of(items)
        return known.of(self.cells, lambda: self._states_of(np.arange(len(self.labels))))[items]

    def _states_of(self, items: np.ndarray) -> np.ndarray:
        return self._read(items, states=True).states[self.model._classes.tokens[items]].astype(np.float32)

    def scores(self, items: np.ndarray) -> np.ndarray:
        """Their mean scores."""
        return self._read(items).means[self.model._classes.tokens[items]]

    def references(self, rng: int) -> dict[str, np.ndarray]:
        """Scores by what is known of genes without a model."""
        training, held_out = self.with_states("train"), self.with_states("validation")
        genes = self.model._classes.tokens[np.concatenate([training, held_out])]
        features = expression_features(self.tokens[self.cells], genes, self.model.vocabulary)
        of_training, of_held_out = np.split(features, [len(training)])
        options: dict[str, Any] = {"groups": None, "class_weights": self.class_weights, "rng": rng}
        return {EXPRESSION: fit_probe(self.tasks, of_training, self.labels[training], **options)(of_held_out)}

    def temperature(self) -> float:
        """That of the mean scores of the validation genes; 1 if these are too few, or if scores are not what is averaged."""
        if self.model.module.network.head != "linear" or self.judge().too_few():
            return 1.0
        held_out = self.with_states("validation")
        return evaluation.temperature(self.scores(held_out), self.labels[held_out, 0].astype(np.int64))

    def _read(self, genes: np.ndarray, **options: Any) -> engine.GeneScores:
        return self.model._classify(self.tokens[self.cells], self.model._classes.tokens[genes], **options)
