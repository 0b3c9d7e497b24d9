"""The objective of a classifier of cells: one loss for each column of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import LossOutput

from scgeneformer import evaluation
from scgeneformer.model.data._digest import digest

from ._objective import Objective, TokenModule, fingerprint_of_sets, gathered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from scgeneformer.model.data._cell_labels import CellTask
    from scgeneformer.nn import CellClassifier

SCORES = ("accuracy", "macro_f1", "auc")  # of classes, as `evaluation.classification` names them


@dataclass(frozen=True, eq=False)
class LabelsOfCells:
    """Labels of the cells of a batch; a class, since closures cannot be sent to workers.

    Attributes
    ----------
    values
        (n_obs, tasks).
    """

    values: np.ndarray

    def __call__(self, rows: np.ndarray, tokens: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """``labels`` (B, tasks)."""
        return {"labels": self.values[rows]}


class CellLabels(Objective):
    """Predict the labels of cells.

    A validation is scored over all its cells: ``accuracy``, ``macro_f1`` and ``auc`` of classes, ``r2`` of numbers. With several tasks,
    the scores of each are ``<task>_<score>``, and the names above are means over tasks.

    Parameters
    ----------
    tasks
        The columns of labels.
    labels
        float32 (n_obs, tasks), as of `CellTask.encode`.
    split
        Cells of each set.
    """

    def __init__(self, tasks: Sequence[CellTask], labels: np.ndarray, split: evaluation.Split) -> None:
        self.tasks, self.labels, self.split = tuple(tasks), labels, split
        self.targets = dict.fromkeys(("train", "validation"), LabelsOfCells(labels))
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Keep scores and labels of the batch."""
        self._batches.append((outputs["scores"].float().cpu().numpy(), batch["labels"].cpu().numpy()))

    def compute(self) -> dict[str, float]:
        """Scores over all validation cells."""
        batches, self._batches = self._batches, []
        batches = [pair for part in gathered(batches) for pair in part]
        scores, labels = (np.concatenate([pair[i] for pair in batches]) for i in range(2))
        return score_tasks(self.tasks, scores, labels)

    def fingerprint(self) -> dict[str, Any]:
        """Sets of cells, and their labels."""
        sets = {name: cells for name, cells in vars(self.split).items() if name != "balance"}
        tasks = {task.name: task.state for task in self.tasks}
        return fingerprint_of_sets(sets) | {"tasks": tasks, "labels": digest(self.labels)}


