"""Cross-validation of classifiers: every cell or gene is predicted by models that were not trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _log as logg
from scgeneformer import evaluation
from scgeneformer._arguments import check_keywords
from scgeneformer.evaluation._intervals import groups_to_resample

from ._baselines import numeric_columns
from ._tested_items import CELL_BASELINES, GENE_BASELINES, TestedCells, TestedGenes
from .training._checkpoint_files import alone_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from scgeneformer.tokens import Vocabulary

    from ._cell_classifier import CellClassifier
    from ._gene_classifier import GeneClassifier

CLASSIFIER = "classifier"
FEW = 10  # members of a class whose scores say little
TAKEN = {
    CLASSIFIER,
    *GENE_BASELINES,
    *GENE_BASELINES.values(),
}  # what a column of `var` cannot be called to be a baseline
_SET_BY_FOLDS = {"split", "train_size", "test_size", "ckpt_path"}


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Out-of-fold predictions of cells or genes, with scores of the model and of linear baselines on the same folds.

    Attributes
    ----------
    table
        One row per cell of the data, or per classified gene: the ``fold`` in which it was tested, -1 if it was not (cells without a label,
        genes in no cell), or ``fold_0``, ``fold_1``, ... of several repeats; ``predicted`` and, for genes, ``symbol``, ``class`` and
        ``n_cells``.
    predictions
        Probabilities of classes, or values of a continuous label, from the models that were not trained on the cell or gene, averaged over
        repeats; float64, NaN if it was not tested.
    baselines
        Predictions of the linear models, by their names.
    scores
        Scores by model, repeat and fold: the columns of :attr:`scgeneformer.evaluation.Report.scores`, or of
        :func:`scgeneformer.evaluation.regression`.
    pooled
        Scores by model over all tested cells or genes together, averaged over repeats, each with the ends of its 95 % interval
        (``<score>_low``, ``<score>_high``) from a bootstrap over samples if there are at least three, else over cells, or over genes. ``n`` is the
        number of cells or genes, ``n_rarest`` the number in the smallest class. Report these scores if there are few items, since each fold
        then tests only a handful.
    vocabulary
        Vocabulary of the model.
    params
        Model, vocabulary, folds and arguments of ``train``.
    per_occurrence
        Scores by repeat and fold that count each gene once for every cell in which it occurs, as in the official tool; None for cells. They
        cannot be compared with scores of genes, because they are dominated by genes that many cells express.
    kept
        Classifier that each training kept, and the reason, by repeat and fold (``kept``, ``reason``); None if the recipe leaves no choice.

    Examples
    --------
    `model` is a :class:`CellClassifier` of disease states.

    >>> cv = model.cross_validate(2, n_repeats=2, max_epochs=1)
    >>> list(cv.table), cv.classes
    (['fold_0', 'fold_1', 'predicted'], ('dcm', 'nf'))
    >>> cv.scores.index.names
    FrozenList(['model', 'repeat', 'fold'])
    >>> list(cv.pooled)[:5]
    ['n', 'n_rarest', 'accuracy', 'accuracy_low', 'accuracy_high']
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    scores: pd.DataFrame
    pooled: pd.DataFrame
    vocabulary: Vocabulary = field(repr=False)
    params: dict[str, Any]
    per_occurrence: pd.DataFrame | None = None
    kept: pd.DataFrame | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or the name of the continuous label."""
        return tuple(self.predictions)

    @property
    def not_tested(self) -> list[str]:
        """Names of the cells, or ids of the genes, that were not tested."""
        return self.predictions.index[self.predictions.isna().all(axis=1)].tolist()

    @property
    def summary(self) -> pd.DataFrame:
        """Mean of each score over the folds of all repeats, with equal weights, and its standard deviation as ``<score>_sd``."""
        folds = dict(list(self.scores.groupby(level=0, sort=False)))
        if self.per_occurrence is not None:
            folds[f"{CLASSIFIER}, per occurrence"] = self.per_occurrence
        rows = {}
        for name, scores in folds.items():
            mean, sd = scores.mean(), scores.std(ddof=1)
            rows[name] = {key: value for s in scores for key, value in ((s, mean[s]), (f"{s}_sd", sd[s]))}
        return pd.DataFrame(rows).T


