"""What the validation cells of a training are used for afterwards: temperatures of scores, and how far new cells are from known ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import evaluation, stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._cell_classifier import CellClassifier
    from .data._cell_labels import CellTask

N_NEIGHBORS = 15
MOST = 200  # training cells of a class whose states are kept


@dataclass(frozen=True)
class CellAnswer:
    """What a classifier predicts for cells; NaN for cells without tokens.

    Attributes
    ----------
    answer
        Probabilities of classes, float64 (n_cells, n_classes), or continuous labels, float64 (n_cells,).
    distance
        Distance to the training cells relative to what is typical of the predicted class, float64 (n_cells,): the median of the validation
        cells is 1. NaN for continuous labels, and where the classifier has no training cells to compare with.
    novelty
        Conformal p of that distance among the validation cells, float64 (n_cells,).
    """

    answer: np.ndarray
    distance: np.ndarray
    novelty: np.ndarray


def fit_calibrations(model: CellClassifier) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
    """Temperatures of columns of categories, and references of these and of ordered ones; for those with validation cells."""
    labels, held_out = model.labels(), model.split.validation
    temperatures: dict[str, float] = {}
    references: dict[str, dict[str, np.ndarray]] = {}
    if len(held_out) == 0 or all(task.kind == "continuous" for task in model.tasks):
        return temperatures, references
    training = _kept_cells(model.tasks, labels, model.split.train)
    new, known = (model._classify(model._read_tokens(None, cells)) for cells in (held_out, training))
    for i, task in enumerate(model.tasks):
        rows = np.isfinite(new.scores[:, 0]) & ~np.isnan(labels[held_out, i])  # not cells without tokens
        points = np.isfinite(known.scores[:, 0]) & ~np.isnan(labels[training, i])
        if task.kind == "continuous" or not rows.any():
            continue
        if task.kind == "categorical":
            codes = labels[held_out[rows], i].astype(np.int64)
            temperatures[task.name] = evaluation.temperature(model._outputs(new.scores[rows], task), codes)
        if points.sum() > 1:
            codes = labels[training[points], i].astype(np.int64)
            predicted = model._answer(new.scores[rows], task, calibrated=False).argmax(axis=1)
            references[task.name] = _reference(
                known.states[points], codes, new.states[rows], predicted, len(task.classes)
            )
    return temperatures, references


def novelty_of(
    reference: dict[str, np.ndarray] | None, states: np.ndarray, answer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Relative distance and conformal p of cells with these states and probabilities, each float64 (n_cells,); NaN without a reference.

    Validation cells, of which the training has seen as little as of new ones, are compared all together and not class by class, since small
    classes have few; distances are made comparable by what is typical of the predicted class. Training cells are not a
    standard: states that were trained on lie closer together.
    """
    distance, novelty = np.full((2, len(states)), np.nan)
    read = np.isfinite(states[:, 0])
    if reference is not None and read.any():
        typical, held_out = reference["typical"], reference["held_out"]
        distance[read] = _relative(reference["states"], states[read], answer[read].argmax(axis=1), typical)
        one_class = np.zeros(len(states), dtype=np.int64)
        novelty = stats.conformal_p(distance, one_class, held_out, np.zeros(len(held_out), dtype=np.int64))
    return distance, novelty


def _kept_cells(tasks: Sequence[CellTask], labels: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Training cells to keep: at most `MOST` of each class of each column, drawn at random but always the same."""
    rng = np.random.default_rng(0)
    cells = [
        rng.permutation(training[labels[training, i] == code])[:MOST]
        for i, task in enumerate(tasks)
        for code in range(len(task.classes))
    ]
    return np.unique(np.concatenate(cells))


def _reference(
    states: np.ndarray, codes: np.ndarray, held_out_states: np.ndarray, predicted: np.ndarray, n_classes: int
) -> dict[str, np.ndarray]:
    """States of training cells, the distance to them that is typical of each class, and the relative ones of validation cells."""
    index = _index(states)
    left_out = index.left_out(min(N_NEIGHBORS, len(states) - 1)).mean_distances()
    typical = stats.median_distances(left_out, codes, n_classes)
    held_out = _relative(states, held_out_states, predicted, typical)
    scale = np.median(held_out)
    if 0 < scale < np.inf:  # the typical cell that was not trained on has the distance 1
        typical, held_out = typical * scale, held_out / scale
    return {"states": states, "typical": typical, "held_out": held_out}


def _relative(states: np.ndarray, queries: np.ndarray, predicted: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """Mean distance of `queries` to the nearest `states`, in units of what is typical of their predicted class."""
    far = _index(states).nearest(queries, min(N_NEIGHBORS, len(states) - 1)).mean_distances()
    return stats.relative_distances(far, predicted, typical)


def _index(states: np.ndarray) -> stats.NeighborIndex:
    k = min(N_NEIGHBORS, len(states) - 1)
    return stats.NeighborIndex(states, k, metric="euclidean", exact=True, rng=np.random.default_rng(0))
