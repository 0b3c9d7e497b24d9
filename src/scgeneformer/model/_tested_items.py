"""What cells and genes are to a cross-validation: folds, features of baselines, predictions, scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _log as logg
from scgeneformer import engine, evaluation
from scgeneformer._settings import engine_options
from scgeneformer.tokens import token_of

from ._baselines import (
    cell_embedding,
    column_features,
    expression_components,
    expression_features,
    gene_embedding,
    profile_features,
)
from .data._gene_labels import few, most_probable
from .data._splits import Sizes, choose_folds, choose_split
from .recipes._genes import StatesOfGenes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scgeneformer import nn

    from ._cell_classifier import CellClassifier
    from ._gene_classifier import GeneClassifier
    from .data._cell_labels import CellTask

CELL_BASELINES = {"expression": "expression", "probe": "linear probe"}
GENE_BASELINES = {"expression": "expression level", "profiles": "expression profile", "probe": "linear probe"}


class TestedItems(ABC):
    """Cells or genes, each of which is tested in one fold.

    Attributes
    ----------
    fold
        Fold in which each is tested, -1 if it is not, (n,).
    columns
        Names of the columns of predictions.
    """

    fold: np.ndarray
    columns: list[str]

    @property
    def shape(self) -> tuple[int, int]:
        """That of predictions."""
        return len(self.fold), len(self.columns)

    def predicted(self, trained: Iterable[tuple[Any, np.ndarray]]) -> Iterator[np.ndarray]:
        """Predictions of the items of each fold, by the model that was trained for it, (n_items, columns)."""
        return (self.predict(model, test) for model, test in trained)

    @abstractmethod
    def predict(self, trained: Any, test: np.ndarray) -> np.ndarray:
        """Predictions of some items by one model."""

    def of_fold(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Items that a fold tests, and those that other folds test."""
        return np.flatnonzero(self.fold == number), np.flatnonzero((self.fold >= 0) & (self.fold != number))


class TestedCells(TestedItems):
    """Labelled cells, by one of the tasks of a classifier."""

    unscaled = frozenset({"expression"})  # whose last components are mostly noise

    def __init__(self, model: CellClassifier, task: CellTask, validation_size: float, rng: int, n_folds: int) -> None:
        self.model, self.task, self.validation_size, self.rng = model, task, validation_size, rng
        self.labels, self.samples = model.labels(), model.samples()
        self.fold = choose_folds(model.tasks, self.labels, n_folds, samples=self.samples, rng=rng)
        self.truth = self.labels[:, model.tasks.index(task)].astype(np.float64)
        self.columns = list(task.classes) or [task.name]

    @property
    def scored(self) -> np.ndarray:
        """Indices of the tested cells that have a label of the task."""
        return np.flatnonzero((self.fold >= 0) & ~np.isnan(self.truth))

    def n_rarest(self) -> int | None:
        """Size of the smallest class among them; None for numbers."""
        if self.task.kind == "continuous":
            return None
        return int(np.unique(self.truth[self.scored], return_counts=True)[1].min())

    def features(self, name: str) -> np.ndarray:
        tokens_key = self.model.registry["setup_args"]["tokens_key"]
        if name == "probe":
            tokens, _ = self.model._training_tokens()
            return cell_embedding(self.model.start_encoder(), tokens, self.model.vocabulary)
        return expression_components(self.model._cells(), tokens_key, self.rng)

    def split(self, rest: np.ndarray, test: np.ndarray) -> evaluation.Split:
        """Train on the other cells, except for a fraction that validates."""
        if self.validation_size == 0:
            return evaluation.Split(rest, rest[:0], test)
        inner = choose_split(
            self.model._cells(),
            self.model.tasks,
            self.labels,
            None,
            samples=self.samples,
            balance=None,
            rng=self.rng,
            among=rest,
            train_size=1 - self.validation_size,
            validation_size=self.validation_size,
            test_size=0.0,
        )
        return evaluation.Split(inner.train, inner.validation, test)

    def predict(self, trained: CellClassifier, test: np.ndarray) -> np.ndarray:
        predictions = trained.predict(indices=test, task=self.task.name, soft=self.task.kind != "continuous")
        return np.asarray(predictions, dtype=np.float64).reshape(len(test), -1)

    def linear(self, features: np.ndarray, train: np.ndarray, test: np.ndarray, *, scaled: bool) -> np.ndarray:
        train = train[~np.isnan(self.truth[train])]
        labels = self.truth[train]
        if self.task.kind == "continuous":
            values = evaluation.ridge(features[train], labels, features[test], scaled=scaled)
            return (np.asarray(values) * self.task.sd + self.task.mean).reshape(-1, 1)
        groups = None if self.samples is None else self.samples[train]
        codes, n_classes = labels.astype(np.int64), len(self.columns)
        return evaluation.logistic(
            features[train], codes, features[test], n_classes=n_classes, groups=groups, scaled=scaled, rng=self.rng
        )

    def score(self, cells: np.ndarray, predictions: np.ndarray) -> pd.Series:
        scored = cells[~np.isnan(self.truth[cells]) & ~np.isnan(predictions[cells, 0])]
        truth, predictions = self.truth[scored], predictions[scored]
        if self.task.kind == "continuous":
            return evaluation.regression(truth * self.task.sd + self.task.mean, predictions[:, 0])
        return evaluation.classification(truth.astype(np.int64), predictions, self.task.classes).scores

    def table(self, predictions: np.ndarray, folds: list[np.ndarray]) -> pd.DataFrame:
        continuous = self.task.kind == "continuous"
        predicted = predictions[:, 0] if continuous else most_probable(predictions, self.columns)
        return pd.DataFrame(_named(folds) | {"predicted": predicted}, index=self.model._cells().obs_names)


