"""Cross-validation of classifiers of genes: every gene judged by a model that was not told its class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgeneformer import engine, evaluation

from ._gene_baselines import embedding_features, expression_features, profile_features
from ._gene_prediction import predicted
from ._representation import settled
from .data._gene_labels import few

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer.tokens import Vocabulary

    from ._gene_classifier import GeneClassifier

BASELINES = {"probe": "linear probe", "expression": "expression level", "profiles": "expression profile"}
FINE_TUNED = "fine-tuned"


@dataclass(frozen=True, eq=False)
class GeneCrossValidation:
    """What a cross-validation over genes found.

    Attributes
    ----------
    classes
        Names of the classes.
    genes
        Each classified gene with ``symbol``, ``class``, ``fold`` (in which it was tested; -1 for genes in no cell, which were not),
        ``n_cells`` and ``predicted``; indexed by id.
    proba
        Probabilities of classes for each gene, by the model of its fold, averaged over the cells in which the gene occurs; float64, NaN
        for genes in no cell.
    baselines
        The same from simpler models on the same folds, by their names.
    scores
        Of genes, by model and fold: the columns of :attr:`scgeneformer.evaluation.Report.scores`.
    per_occurrence
        Of the fine-tuned model by fold, each gene counting as often as it occurs in cells, as the official tool counts. Not comparable
        with scores of genes: where many cells express a gene, so often is its one answer counted.
    vocabulary
        Of the model.
    params
        What made it: model, vocabulary, folds, arguments of ``train``.
    """

    classes: tuple[str, ...]
    genes: pd.DataFrame
    proba: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    scores: pd.DataFrame
    per_occurrence: pd.DataFrame
    vocabulary: Vocabulary = field(repr=False)
    params: dict[str, Any]

    @property
    def not_tested(self) -> list[str]:
        """Ids of genes in no cell."""
        return self.genes.index[self.genes["fold"] < 0].tolist()

    @property
    def summary(self) -> pd.DataFrame:
        """Mean of each score over folds and, as ``<score>_sd``, its standard deviation; all folds count alike."""
        folds = {
            **dict(list(self.scores.groupby(level=0, sort=False))),
            f"{FINE_TUNED}, per occurrence": self.per_occurrence,
        }
        rows = {}
        for name, frame in folds.items():
            mean, sd = frame.mean(), frame.std(ddof=1)
            rows[name] = {
                key: value for score in frame for key, value in ((score, mean[score]), (f"{score}_sd", sd[score]))
            }
        return pd.DataFrame(rows).T


class GeneValidationMixin:
    """Gives a classifier of genes its ``cross_validate``."""

    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        validation_size: float = 0.0,
        baselines: Sequence[str] = ("probe", "expression"),
        rng: int = 0,
        **train_kwargs: Any,
    ) -> GeneCrossValidation:
        """Train as many models as there are folds of genes, and let each predict the genes that it was not told.

        Every fold starts from the weights that this model started from, with a new head. This model itself is not changed. Folds
        have equal shares of all classes; every gene that occurs in a cell is tested exactly once.

        Parameters
        ----------
        n_folds
            Number of folds.
        validation_size
            Share of the genes of the other folds that choose the best weights (with `keep_best` or `early_stopping`) instead of being
            trained on.
        baselines
            What to compare with: logistic regressions, on the same folds, on ``"probe"``, the pretrained states of genes averaged over
            cells, a linear probe; ``"expression"``, number of cells, mean rank and corpus median; ``"profiles"``, principal
            components of the log-normalised expression across cells, which needs the counts that the tokens were made from.
        rng
            Seed of folds, heads, dropout and the order of cells.
        **train_kwargs
            For :meth:`train`. `checkpoints` gets a folder for each fold.

        Returns
        -------
        Probabilities for every gene, scores by fold, and those of the baselines.

        Raises
        ------
        ValueError
            If a class has fewer genes in cells than there are folds, a baseline is unknown, or an argument of `train` has no meaning here.
        """
        unknown = sorted(set(baselines) - set(BASELINES))
        if unknown:
            msg = f"baselines={tuple(baselines)} has {unknown}, which are none of {tuple(BASELINES)}."
            raise ValueError(msg)
        senseless = sorted({"split", "train_size", "test_size", "ckpt_path"} & set(train_kwargs))
        if senseless:
            msg = f"{senseless} have no meaning in a cross-validation, in which folds decide what is trained on. Leave them out."
            raise ValueError(msg)
        tokens, _ = self._training_tokens()
        known = self._classes
        counts = self._cells_and_counts(tokens, None, rng)[1]
        seen = counts[known.tokens] > 0
        fold = evaluation.folds(np.where(seen, known.codes, -1), n_folds, classes=known.names, rng=rng)
        features = self._features(tokens, known.tokens[seen], baselines, rng)

        answers = {name: np.full((len(known), len(known.names)), np.nan) for name in (FINE_TUNED, *features)}
        occurrences, n_cells = [], counts[known.tokens]
        for number in range(n_folds):
            test, rest = np.flatnonzero(fold == number), np.flatnonzero((fold >= 0) & (fold != number))
            found = self._fold(number, rest, test, tokens, validation_size, rng, train_kwargs)
            answers[FINE_TUNED][test] = found.proba[known.tokens[test]]
            truth = known.code_of_token(len(counts), test)[tokens[found.rows, found.positions]]
            occurrences.append(evaluation.classification(truth, found.occurrences, known.names).scores)
            for name, values in features.items():
                answers[name][test] = evaluation.logistic(
                    values[rest], known.codes[rest], values[test], n_classes=len(known.names), rng=rng
                )
        return self._result(answers, fold, n_cells, pd.DataFrame(occurrences), n_folds, rng, train_kwargs)

    def _fold(
        self,
        number: int,
        rest: np.ndarray,
        test: np.ndarray,
        tokens: np.ndarray,
        validation_size: float,
        rng: int,
        train_kwargs: dict[str, Any],
    ) -> engine.GeneScores:
        """Train a model on `rest`, or a part of it, and let it predict `test`."""
        known = self._classes
        if validation_size:
            sizes = {"train_size": 1 - validation_size, "validation_size": validation_size, "test_size": 0.0}
            inner = evaluation.split(known.codes[rest], classes=known.names, rng=rng, **sizes)
            split = evaluation.Split(rest[inner.train], rest[inner.validation], test)
        else:
            split = evaluation.Split(rest, np.empty(0, np.int64), test)
        if train_kwargs.get("checkpoints") is not None:
            train_kwargs = train_kwargs | {"checkpoints": Path(train_kwargs["checkpoints"]) / f"fold{number}"}
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.default_rng([rng, number]).integers(2**31)))
            model: GeneClassifier = self.untrained()
            model.train(split=split, rng=rng, **train_kwargs)
        wanted = known.wanted(len(self.vocabulary), test)
        return engine.classify_genes(model.module.network, tokens, wanted=wanted, occurrences=True, **settled({}))

    def _features(
        self, tokens: np.ndarray, genes: np.ndarray, baselines: Sequence[str], rng: int
    ) -> dict[str, np.ndarray]:
        """What each baseline knows of each classified gene, NaN for those that do not occur."""
        make = {
            "probe": lambda: embedding_features(self.start_encoder(), tokens, genes, self.vocabulary, **settled({})),
            "expression": lambda: expression_features(tokens, genes, self.vocabulary),
            "profiles": lambda: profile_features(self._cells(), genes, self._tokens_key, self.vocabulary, rng),
        }
        there = np.isin(self._classes.tokens, genes)
        features = {}
        for name in baselines:
            values = make[name]()
            features[BASELINES[name]] = np.full((len(there), values.shape[1]), np.nan)
            features[BASELINES[name]][there] = values
        return features

    def _result(
        self,
        answers: dict[str, np.ndarray],
        fold: np.ndarray,
        n_cells: np.ndarray,
        per_occurrence: pd.DataFrame,
        n_folds: int,
        rng: int,
        train_kwargs: dict[str, Any],
    ) -> GeneCrossValidation:
        known, genes = self._classes, self.genes
        genes["fold"], genes["n_cells"] = fold, n_cells
        genes["predicted"] = predicted(answers[FINE_TUNED], known.names)
        if (fold < 0).any():
            from scanpy import logging as logg

            missing = genes.index[fold < 0]
            logg.warning(f"{len(missing)} of {len(genes)} genes occur in no cell and are not tested: {few(missing)}")
        scores = {
            (name, number): evaluation.classification(
                known.codes[fold == number], proba[fold == number], known.names
            ).scores
            for name, proba in answers.items()
            for number in range(n_folds)
        }
        tables = {
            name: pd.DataFrame(proba, index=genes.index, columns=list(known.names)) for name, proba in answers.items()
        }
        return GeneCrossValidation(
            known.names,
            genes,
            tables.pop(FINE_TUNED),
            tables,
            pd.DataFrame(scores).T.rename_axis(["model", "fold"]),
            per_occurrence.reset_index(drop=True).rename_axis("fold"),
            self.vocabulary,
            {
                "vocabulary_hash": self.vocabulary.hash,
                "vocabulary": self.vocabulary.name,
                "model": self.start_ or "a model in memory",
                "n_folds": n_folds,
                "rng": rng,
                "train": {
                    name: value for name, value in train_kwargs.items() if isinstance(value, str | int | float | bool)
                },
            },
        )
