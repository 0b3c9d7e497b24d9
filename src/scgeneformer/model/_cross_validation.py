"""Cross-validation of classifiers: every cell or gene is predicted by a model that was not trained on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgeneformer import evaluation

from ._baselines import cell_embedding, expression_components, expression_features, gene_embedding, profile_features
from .data._gene_labels import few, most_probable
from .data._splits import Sizes, choose_folds, choose_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scgeneformer.tokens import Vocabulary

    from ._cell_classifier import CellClassifier
    from ._gene_classifier import GeneClassifier
    from .data._cell_labels import CellTask

FINE_TUNED = "fine-tuned"
CELL_BASELINES = {"probe": "linear probe", "expression": "expression"}
GENE_BASELINES = {"probe": "linear probe", "expression": "expression level", "profiles": "expression profile"}
_SET_BY_FOLDS = {"split", "train_size", "test_size", "ckpt_path"}


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Out-of-fold predictions of cells or of genes, their scores, and those of linear baselines on the same folds.

    Attributes
    ----------
    table
        One row per cell of the data, or per classified gene: the ``fold`` in which it was tested, -1 if it was not (cells without a label,
        genes in no cell), ``predicted`` and, for genes, ``symbol``, ``class`` and ``n_cells``.
    predictions
        Probabilities of classes, or values of a continuous label, from the model that was not trained on the cell or gene; float64, NaN
        if it was not tested. Those of a gene are means over the cells in which it occurs.
    baselines
        Predictions of the linear models, by their names.
    scores
        Scores by model and fold: the columns of :attr:`scgeneformer.evaluation.Report.scores`, or of
        :func:`scgeneformer.evaluation.regression`.
    vocabulary
        Vocabulary of the model.
    params
        Model, vocabulary, folds and arguments of ``train``.
    per_occurrence
        Scores by fold that count each gene once for every cell in which it occurs, as the official tool does; None for cells. They cannot be
        compared with scores of genes, because genes that many cells express dominate them.

    Examples
    --------
    `model` is a :class:`CellClassifier` of disease states.

    >>> cv = model.cross_validate(2, max_epochs=1)
    >>> list(cv.table), cv.classes
    (['fold', 'predicted'], ('dcm', 'nf'))
    >>> cv.scores.index.names
    FrozenList(['model', 'fold'])
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    scores: pd.DataFrame
    vocabulary: Vocabulary = field(repr=False)
    params: dict[str, Any]
    per_occurrence: pd.DataFrame | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or the name of the continuous label."""
        return tuple(self.predictions)

    @property
    def not_tested(self) -> list[str]:
        """Names of the cells, or ids of the genes, that were not tested."""
        return self.table.index[self.table["fold"] < 0].tolist()

    @property
    def summary(self) -> pd.DataFrame:
        """Mean of each score over folds and, as ``<score>_sd``, its standard deviation; all folds have the same weight."""
        folds = dict(list(self.scores.groupby(level=0, sort=False)))
        if self.per_occurrence is not None:
            folds[f"{FINE_TUNED}, per occurrence"] = self.per_occurrence
        rows = {}
        for name, scores in folds.items():
            mean, sd = scores.mean(), scores.std(ddof=1)
            rows[name] = {key: value for s in scores for key, value in ((s, mean[s]), (f"{s}_sd", sd[s]))}
        return pd.DataFrame(rows).T