@dataclass(frozen=True)
class Folds:
    """How a cross-validation is laid out, as its caller asked.

    Attributes
    ----------
    n_folds, n_repeats
        Number of folds, and how often new ones are drawn.
    validation_size
        Fraction of the items outside a fold that validates.
    n_bootstrap
        Number of samples of the intervals.
    rng
        Seed of the first repeat, from which those of the others follow.
    """

    n_folds: int
    n_repeats: int
    validation_size: float
    n_bootstrap: int
    rng: int

    @property
    def seeds(self) -> range:
        """Seed of each repeat."""
        return range(self.rng, self.rng + self.n_repeats)


def cross_validate_cells(
    model: CellClassifier,
    task: str | None,
    baselines: Sequence[str],
    folds: Folds,
    train_kwargs: Mapping[str, Any],
) -> CrossValidation:
    """Cross-validation of a classifier of cells, by one of its tasks; see its method for the parameters."""
    _check(baselines, CELL_BASELINES, type(model).train, train_kwargs)
    target = model.task(task)
    repeats = [TestedCells(model, target, folds.validation_size, seed, folds.n_folds) for seed in folds.seeds]
    with alone_in(train_kwargs.get("checkpoints")):
        return _cross_validate(model, repeats, {CELL_BASELINES[name]: name for name in baselines}, folds, train_kwargs)


def cross_validate_genes(
    model: GeneClassifier, baselines: Sequence[str], folds: Folds, train_kwargs: Mapping[str, Any]
) -> CrossValidation:
    """Cross-validation of a classifier of genes; see its method for the parameters."""
    named = GENE_BASELINES | {name: name for name in numeric_columns(model._cells()) if name not in TAKEN}
    _check(baselines, named, type(model).train, train_kwargs)
    repeats = [TestedGenes(model, folds.validation_size, seed, folds.n_folds) for seed in folds.seeds]
    with alone_in(train_kwargs.get("checkpoints")):
        return _cross_validate(model, repeats, {named[name]: name for name in baselines}, folds, train_kwargs)


def _check(
    baselines: Sequence[str], available: Mapping[str, str], train: Callable[..., None], train_kwargs: Mapping[str, Any]
) -> None:
    unknown = sorted(set(baselines) - set(available))
    if unknown:
        msg = f"baselines={tuple(baselines)} has {unknown}, which are not among {tuple(available)}."
        raise ValueError(msg)
    check_keywords(train, train_kwargs)
    fixed = sorted(_SET_BY_FOLDS & set(train_kwargs))
    if fixed:
        msg = (
            f"{fixed} have no meaning in a cross-validation, in which folds decide what is trained on. Leave them out."
        )
        raise ValueError(msg)


def _cross_validate(
    model: CellClassifier | GeneClassifier,
    repeats: Sequence[TestedCells | TestedGenes],
    baselines: Mapping[str, str],
    folds: Folds,
    train_kwargs: Mapping[str, Any],
) -> CrossValidation:
    first = repeats[0]
    features = {name: first.features(baseline) for name, baseline in baselines.items()}
    names = [*features, CLASSIFIER]
    predictions = {name: np.full((folds.n_repeats, *first.shape), np.nan) for name in names}
    scores: dict[tuple[str, int, int], pd.Series] = {}
    kept: dict[tuple[int, int], dict[str, str]] = {}
    for repeat, items in enumerate(repeats):

        def trained(repeat: int = repeat, items: TestedCells | TestedGenes = items) -> Iterator[tuple[Any, np.ndarray]]:
            for number in range(folds.n_folds):
                test, rest = items.of_fold(number)
                twin = _trained(model, repeat, number, items, items.split(rest, test), folds, train_kwargs)
                if getattr(twin, "selected", None) is not None:
                    kept[repeat, number] = {"kept": twin.selected.kept, "reason": twin.selected.reason}
                yield twin, test

        for number, predicted in enumerate(items.predicted(trained())):
            test, rest = items.of_fold(number)
            predictions[CLASSIFIER][repeat, test] = predicted
            for name, values in features.items():
                finite = np.isfinite(values).all(1)  # not cells without tokens
                tested = test[finite[test]]
                scaled = baselines[name] not in items.unscaled
                predictions[name][repeat, tested] = items.linear(values, rest[finite[rest]], tested, scaled=scaled)
            for name in names:
                scores[name, repeat, number] = items.score(test, predictions[name][repeat])
    means = {name: values.mean(axis=0) for name, values in predictions.items()}
    table = first.table(means[CLASSIFIER], [items.fold for items in repeats])
    frames = {name: pd.DataFrame(values, index=table.index, columns=first.columns) for name, values in means.items()}
    return CrossValidation(
        table,
        frames.pop(CLASSIFIER),
        frames,
        pd.DataFrame(scores).T.rename_axis(["model", "repeat", "fold"]).reindex(names, level="model"),
        _pooled(first, predictions, folds),
        model.vocabulary,
        {
            "vocabulary_hash": model.vocabulary.hash,
            "vocabulary": model.vocabulary.name,
            "model": model.start_ or "a model in memory",
            **asdict(folds),
            "train": {k: value for k, value in train_kwargs.items() if isinstance(value, str | int | float | bool)},
        },
        _per_occurrence(repeats),
        pd.DataFrame(kept).T.rename_axis(["repeat", "fold"]) if kept else None,
    )