class TestedGenes(TestedItems):
    """Classified genes."""

    unscaled: frozenset[str] = frozenset()
    samples = None

    def __init__(self, model: GeneClassifier, validation_size: float, rng: int, n_folds: int) -> None:
        self.model, self.validation_size, self.rng = model, validation_size, rng
        self.genes, self.columns = model._classes, list(model._classes.names)
        self.tokens, _ = model._training_tokens()
        self.counts = model._cells_and_counts(self.tokens, None, rng)[1]
        self.occurs = self.counts[self.genes.tokens] > 0
        codes = np.where(self.occurs, self.genes.codes, -1)
        self.fold = evaluation.folds(codes, n_folds, classes=self.genes.names, rng=rng)
        self.occurrence_scores: list[pd.Series] = []
        self.states = StatesOfGenes()

    @property
    def scored(self) -> np.ndarray:
        """Numbers of the tested genes."""
        return np.flatnonzero(self.fold >= 0)

    def n_rarest(self) -> int:
        """Size of the smallest class among them."""
        return int(np.unique(self.genes.codes[self.scored], return_counts=True)[1].min())

    def features(self, name: str) -> np.ndarray:
        model, genes = self.model, self.genes.tokens[self.occurs]
        if name == "probe":
            values = gene_embedding(model.start_encoder(), self.tokens, genes, model.vocabulary)
        elif name == "expression":
            values = expression_features(self.tokens, genes, model.vocabulary)
        elif name == "profiles":
            values = profile_features(model._cells(), genes, model._tokens_key, model.vocabulary, self.rng)
        else:
            values = column_features(model._cells(), name, genes, model._tokens_key, model.vocabulary)
        features = np.full((len(self.occurs), values.shape[1]), np.nan)
        features[self.occurs] = values
        return features

    def split(self, rest: np.ndarray, test: np.ndarray) -> evaluation.Split:
        """Train on the other genes, except for a fraction that validates."""
        if self.validation_size == 0:
            return evaluation.Split(rest, rest[:0], test)
        sizes: Sizes = {
            "train_size": 1 - self.validation_size,
            "validation_size": self.validation_size,
            "test_size": 0.0,
        }
        inner = evaluation.split(self.genes.codes[rest], classes=self.genes.names, rng=self.rng, **sizes)
        return evaluation.Split(rest[inner.train], rest[inner.validation], test)

    def prepare(self, model: GeneClassifier) -> None:
        """Frozen encoders are the same in all folds, and so are the states of genes."""
        if model.module.frozen:
            model._known_states = self.states

    def predicted(self, trained: Iterable[tuple[GeneClassifier, np.ndarray]]) -> Iterator[np.ndarray]:
        """Predictions of each fold; of frozen encoders by one pass for all."""
        if not self.model.module.frozen:
            yield from super().predicted(trained)
            return
        networks: list[nn.GeneClassifier] = []
        tests, temperatures = [], []
        for model, test in trained:
            network = model.module.network
            network.encoder = networks[0].encoder if networks else network.encoder  # one copy is enough
            networks.append(network)
            tests.append(test)
            temperatures.append(model.temperature_)
        scores = engine.classify_genes_together(
            networks,
            self.tokens,
            wanted=[self.genes.wanted(len(self.counts), test) for test in tests],
            temperatures=temperatures,
            occurrences=True,
            **engine_options(),
        )
        yield from map(self._judged, scores, tests)

    def predict(self, trained: GeneClassifier, test: np.ndarray) -> np.ndarray:
        tokens = self.genes.tokens[test]
        return self._judged(trained.score_tokens(self.tokens, tokens, occurrences=True), test)

    def _judged(self, scores: engine.GeneScores, test: np.ndarray) -> np.ndarray:
        """Probabilities of these genes; the scores of their occurrences are noted."""
        truth = self.genes.code_of_token(len(self.counts), test)[token_of(self.tokens)[scores.rows, scores.positions]]
        report = evaluation.classification(truth, scores.occurrences, self.genes.names)
        self.occurrence_scores.append(report.scores)
        return scores.proba[self.genes.tokens[test]]

    def linear(self, features: np.ndarray, train: np.ndarray, test: np.ndarray, *, scaled: bool) -> np.ndarray:
        codes, n_classes = self.genes.codes[train], len(self.columns)
        return evaluation.logistic(
            features[train], codes, features[test], n_classes=n_classes, scaled=scaled, rng=self.rng
        )

    def score(self, genes: np.ndarray, predictions: np.ndarray) -> pd.Series:
        return evaluation.classification(self.genes.codes[genes], predictions[genes], self.genes.names).scores

    def table(self, predictions: np.ndarray, folds: list[np.ndarray]) -> pd.DataFrame:
        table = self.model.genes.assign(**_named(folds), n_cells=self.counts[self.genes.tokens])
        table["predicted"] = most_probable(predictions, self.columns)
        if not self.occurs.all():
            absent = table.index[~self.occurs]
            logg.warning(f"{len(absent)} of {len(table)} genes occur in no cell and are not tested: {few(absent)}")
        return table


def _named(folds: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of the folds of each repeat."""
    return {"fold" if len(folds) == 1 else f"fold_{i}": fold for i, fold in enumerate(folds)}
