"""Labels of cells: columns of ``obs`` of three kinds, and the loss of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("categorical", "ordinal", "continuous")
HINT = "Name labels by `setup_anndata(adata, labels_key=...)`."


@dataclass(frozen=True)
class CellTask:
    """A column of labels as numbers, and the loss of predicting them.

    Attributes
    ----------
    name
        Column of ``obs``.
    kind
        ``"categorical"``: cross-entropy over classes. ``"ordinal"``: the continuation ratio model, in which each output is the logit of
        P(y > k | y >= k), so that classes have an order and probabilities sum to one. ``"continuous"``:
        half the squared error of the standardised label.
    classes
        Names of classes in their order; none for continuous labels.
    mean, sd
        Of the labelled cells, by which continuous labels are standardised.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def of(cls, column: pd.Series, kind: str | None = None, unlabeled_category: str | None = None) -> CellTask:
        """The task given by a column of ``obs``.

        Parameters
        ----------
        column
            Labels; missing ones are NaN or None.
        kind
            None: ordinal for an ordered categorical, continuous for floating numbers, else categorical.
        unlabeled_category
            A value that also stands for a missing label.

        Raises
        ------
        TypeError
            If labels cannot be ordered.
        ValueError
            If there is no label, only one class, or an infinite number.
        """
        slot = f".obs[{column.name!r}]"
        if kind is None:
            ordered = isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered
            kind = "ordinal" if ordered else "continuous" if pd.api.types.is_float_dtype(column) else "categorical"
        if kind not in KINDS:
            msg = f"Labels {column.name!r} cannot be {kind!r}; choose one of {KINDS}."
            raise ValueError(msg)
        labelled = column[~missing(column, unlabeled_category)]
        if labelled.empty:
            msg = f"No cell has a label in {slot}. {HINT}"
            raise ValueError(msg)
        if kind == "continuous":
            values = _numbers(labelled, slot)
            sd = float(values.std())
            if sd == 0:
                msg = f"All labels in {slot} are the same ({values[0]:g}): there is nothing to learn. {HINT}"
                raise ValueError(msg)
            return cls(str(column.name), kind, mean=float(values.mean()), sd=sd)
        try:
            present = labelled.unique()
            order = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(present)
        except TypeError as error:
            name = column.name
            msg = (
                f"{slot} has labels that cannot be sorted, such as lists, or text beside numbers. Convert them to "
                f"text: `adata.obs[{name!r}] = adata.obs[{name!r}].astype(str)`."
            )
            raise TypeError(msg) from error
        classes = tuple(str(c) for c in order if c in set(present))
        if len(classes) < 2:
            msg = f"{slot} has one class only ({classes[0]!r}): there is nothing to distinguish. {HINT}"
            raise ValueError(msg)
        return cls(str(column.name), kind, classes)

    @classmethod
    def restored(cls, name: str, state: dict[str, Any]) -> CellTask:
        """The task of a `state`."""
        return cls(
            name, str(state["kind"]), tuple(map(str, state["classes"])), float(state["mean"]), float(state["sd"])
        )

    @property
    def state(self) -> dict[str, Any]:
        """Plain values for a registry or a file."""
        return {"kind": self.kind, "classes": list(self.classes), "mean": self.mean, "sd": self.sd}

    @property
    def n_outputs(self) -> int:
        """Number of scores that the network gives for this task."""
        return {"categorical": len(self.classes), "ordinal": len(self.classes) - 1, "continuous": 1}[self.kind]

    def encode(self, column: pd.Series, unlabeled_category: str | None = None) -> np.ndarray:
        """Labels as numbers: codes of classes, or standardised values; float32 (n,), NaN where missing.

        Raises
        ------
        ValueError
            If there is a class that this task does not know, or an infinite number.
        """
        target = np.full(len(column), np.nan, dtype=np.float32)
        labelled = ~missing(column, unlabeled_category)
        slot = f".obs[{column.name!r}]"
        if self.kind == "continuous":
            target[labelled] = (_numbers(column[labelled], slot) - self.mean) / self.sd
            return target
        codes = pd.Index(self.classes).get_indexer(column[labelled].astype(str))
        if (codes < 0).any():
            unknown = sorted(set(column[labelled].astype(str)[codes < 0]))
            msg = f"{slot} has labels that this model was not set up with: {unknown}; it knows {list(self.classes)}."
            raise ValueError(msg)
        target[labelled] = codes
        return target

    def log_proba(self, scores: Tensor) -> Tensor:
        """Log-probabilities of the classes, (B, outputs) -> (B, classes)."""
        if self.kind == "categorical":
            return scores.log_softmax(-1)
        further = F.logsigmoid(scores).cumsum(-1)  # log P(y > k)
        stop = F.logsigmoid(-scores)  # log P(y = k | y >= k)
        return torch.cat([stop[:, :1], further[:, :-1] + stop[:, 1:], further[:, -1:]], -1)

    def answer(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of the classes, (n, outputs) -> float64 (n, classes), or continuous labels, float64 (n,)."""
        if self.kind == "continuous":
            return scores[:, 0].astype(np.float64) * self.sd + self.mean
        return self.log_proba(torch.from_numpy(scores).double()).exp().numpy()

    def loss(self, scores: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Mean loss of the labelled cells, weighted by class if asked for; 0 if there is none.

        Parameters
        ----------
        scores
            (B, outputs), in float32.
        target
            As `encode` makes it, (B,).
        class_weights
            (classes,), as in :func:`torch.nn.functional.cross_entropy`.
        """
        labelled = ~target.isnan()
        if not labelled.any():
            return scores.sum() * 0
        scores, target = scores[labelled], target[labelled]
        if self.kind == "continuous":
            return 0.5 * F.mse_loss(scores[:, 0], target)
        return F.nll_loss(self.log_proba(scores), target.long(), weight=class_weights)


def output_names(tasks: tuple[CellTask, ...]) -> list[str]:
    """A name for each score of the network."""
    if len(tasks) == 1 and tasks[0].kind == "categorical":
        return list(tasks[0].classes)
    names = []
    for task in tasks:
        classes = task.classes[1:] if task.kind == "ordinal" else task.classes or ("",)
        names += [f"{task.name}: {name}" if name else task.name for name in classes]
    return names


def task_of_others(name: str, config: dict[str, Any], n_outputs: int) -> CellTask:
    """Task of a checkpoint of transformers."""
    if n_outputs == 1:
        return CellTask(name, "continuous")
    labels = config.get("id2label", {})
    classes = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(n_outputs))
    return CellTask(name, "categorical", classes)


def missing(column: pd.Series, unlabeled_category: str | None) -> np.ndarray:
    """Where a label is missing: NaN, None, or the value that stands for it. (n,) bool."""
    gone = column.isna().to_numpy()
    return gone if unlabeled_category is None else gone | (column.astype(str) == unlabeled_category).to_numpy()


def _numbers(column: pd.Series, slot: str) -> np.ndarray:
    try:
        values = column.astype(np.float64).to_numpy()
    except (TypeError, ValueError) as error:
        msg = f"{slot} has labels that are not numbers ({error}), which continuous labels must be."
        raise ValueError(msg) from None
    if not np.isfinite(values).all():
        msg = f"{slot} has {np.sum(~np.isfinite(values))} infinite values. Set them to NaN to leave these cells out."
        raise ValueError(msg)
    return values
