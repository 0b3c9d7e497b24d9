"""Slots of an evaluation: tables for the run, probabilities or numbers for its cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _slots as slots
from scgeneformer import evaluation
from scgeneformer.evaluation._intervals import groups_to_resample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

SETS = ("train", "validation", "test")
TIED = "tied_with_best"
# By the part of their slots' names; the model itself has none.
BASELINES = {"probe": "linear probe", "hvg": "regression on HVGs"}


@dataclass(frozen=True)
class Evaluated:
    """The labels and cells of an evaluation, and the predictions of the model and its baselines.

    Attributes
    ----------
    label, kind
        Column of ``obs`` with the truth, and ``"categorical"``, ``"ordinal"`` or ``"continuous"``.
    classes
        Names of classes; none for continuous labels.
    split
        Cells of each set.
    rows
        Cells that were evaluated, (n,).
    truth
        Their codes of classes, or numbers, (n,).
    training
        The same of the training cells.
    answers
        By baseline, the model being ``""``: probabilities (n, n_classes), or numbers (n,).
    name
        What the model is called.
    donors
        Sample of each evaluated cell, (n,), if the split keeps samples apart.
    """

    label: str
    kind: str
    classes: tuple[str, ...]
    split: evaluation.Split
    rows: np.ndarray
    truth: np.ndarray
    training: np.ndarray
    answers: dict[str, np.ndarray]
    name: str
    donors: np.ndarray | None = None

    def named(self, baseline: str) -> str:
        """What `baseline` is called in tables."""
        return BASELINES.get(baseline, self.name)


def answer_slots(key: str, baselines: Iterable[str], kind: str) -> dict[str, str]:
    """Slot of the answers of the model (``""``) and of each baseline."""
    numbers = kind == "continuous"
    place = "obs" if numbers else "obsm"
    return {baseline: f"{place}/{keys.answer_key(key, baseline, proba=not numbers)}" for baseline in baselines}


def write_evaluation(
    cells: AnnData, key: str, evaluated: Evaluated, *, n_bootstrap: int, rng: int, **params: Any
) -> pd.DataFrame:
    """Score all answers, write the slots that :func:`~scgeneformer.tl.evaluate` names, and return the table of scores."""
    numbers = evaluated.kind == "continuous"
    tables = {} if numbers else _tables_of_classes(evaluated)
    by_name = _all_answers(evaluated)
    everyone = np.arange(len(evaluated.rows))
    metrics = pd.DataFrame({name: _scores(evaluated, answer, everyone) for name, answer in by_name.items()}).T
    units = groups_to_resample(evaluated.donors)
    if n_bootstrap:
        tables["intervals"] = _intervals(evaluated, by_name, units, n_bootstrap, rng)
    metrics[TIED] = _tied(np.stack([_errors(evaluated, answer) for answer in by_name.values()]))

    sets = np.full(cells.n_obs, -1)
    for code, name in enumerate(SETS):
        sets[getattr(evaluated.split, name)] = code
    values: dict[str, Any] = {f"obs/{key}": pd.Categorical.from_codes(sets, list(SETS))}
    slot_of = answer_slots(key, evaluated.answers, evaluated.kind)
    columns = keys.slot_names(evaluated.classes, "Labels")
    for baseline, answer in evaluated.answers.items():
        of_cells = np.full((cells.n_obs, *answer.shape[1:]), np.nan)
        of_cells[evaluated.rows] = answer
        table = of_cells if numbers else pd.DataFrame(of_cells, index=cells.obs_names, columns=columns)
        values[slot_of[baseline]] = table
    slots.write(
        cells,
        "tl.evaluate",
        key,
        values,
        labels=evaluated.label,
        kind=evaluated.kind,
        classes=evaluated.classes,
        answers=tuple(slot.split("/", 1)[1] for slot in slot_of.values()),
        resampled=("cells" if units is None else "donors") if n_bootstrap else None,
        n_bootstrap=n_bootstrap,
        rng=rng,
        **params,
    )
    cells.uns[key] |= {"metrics": metrics, **tables}
    return metrics


def _all_answers(evaluated: Evaluated) -> dict[str, np.ndarray]:
    """The answers by name, and that of a baseline that knows only the labels of the training cells."""
    answers = {evaluated.named(baseline): answer for baseline, answer in evaluated.answers.items()}
    if evaluated.kind == "continuous":
        return answers | {"mean of training cells": np.full(len(evaluated.rows), evaluated.training.mean())}
    frequency = np.bincount(evaluated.training.astype(np.int64), minlength=len(evaluated.classes)) / len(
        evaluated.training
    )
    return answers | {"most frequent class": np.tile(frequency, (len(evaluated.rows), 1))}


def _scores(evaluated: Evaluated, answer: np.ndarray, rows: np.ndarray) -> pd.Series:
    """Scores of the evaluated cells `rows`."""
    truth, answer = evaluated.truth[rows], answer[rows]
    if evaluated.kind == "continuous":
        return evaluation.regression(truth, answer)
    scores = evaluation.classification(truth, answer, evaluated.classes).scores
    if evaluated.kind == "ordinal":
        n_levels = len(evaluated.classes)
        level = answer @ np.arange(n_levels)
        scores = pd.concat([scores, evaluation.regression(truth, level, n_levels=n_levels)[["mae", "kappa"]]])
    return scores


def _intervals(
    evaluated: Evaluated, answers: dict[str, np.ndarray], donors: np.ndarray | None, n_bootstrap: int, rng: int
) -> pd.DataFrame:
    """Ends of the 95 % intervals of all scores, one row for each model; all models on the same samples."""
    rows = {}
    for name, answer in answers.items():
        of_model = partial(_scores, evaluated, answer)
        table = evaluation.bootstrap(of_model, len(evaluated.rows), groups=donors, n_bootstrap=n_bootstrap, rng=rng)
        rows[name] = {f"{score}_{end}": value for score, ends in table.iterrows() for end, value in ends.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _errors(evaluated: Evaluated, answer: np.ndarray) -> np.ndarray:
    """Error of each cell, (n,): wrong or right for classes, the absolute one for numbers."""
    if evaluated.kind == "continuous":
        return np.abs(answer - evaluated.truth)
    return (answer.argmax(axis=1) != evaluated.truth).astype(np.float64)


def _tied(errors: np.ndarray) -> np.ndarray:
    """Which models, (n_models, n) -> bool (n_models,), are at most one standard error of the paired difference behind the best one."""
    behind = errors - errors[errors.mean(axis=1).argmin()]
    if errors.shape[1] < 2:
        return np.ones(len(errors), dtype=bool)
    return behind.mean(axis=1) <= behind.std(axis=1, ddof=1) / np.sqrt(errors.shape[1])


def _tables_of_classes(evaluated: Evaluated) -> dict[str, pd.DataFrame]:
    """Table of each class, the baselines' F1 beside the model's, and the model's confusion matrix."""
    reports = {
        baseline: evaluation.classification(evaluated.truth, answer, evaluated.classes)
        for baseline, answer in evaluated.answers.items()
    }
    per_class = reports[""].per_class.copy()
    for baseline, report in reports.items():
        if baseline:
            per_class[f"f1_{baseline}"] = report.per_class["f1"]
    confusion = reports[""].confusion
    return {
        "per_class": per_class,
        "confusion": confusion.set_axis(keys.slot_names(confusion.columns, "Labels"), axis=1),
    }
