"""How classifiers are trained: with the scores by which they are judged, at every validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from scgeneformer import evaluation
from scgeneformer.model.training._plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.model.data._cell_labels import CellTask

SCORES = ("accuracy", "macro_f1", "auc")  # of classes, as `evaluation.classification` has them


class ClassifierPlan(Plan):
    """Training of a module with `tasks` whose batches have ``labels`` (B, tasks).

    At each validation, scores over all its cells are logged: ``validation_accuracy``, ``validation_macro_f1`` and ``validation_auc`` of
    classes, ``validation_r2`` of numbers. With several tasks, each task's are called ``validation_<task>_<score>``, and the names above
    are means over tasks.

    Parameters
    ----------
    module
        What is trained.
    split
        What a resumed run must share: cells of each set.
    **kwargs
        See `Plan`.
    """

    def __init__(self, module: Any, *, split: evaluation.Split, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        self.split = split
        self._judged: list[tuple[np.ndarray, np.ndarray]] = []

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and sums of the sets."""
        return {name: [len(cells), int(cells.sum())] for name, cells in vars(self.split).items() if name != "balance"}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss of one batch; what was said of its cells is kept until all were seen."""
        _, generative, output = self.module(batch)
        values = {"loss": output.loss} | output.extra_metrics
        values = {f"validation_{name}": value for name, value in values.items()}
        self.log_means(values, output, prog_bar=True)
        self._judged.append((generative["scores"].float().cpu().numpy(), batch["labels"].cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        """Log scores over all validation cells, of all processes."""
        judged, self._judged = self._judged, []
        if self.trainer.world_size > 1:
            everyone: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(everyone, judged)
            judged = [pair for part in everyone for pair in part]
        scores, labels = (np.concatenate([pair[i] for pair in judged]) for i in range(2))
        parts = np.split(scores, np.cumsum([task.n_outputs for task in self.module.tasks])[:-1], axis=1)
        each = {
            task.name: judge(task, part, labels[:, i])
            for i, (task, part) in enumerate(zip(self.module.tasks, parts, strict=True))
        }
        names = sorted({name for found in each.values() for name in found})
        means = {n: np.nanmean([found[n] for found in each.values() if n in found] or [np.nan]) for n in names}
        if len(each) > 1:
            means |= {f"{task}_{name}": value for task, found in each.items() for name, value in found.items()}
        values = {f"validation_{name}": torch.tensor(float(value)) for name, value in means.items()}
        self.log_dict(values, prog_bar=True)


def judge(task: CellTask, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of one task over its labelled cells; none if there are no such cells."""
    there = ~np.isnan(labels)
    if not there.any():
        return {}
    if task.kind == "continuous":
        return {"r2": evaluation.regression(labels[there], scores[there, 0])["r2"]}
    proba = task.log_proba(torch.from_numpy(scores[there])).exp().numpy()
    report = evaluation.classification(labels[there].astype(np.int64), proba, task.classes)
    return {name: float(report.scores[name]) for name in SCORES}
