"""A classifier of cells as an scvi-tools module: one network, one loss per task, and their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scgeneformer.model.data._cell_labels import CellTask
    from scgeneformer.nn import CellClassifier


class CellClassifierModule(BaseModuleClass):
    """Wraps a :class:`~scgeneformer.nn.CellClassifier`, whose scores are those of all tasks side by side.

    Batches are dicts: ``tokens`` int64 (B, L), ``lengths`` (B,), ``labels`` float32 (B, tasks) as `CellTask.encode` makes them.

    Parameters
    ----------
    network
        The network.
    tasks
        What its scores are for.
    task_weights
        Weight of each task in the loss; None learns them (Kendall et al. 2018: a loss counts as ``exp(-s) loss + s`` with a learned `s`).
    frozen
        The encoder is not trained at all, and so not disturbed by dropout either.
    """

    def __init__(
        self,
        network: CellClassifier,
        tasks: Sequence[CellTask],
        *,
        task_weights: Mapping[str, float] | None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.tasks, self.frozen = network, tuple(tasks), frozen
        self.class_weights: dict[str, Tensor] = {}
        self.task_weights = task_weights
        if task_weights is None:
            self.log_variance = nn.Parameter(torch.zeros(len(self.tasks)))

    def train(self, mode: bool = True) -> CellClassifierModule:  # noqa: FBT001, FBT002 (torch's signature)
        """As in torch, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.encoder.eval()
        return self

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens, lengths = tensors["tokens"], tensors["lengths"]
        return {"tokens": tokens, "mask": torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]}

    def inference(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The state of each cell: (B, H)."""
        return {"pooled": self.network.pooled(tokens, mask)}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return inference_outputs

    def generative(self, pooled: Tensor) -> dict[str, Tensor]:
        """Scores of all tasks: (B, outputs), in float32."""
        return {"scores": self.network.scores(pooled).float()}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Weighted sum of the tasks' mean losses over their labelled cells."""
        labels = tensors["labels"]
        parts = generative_outputs["scores"].split([task.n_outputs for task in self.tasks], -1)
        losses = []
        for i, (task, scores) in enumerate(zip(self.tasks, parts, strict=True)):
            weights = self.class_weights.get(task.name)
            losses.append(task.loss(scores, labels[:, i], None if weights is None else weights.to(scores)))
        if self.task_weights is None:
            total = (torch.stack(losses) * (-self.log_variance).exp() + self.log_variance).sum()
        else:
            total = sum(self.task_weights[task.name] * loss for task, loss in zip(self.tasks, losses, strict=True))
        several = len(self.tasks) > 1
        extra = {f"{task.name}_loss": loss.detach() for task, loss in zip(self.tasks, losses, strict=True) if several}
        n = int((~labels.isnan()).any(1).sum())
        return LossOutput(loss=total, n_obs_minibatch=n, extra_metrics=extra)

    def sample(self, *args: object, **kwargs: object) -> None:
        """Refused: a classifier has no distribution over cells."""
        msg = "A classifier is not a generative model of cells: there is nothing to sample from."
        raise TypeError(msg)