class _Cells:
    """Cross-validation of cells: folds, features of baselines, predictions and scores."""

    unscaled = frozenset({"expression"})  # whose last components are mostly noise

    def __init__(self, model: CellClassifier, task: CellTask, validation_size: float, rng: int, n_folds: int) -> None:
        self.model, self.task, self.validation_size, self.rng = model, task, validation_size, rng
        self.labels, self.samples = model.labels(), model.samples()
        self.fold = choose_folds(model.tasks, self.labels, n_folds, samples=self.samples, rng=rng)
        self.truth = self.labels[:, model.tasks.index(task)].astype(np.float64)
        self.columns = list(task.classes) or [task.name]

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

    def score(self, rows: np.ndarray, predictions: np.ndarray) -> pd.Series:
        scored = rows & ~np.isnan(self.truth) & ~np.isnan(predictions[:, 0])
        truth, predictions = self.truth[scored], predictions[scored]
        if self.task.kind == "continuous":
            return evaluation.regression(truth * self.task.sd + self.task.mean, predictions[:, 0])
        return evaluation.classification(truth.astype(np.int64), predictions, self.task.classes).scores

    def table(self, predictions: np.ndarray) -> pd.DataFrame:
        continuous = self.task.kind == "continuous"
        predicted = predictions[:, 0] if continuous else most_probable(predictions, self.columns)
        return pd.DataFrame({"fold": self.fold, "predicted": predicted}, index=self.model._cells().obs_names)


class _Genes:
    """Cross-validation of genes: folds, features of baselines, predictions and scores."""

    unscaled: frozenset[str] = frozenset()

    def __init__(self, model: GeneClassifier, validation_size: float, rng: int, n_folds: int) -> None:
        self.model, self.validation_size, self.rng = model, validation_size, rng
        self.genes, self.columns = model._classes, list(model._classes.names)
        self.tokens, _ = model._training_tokens()
        self.counts = model._cells_and_counts(self.tokens, None, rng)[1]
        self.occurs = self.counts[self.genes.tokens] > 0
        codes = np.where(self.occurs, self.genes.codes, -1)
        self.fold = evaluation.folds(codes, n_folds, classes=self.genes.names, rng=rng)
        self.occurrence_scores: list[pd.Series] = []

    def features(self, name: str) -> np.ndarray:
        model, genes = self.model, self.genes.tokens[self.occurs]
        if name == "probe":
            values = gene_embedding(model.start_encoder(), self.tokens, genes, model.vocabulary)
        elif name == "expression":
            values = expression_features(self.tokens, genes, model.vocabulary)
        else:
            values = profile_features(model._cells(), genes, model._tokens_key, model.vocabulary, self.rng)
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

    def predict(self, trained: GeneClassifier, test: np.ndarray) -> np.ndarray:
        tokens = self.genes.tokens[test]
        scores = trained.score_tokens(self.tokens, tokens, occurrences=True)
        truth = self.genes.code_of_token(len(self.counts), test)[self.tokens[scores.rows, scores.positions]]
        report = evaluation.classification(truth, scores.occurrences, self.genes.names)
        self.occurrence_scores.append(report.scores)
        return scores.proba[tokens]

    def linear(self, features: np.ndarray, train: np.ndarray, test: np.ndarray, *, scaled: bool) -> np.ndarray:
        codes, n_classes = self.genes.codes[train], len(self.columns)
        return evaluation.logistic(
            features[train], codes, features[test], n_classes=n_classes, scaled=scaled, rng=self.rng
        )

    def score(self, rows: np.ndarray, predictions: np.ndarray) -> pd.Series:
        return evaluation.classification(self.genes.codes[rows], predictions[rows], self.genes.names).scores

    def table(self, predictions: np.ndarray) -> pd.DataFrame:
        table = self.model.genes
        table["fold"], table["n_cells"] = self.fold, self.counts[self.genes.tokens]
        table["predicted"] = most_probable(predictions, self.columns)
        if not self.occurs.all():
            from scanpy import logging as logg

            absent = table.index[~self.occurs]
            logg.warning(f"{len(absent)} of {len(table)} genes occur in no cell and are not tested: {few(absent)}")
        return table


def cross_validate_cells(
    model: CellClassifier,
    task: str | None,
    baselines: Sequence[str],
    *,
    n_folds: int,
    validation_size: float,
    rng: int,
    train_kwargs: Mapping[str, Any],
) -> CrossValidation:
    """Cross-validation of a classifier of cells, by one of its tasks; see its method for the parameters."""
    _check(baselines, CELL_BASELINES, train_kwargs)
    items = _Cells(model, model.task(task), validation_size, rng, n_folds)
    return _cross_validate(model, items, {CELL_BASELINES[name]: name for name in baselines}, n_folds, rng, train_kwargs)