def score_tasks(tasks: Sequence[CellTask], scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of each of several tasks and their means; of a single task its scores.

    Parameters
    ----------
    tasks
        The columns of labels.
    scores
        What a network predicts, (n, outputs of all tasks).
    labels
        (n, tasks), NaN where missing.
    """
    by_task = np.split(scores, np.cumsum([task.n_outputs for task in tasks])[:-1], axis=1)
    results = {task.name: score_task(task, by_task[i], labels[:, i]) for i, task in enumerate(tasks)}
    names = sorted({name for result in results.values() for name in result})
    # NaN where only one class is among the labels
    of_name = {n: [r[n] for r in results.values() if n in r and not np.isnan(r[n])] for n in names}
    means = {n: float(np.mean(values)) if values else np.nan for n, values in of_name.items()}
    if len(results) > 1:
        means |= {f"{task}_{name}": value for task, result in results.items() for name, value in result.items()}
    return means


def score_task(task: CellTask, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of one task over its labelled cells; empty if there are none."""
    labelled = ~np.isnan(labels)
    if not labelled.any():
        return {}
    if task.kind == "continuous":
        return {"r2": evaluation.regression(labels[labelled], scores[labelled, 0])["r2"]}
    proba = task.log_proba(torch.from_numpy(scores[labelled])).exp().numpy()
    report = evaluation.classification(labels[labelled].astype(np.int64), proba, task.classes)
    return {name: float(report.scores[name]) for name in SCORES}


def task_weights_of(tasks: Sequence[CellTask], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Weight of each task in the loss; equal ones for None.

    Raises
    ------
    ValueError
        If a task has no weight, or one below 0.
    """
    names = {task.name for task in tasks}
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if not hasattr(weights, "items") or set(weights) != names or min(weights.values()) < 0:
        msg = f"task_weights={weights!r} must give a non-negative number to each of {sorted(names)}."
        raise ValueError(msg)
    return {name: float(weight) for name, weight in weights.items()}


def class_weights_of(tasks: Sequence[CellTask], labels: np.ndarray, weights: Any) -> dict[str, Tensor]:
    """Weight of each class in the loss, by task.

    Parameters
    ----------
    tasks
        The columns of labels.
    labels
        Those of the training cells, (n_cells, tasks).
    weights
        None, ``"balanced"``, a mapping from classes to numbers, or a mapping from tasks to either.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if weights is None:
        return {}
    names = {task.name for task in tasks}
    by_task = weights if isinstance(weights, dict) and set(weights) <= names else dict.fromkeys(names, weights)
    columns = {task.name: (task, labels[:, i]) for i, task in enumerate(tasks) if task.kind != "continuous"}
    return {name: _weights(*columns[name], by_task[name]) for name in by_task if name in columns}


def _weights(task: CellTask, labels: np.ndarray, weights: Any) -> Tensor:
    if weights == "balanced":
        counts = np.bincount(labels[~np.isnan(labels)].astype(np.int64), minlength=len(task.classes))
        return torch.from_numpy(counts.sum() / (len(counts) * np.maximum(counts, 1))).float()
    if not isinstance(weights, dict) or set(weights) != set(task.classes):
        msg = f"class_weights={weights!r} must be 'balanced' or give a weight to each of {list(task.classes)}."
        raise ValueError(msg)
    if not all(weight > 0 for weight in weights.values()):
        msg = f"class_weights={weights} must be above 0. Leave the labels of a class out of the data instead."
        raise ValueError(msg)
    return torch.tensor([float(weights[name]) for name in task.classes])


class CellClassifierModule(TokenModule):
    """A :class:`~scgeneformer.nn.CellClassifier`, whose scores are those of all tasks side by side.

    Batches have ``tokens`` int64 (B, L), ``lengths`` (B,), ``labels`` float32 (B, tasks).

    Parameters
    ----------
    network, frozen
        As of `TokenModule`.
    tasks
        What the scores are for.
    task_weights
        Weight of each task in the loss.
    """

    network: CellClassifier

    def __init__(
        self,
        network: CellClassifier,
        tasks: Sequence[CellTask],
        *,
        task_weights: Mapping[str, float],
        frozen: bool = False,
    ) -> None:
        super().__init__(network, frozen=frozen)
        self.tasks, self.task_weights = tuple(tasks), task_weights
        self.class_weights: dict[str, Tensor] = {}

    def fingerprint(self) -> dict[str, Any]:
        """That of any network, with the head, and with the weights of tasks and classes."""
        weights = {name: [round(w, 6) for w in weights.tolist()] for name, weights in self.class_weights.items()}
        of_loss = {"task_weights": dict(self.task_weights), "class_weights": weights}
        return super().fingerprint() | {"pooling": self.network.pooling, "head": self.network.head} | of_loss

    def inference(self, tokens: Tensor, mask: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The state of each cell: (B, H)."""
        return {"pooled": self.network.pooled(tokens, mask, **inputs)}

    def generative(self, pooled: Tensor) -> dict[str, Tensor]:
        """Scores of all tasks: (B, outputs), in float32."""
        return {"scores": self.network.scores(pooled).float()}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Weighted sum of the tasks' mean losses over their labelled cells."""
        labels = tensors["labels"]
        by_task = generative_outputs["scores"].split([task.n_outputs for task in self.tasks], -1)
        losses = {}
        for i, (task, scores) in enumerate(zip(self.tasks, by_task, strict=True)):
            weights = self.class_weights.get(task.name)
            losses[task.name] = task.loss(scores, labels[:, i], None if weights is None else weights.to(scores))
        total = sum(self.task_weights[name] * loss for name, loss in losses.items())
        metrics = {f"{name}_loss": loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
        n_labelled = int((~labels.isnan()).any(1).sum())
        return LossOutput(loss=total, n_obs_minibatch=n_labelled, extra_metrics=metrics)
