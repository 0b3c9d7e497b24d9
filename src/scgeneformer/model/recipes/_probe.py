"""The linear probe: a linear head that is fitted to states of cells or genes instead of trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgeneformer import evaluation
from scgeneformer.evaluation._linear import LEAST_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from scgeneformer.model.data._cell_labels import CellTask
    from scgeneformer.nn import CellClassifier, GeneClassifier

SHRINKAGE = 100.0  # how much stronger the penalty of a shrunk probe is
_UNLEARNED = -10.0  # score of a class without training cells


@dataclass(frozen=True, eq=False)
class Probe:
    """Weights of a linear head.

    Attributes
    ----------
    mean, sd
        Of the states of the training cells, float32 (H,).
    weight, bias
        For standardised states, float64 (outputs, H) and (outputs,).
    strengths
        Of the penalties of its regressions, one after the other.
    """

    mean: np.ndarray
    sd: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strengths: tuple[float, ...]

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Scores of these states, (n, H) -> float64 (n, outputs)."""
        return (states - self.mean) / self.sd @ self.weight.T + self.bias

    def put_into(self, network: CellClassifier | GeneClassifier) -> None:
        """Make this the head of `network`."""
        places = network.standardise.mean, network.standardise.sd, network.classifier.weight, network.classifier.bias
        with torch.no_grad():
            for place, values in zip(places, (self.mean, self.sd, self.weight, self.bias), strict=True):
                place.copy_(torch.from_numpy(values))


def standardise(network: CellClassifier | GeneClassifier, states: np.ndarray) -> None:
    """Standardise what the linear head of `network` reads by these states, (n, H)."""
    mean, sd = _mean_and_sd(states)
    network.standardise.mean.copy_(torch.from_numpy(mean))
    network.standardise.sd.copy_(torch.from_numpy(sd))


def fit_probe(
    tasks: Sequence[CellTask],
    states: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None,
    class_weights: Mapping[str, Tensor],
    rng: int,
    shrunk: Probe | None = None,
) -> Probe:
    """Fit the regressions that a linear head of these tasks is made of.

    A multinomial logistic regression for categories; for ordered ones a logistic regression for each output, among the cells that it is about;
    a ridge regression for numbers.

    Parameters
    ----------
    tasks
        The columns of labels.
    states
        Finite states of the training items, or other features of them, (n, H).
    labels
        Their labels, (n, tasks), as of `CellTask.encode`.
    groups
        Their samples, which the cross-validation that chooses the penalties keeps together.
    class_weights
        Weight of each class by task, as of `class_weights_of`.
    rng
        Seed of that cross-validation.
    shrunk
        Take the penalties of this probe, a hundred times stronger, instead of choosing them.
    """
    earlier = iter(() if shrunk is None else shrunk.strengths)
    models = [
        model
        for i, task in enumerate(tasks)
        for model in _regressions(task, states, labels[:, i], groups, class_weights.get(task.name), earlier, rng)
    ]
    coef, intercept = (np.concatenate([getattr(model, name) for model in models]) for name in ("coef", "intercept"))
    mean, sd = _mean_and_sd(states)
    return Probe(
        mean, sd, coef * sd, intercept + coef @ mean.astype(np.float64), tuple(model.strength for model in models)
    )


def _regressions(
    task: CellTask,
    states: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    class_weights: Tensor | None,
    earlier: Iterator[float],
    rng: int,
) -> Iterator[evaluation.LinearModel]:
    """Models whose outputs, side by side, are those of `task`."""
    if task.kind == "continuous":
        yield _numbers(states, labels, next(earlier, None))
        return
    codes = np.where(np.isnan(labels), -1, labels).astype(np.int64)
    weights = None if class_weights is None else class_weights.double().numpy()[codes]
    options = {"groups": groups, "weights": weights, "rng": rng}
    if task.kind == "categorical":
        yield _classes(states, codes, len(task.classes), next(earlier, None), **options)
        return
    for k in range(task.n_outputs):
        further = np.where(codes >= k, codes > k, -1)  # P(y > k | y >= k)
        two = _classes(states, further, 2, next(earlier, None), **options)
        yield replace(two, coef=two.coef[1:] - two.coef[:1], intercept=two.intercept[1:] - two.intercept[:1])


def _classes(
    states: np.ndarray, codes: np.ndarray, n_classes: int, strength: float | None, **options: Any
) -> evaluation.LinearModel:
    present = np.unique(codes[codes >= 0])
    if len(present) < 2:  # nothing to distinguish
        intercept = np.where(np.isin(np.arange(n_classes), present), 0.0, _UNLEARNED)
        return evaluation.LinearModel(np.zeros((n_classes, states.shape[1])), intercept, 1.0)
    strength = None if strength is None else strength / SHRINKAGE
    model = evaluation.fit_logistic(states, codes, n_classes=n_classes, strength=strength, **options)
    return replace(model, intercept=np.where(np.isinf(model.intercept), _UNLEARNED, model.intercept))


def _numbers(states: np.ndarray, values: np.ndarray, strength: float | None) -> evaluation.LinearModel:
    known = values[~np.isnan(values)]
    if len(known) < LEAST_ITEMS:
        mean = np.array([known.mean() if len(known) else 0.0])
        return evaluation.LinearModel(np.zeros((1, states.shape[1])), mean, 1.0)
    return evaluation.fit_ridge(states, values, strength=None if strength is None else strength * SHRINKAGE)


def _mean_and_sd(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (H,), as those that the regressions scale by; the sd of what does not vary is 1.

    In the precision of the network, so that a probe allows for their rounding: states may vary little compared with
    their mean.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(states.astype(np.float64))
    return scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