def cross_validate_genes(
    model: GeneClassifier,
    baselines: Sequence[str],
    *,
    n_folds: int,
    validation_size: float,
    rng: int,
    train_kwargs: Mapping[str, Any],
) -> CrossValidation:
    """Cross-validation of a classifier of genes; see its method for the parameters."""
    _check(baselines, GENE_BASELINES, train_kwargs)
    items = _Genes(model, validation_size, rng, n_folds)
    return _cross_validate(model, items, {GENE_BASELINES[name]: name for name in baselines}, n_folds, rng, train_kwargs)


def _check(baselines: Sequence[str], available: Mapping[str, str], train_kwargs: Mapping[str, Any]) -> None:
    unknown = sorted(set(baselines) - set(available))
    if unknown:
        msg = f"baselines={tuple(baselines)} has {unknown}, which are none of {tuple(available)}."
        raise ValueError(msg)
    fixed = sorted(_SET_BY_FOLDS & set(train_kwargs))
    if fixed:
        msg = (
            f"{fixed} have no meaning in a cross-validation, in which folds decide what is trained on. Leave them out."
        )
        raise ValueError(msg)


def _cross_validate(
    model: CellClassifier | GeneClassifier,
    items: _Cells | _Genes,
    baselines: Mapping[str, str],
    n_folds: int,
    rng: int,
    train_kwargs: Mapping[str, Any],
) -> CrossValidation:
    features = {name: items.features(baseline) for name, baseline in baselines.items()}
    fold, shape = items.fold, (len(items.fold), len(items.columns))
    predictions = {name: np.full(shape, np.nan) for name in (FINE_TUNED, *features)}
    for number in range(n_folds):
        test, rest = np.flatnonzero(fold == number), np.flatnonzero((fold >= 0) & (fold != number))
        trained = _trained(model, number, items.split(rest, test), rng, train_kwargs)
        predictions[FINE_TUNED][test] = items.predict(trained, test)
        for name, values in features.items():
            finite = np.isfinite(values).all(1)  # not cells without tokens
            tested = test[finite[test]]
            predictions[name][tested] = items.linear(
                values, rest[finite[rest]], tested, scaled=baselines[name] not in items.unscaled
            )
    numbers = range(n_folds)
    scores = {(name, k): items.score(fold == k, values) for name, values in predictions.items() for k in numbers}
    table = items.table(predictions[FINE_TUNED])
    frames = {n: pd.DataFrame(v, index=table.index, columns=items.columns) for n, v in predictions.items()}
    per_occurrence = None
    if isinstance(items, _Genes):
        per_occurrence = pd.DataFrame(items.occurrence_scores).reset_index(drop=True).rename_axis("fold")
    plain = {name: value for name, value in train_kwargs.items() if isinstance(value, str | int | float | bool)}
    return CrossValidation(
        table,
        frames.pop(FINE_TUNED),
        frames,
        pd.DataFrame(scores).T.rename_axis(["model", "fold"]),
        model.vocabulary,
        {
            "vocabulary_hash": model.vocabulary.hash,
            "vocabulary": model.vocabulary.name,
            "model": model.start_ or "a model in memory",
            "n_folds": n_folds,
            "rng": rng,
            "train": plain,
        },
        per_occurrence,
    )


def _trained(
    model: CellClassifier | GeneClassifier,
    number: int,
    split: evaluation.Split,
    rng: int,
    train_kwargs: Mapping[str, Any],
) -> Any:
    """An untrained copy of the model, trained for one fold."""
    if train_kwargs.get("checkpoints") is not None:
        train_kwargs = {**train_kwargs, "checkpoints": Path(train_kwargs["checkpoints"]) / f"fold{number}"}
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.default_rng([rng, number]).integers(2**31)))
        twin = model.untrained()
        twin.train(split=split, rng=rng, **train_kwargs)
    return twin
