"""Which classifier is kept: losses of validation cells, their paired differences, and the reason that is reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize

from scgeneformer.evaluation._reliability import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from scgeneformer.model.data._cell_labels import CellTask

PROBE = "probe"
MOST_OFFSET = 10.0  # of a class without validation items, whose offset has no minimum
COLUMNS = ("learning_rate", "steps", "criterion", "difference", "standard_error")


@dataclass(frozen=True, eq=False)
class Selection:
    """Classifier that a training kept, and the reason.

    Attributes
    ----------
    kept
        ``"probe"``, the linear probe; ``"A"``, the run from the probe; or ``"B"``, the run from a probe with stronger penalties.
    reason
        Reason, in one line.
    n_validation
        Number of validation cells, or of validation genes.
    table
        One row per classifier: `learning_rate`, `steps`; `criterion`, the loss on the validation cells or genes, by which classifiers are compared;
        its `difference` from the probe, with the `standard_error` of this difference; and scores, such as `accuracy` and `macro_f1`. For
        genes the first row is a regression on their ``"expression level"``, which is never kept. Empty without validation.
    histories
        History of the run, kept or not, under its name.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.model.CellClassifier.setup_anndata(adata, "disease")
    >>> model = sg.model.CellClassifier(adata, "default", freeze="all")
    >>> model.train()
    >>> model.selected.kept, model.selected.reason
    ('probe', 'only the head is trained, and the probe is its best fit')
    """

    kept: str
    reason: str
    n_validation: int
    table: pd.DataFrame
    histories: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict, repr=False)

    @property
    def state(self) -> dict[str, Any]:
        """Plain values for a file, without the histories."""
        rows = {
            str(name): {str(k): None if np.isnan(v) else float(v) for k, v in row.items()}
            for name, row in self.table.iterrows()
        }
        return {"kept": self.kept, "reason": self.reason, "n_validation": self.n_validation, "table": rows}

    @classmethod
    def restored(cls, state: Mapping[str, Any], histories: dict[str, dict[str, pd.DataFrame]]) -> Self:
        """The selection of a `state`."""
        table = pd.DataFrame.from_dict(dict(state["table"]), orient="index", dtype=np.float64)
        return cls(state["kept"], state["reason"], state["n_validation"], table, histories)


class Judge:
    """Compares classifiers on the same validation cells or genes.

    The criterion is the mean loss after calibration (:func:`_balanced`): of classes the mean over classes of the negative log-likelihood of their
    items, since rare classes count as much as others in what is reported; of numbers half the squared error. It is a mean over tasks, with
    their weights in the loss.

    Parameters
    ----------
    tasks
        The columns of labels.
    labels
        Of the validation items, (n, tasks), NaN where missing.
    task_weights
        Weight of each task.
    least
        Minimum number of items for a comparison, and of items of a class to take part in it: the mean of one or two losses would count as much
        as that of all other cells of a class, and its error is unknown.
    """

    def __init__(
        self,
        tasks: Sequence[CellTask],
        labels: np.ndarray,
        task_weights: Mapping[str, float],
        least: tuple[int, int],
    ) -> None:
        self.tasks, self.labels, self.least = tasks, labels, least
        total = sum(task_weights.values()) or 1.0
        self.shares = [task_weights[task.name] / total for task in tasks]
        self.classes = [self._classes(i) for i in range(len(tasks))]
        self.weights = np.zeros(labels.shape)  # of each loss in the criterion
        for i, classes in enumerate(self.classes):
            for items in classes:
                self.weights[items, i] = self.shares[i] / (len(classes) * len(items))

    def too_few(self) -> bool:
        """Whether there are too few items, or fewer than two classes with enough of them, to compare classifiers."""
        least, of_a_class = self.least
        few = [sum(map(len, classes)) < least for classes in self.classes]
        rare = [
            len(classes) < 2 or min(map(len, classes)) < of_a_class
            for task, classes in zip(self.tasks, self.classes, strict=True)
            if task.kind != "continuous"
        ]
        return any(few) or any(rare)

    def told(self, what: str) -> str:
        """The validation items of a comparison and the classes that take no part in it, in words."""
        n_compared = int((self.weights > 0).any(axis=1).sum())
        n_rare = sum(
            len(task.classes) - len(classes)
            for task, classes in zip(self.tasks, self.classes, strict=True)
            if task.kind != "continuous"
        )
        left_out = f", without {n_rare} {'class' if n_rare == 1 else 'classes'} of fewer than {self.least[1]}"
        return f"{n_compared} validation {what}{left_out if n_rare else ''}"

    def losses(self, scores: np.ndarray) -> np.ndarray:
        """Loss of each item by these scores of all tasks, (n, outputs) -> (n, tasks); 0 where it takes no part."""
        by_task = np.split(scores, np.cumsum([task.n_outputs for task in self.tasks])[:-1], axis=1)
        losses = np.zeros(self.labels.shape)
        for i, (task, values) in enumerate(zip(self.tasks, by_task, strict=True)):
            compared = self.weights[:, i] > 0
            if compared.any():
                losses[compared, i] = _losses(task, values[compared], self.labels[compared, i])
        return losses

    def criterion(self, losses: np.ndarray) -> float:
        """What is compared; lower is better."""
        return float((self.weights * losses).sum())

    def standard_error(self, differences: np.ndarray) -> float:
        """Standard error of the criterion of `differences` of losses, (n, tasks), over items within classes; an item is the same in all tasks."""
        residuals = np.zeros(len(differences))
        for i in range(len(self.tasks)):
            for items in self.classes[i]:
                n, values = len(items), differences[items, i]
                spread = (values - values.mean()) * np.sqrt(n / (n - 1)) if n > 1 else 0.0
                residuals[items] += self.weights[items, i] * spread
        return float(np.sqrt(residuals @ residuals))

    def _classes(self, i: int) -> list[np.ndarray]:
        """Items of each class of a task that takes part, of all that occur if fewer than two do, or all labelled items if there are no classes."""
        labels = self.labels[:, i]
        if self.tasks[i].kind == "continuous":
            return [items for items in [np.flatnonzero(~np.isnan(labels))] if len(items)]
        classes = [np.flatnonzero(labels == code) for code in np.unique(labels[~np.isnan(labels)])]
        enough = [items for items in classes if len(items) >= self.least[1]]
        return enough if len(enough) > 1 else classes


def _losses(task: CellTask, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64)
    if task.kind == "continuous":
        return 0.5 * (scores[:, 0] - labels) ** 2
    codes = labels.astype(np.int64)
    log_proba = task.log_proba(torch.from_numpy(_balanced(task, scores, codes))).numpy()
    return -log_proba[np.arange(len(codes)), codes]


def _balanced(task: CellTask, scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Scores divided by a temperature, with an offset for each output, which together minimise the class-balanced loss of these items.

    Without the offsets this loss would prefer a classifier trained with balanced classes, such as a run from a shrunk probe, to an equally good
    one that knows that its classes are not equally frequent. The problem is convex in the offsets and the inverse temperature, which is
    between 1/5 and 1 as in :func:`scgeneformer.evaluation.temperature`, and 1 for ordered categories.
    """
    values, truth = torch.from_numpy(scores), torch.from_numpy(codes)
    weights = torch.from_numpy(1.0 / np.bincount(codes)[codes] / len(np.unique(codes)))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(parameters).requires_grad_()
        log_proba = task.log_proba(x[0] * values + x[1:])
        balanced = -(weights * log_proba.gather(1, truth[:, None])[:, 0]).sum()
        (gradient,) = torch.autograd.grad(balanced, x)
        return float(balanced), gradient.numpy()

    inverse = (1 / LARGEST, 1.0) if task.kind == "categorical" else (1.0, 1.0)
    bounds = [inverse, *[(-MOST_OFFSET, MOST_OFFSET)] * scores.shape[1]]
    start = np.concatenate([[1.0], np.zeros(scores.shape[1])])
    best = minimize(
        loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    )
    return best.x[0] * scores + best.x[1:]


def reason_of(kept: str, table: pd.DataFrame, where: str) -> str:
    """One line that sums up the table of classifiers on `where`."""
    probe = f"{table.loc[PROBE, 'criterion']:.3g}"
    runs = table[table["steps"].notna()]
    if kept == PROBE:
        told = "; ".join(
            f"{name}: {r.criterion:.3g}, probe {probe} ± {r.standard_error:.2g}" for name, r in runs.iterrows()
        )
        return f"fine-tuning did not beat it on {where} ({told})"
    error = f"{table.loc[kept, 'standard_error']:.2g}"
    return f"validation loss {table.loc[kept, 'criterion']:.3g}, probe {probe} ± {error}, on {where}"