def _per_occurrence(repeats: Sequence[TestedCells | TestedGenes]) -> pd.DataFrame | None:
    """Scores of occurrences by repeat and fold; None for cells."""
    tables = {
        repeat: pd.DataFrame(items.occurrence_scores).reset_index(drop=True)
        for repeat, items in enumerate(repeats)
        if isinstance(items, TestedGenes)
    }
    return pd.concat(tables, names=["repeat", "fold"]) if tables else None


def _pooled(items: TestedCells | TestedGenes, predictions: Mapping[str, np.ndarray], folds: Folds) -> pd.DataFrame:
    """Scores of all tested items together, averaged over repeats, with their intervals; all models on the same samples."""
    tested, n_rarest = items.scored, items.n_rarest()
    groups = groups_to_resample(None if items.samples is None else items.samples[tested])
    if n_rarest is not None and n_rarest < FEW:
        logg.warning(
            f"The smallest class has {n_rarest} members, and scores of so few are uncertain: see their intervals in `pooled`."
        )
    sizes = {"n": len(tested)} | ({} if n_rarest is None else {"n_rarest": n_rarest})
    rows: dict[str, dict[str, float]] = {}
    for name, of_repeats in predictions.items():

        def scores(sample: np.ndarray, of_repeats: np.ndarray = of_repeats) -> pd.Series:
            return pd.DataFrame([items.score(tested[sample], of_one) for of_one in of_repeats]).mean()

        table = scores(np.arange(len(tested))).to_frame("")
        if folds.n_bootstrap:
            n = folds.n_bootstrap
            ends = evaluation.bootstrap(scores, len(tested), groups=groups, n_bootstrap=n, rng=folds.rng)
            table = table.join(ends.add_prefix("_"))
        rows[name] = {f"{score}{end}": value for score, row in table.iterrows() for end, value in row.items()}
    pooled = pd.DataFrame.from_dict(rows, orient="index")
    for place, (size, number) in enumerate(sizes.items()):
        pooled.insert(place, size, number)
    return pooled


def _trained(
    model: CellClassifier | GeneClassifier,
    repeat: int,
    number: int,
    items: TestedCells | TestedGenes,
    split: evaluation.Split,
    folds: Folds,
    train_kwargs: Mapping[str, Any],
) -> Any:
    """An untrained copy of the model, trained for one fold."""
    seed = folds.seeds[repeat]
    if train_kwargs.get("checkpoints") is not None:
        name = f"fold{number}" if folds.n_repeats == 1 else f"repeat{repeat}-fold{number}"
        train_kwargs = {**train_kwargs, "checkpoints": Path(train_kwargs["checkpoints"]) / name}
    twin = model.untrained()
    if isinstance(items, TestedGenes):
        items.prepare(twin)
    twin.train(split=split, rng=seed, **train_kwargs)
    return twin
