"""What a run keeps beside the last weights: a file to resume from, and the best weights so far."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from scvi.train import SaveCheckpoint

from ._checkpoint_files import replace_last

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Trainer
    from scvi.train import TrainingPlan, TrainRunner

    from scgeneformer.model._base import TransformerModel


@contextmanager
def best_restored(model: TransformerModel, runner: TrainRunner) -> Iterator[None]:
    """Restore the best weights of scvi-tools' ``SaveCheckpoint``, which itself would look for a pickle."""
    savers = [callback for callback in runner.trainer.callbacks if isinstance(callback, SaveCheckpoint)]
    options = [(saver, saver.load_best_on_end, saver.check_nan_gradients) for saver in savers]
    for saver in savers:
        saver.load_best_on_end = saver.check_nan_gradients = False
    at_end, on_error = ([saver for saver, *when in options if when[i]] for i in (0, 1))
    try:
        yield
    except Exception:
        _restore(model, on_error)
        raise
    else:
        _restore(model, at_end)
    finally:
        for saver, load_best_on_end, check_nan_gradients in options:
            saver.load_best_on_end, saver.check_nan_gradients = load_best_on_end, check_nan_gradients


def _restore(model: TransformerModel, savers: list[SaveCheckpoint]) -> None:
    for saver in savers:
        if saver.best_model_path:
            best = type(model).load(saver.best_model_path, adata=False, accelerator="cpu")
            model.module.load_state_dict(best.module.state_dict())


class LastCheckpoint(Callback):
    """Keeps ``last.ckpt`` in `folder`, and the one before as ``previous.ckpt``: after every `every` steps (None: every epoch), and after the last step of the run.

    Lightning's own callback takes an epoch that `max_steps` cut short for a finished one, and a resumed run would skip its rest.
    """

    def __init__(self, folder: str | Path, every: int | None) -> None:
        self.folder, self.every = Path(folder).expanduser(), every
        self._step, self._saved, self._stop = 0, -1, False

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Count steps from where the run begins."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save if it is time.

        Between the batches of one step, a checkpoint would lack their gradients: there, nothing is saved, and a stop has to wait.
        """
        step, before = trainer.global_step, self._step
        self._step, self._stop = step, self._stop or trainer.should_stop
        trainer.should_stop = self._stop and step > before
        due = trainer.is_last_batch if self.every is None else step % self.every == 0
        if step > before and (due or step == trainer.max_steps or trainer.should_stop):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        """Add what validation found to the checkpoint of this step, since a resumed run continues after it."""
        if trainer.global_step == self._saved:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Replace the file once the new one is complete; one of this very step, which validation has now been added to, is not kept."""
        keep, self._saved = trainer.global_step != self._saved, trainer.global_step
        replace_last(trainer, self.folder, keep=keep)


class KeepBest(Callback):
    """Leaves the module with the weights of the best validation by `monitor`, once a run has come to its end.

    "Best" is least for losses and errors, and most for all other metrics. The weights are kept in memory, and in checkpoints, so that
    a resumed run ends as one that never stopped.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.sign = -1.0 if monitor.endswith(("loss", "error")) else 1.0
        self._best: dict[str, Any] = {"score": -torch.inf, "step": -1, "weights": {}}

    def on_validation_end(self, trainer: Trainer, plan: TrainingPlan) -> None:
        """Keep a copy of trained weights if they are better than all before."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            names = sorted(name for name in trainer.callback_metrics if name.startswith("validation_"))
            msg = f"keep_best={self.monitor!r} is not among the metrics of validation: {names}."
            raise ValueError(msg)
        score = self.sign * float(value)
        if score > self._best["score"]:
            trained = {name for name, p in plan.module.named_parameters() if p.requires_grad}
            weights = {k: v.detach().cpu().clone() for k, v in plan.module.state_dict().items() if k in trained}
            self._best = {"score": score, "step": trainer.global_step, "weights": weights}

    def on_fit_end(self, trainer: Trainer, plan: TrainingPlan) -> None:
        """Put the best weights back."""
        if self._best["weights"] and self._best["step"] != trainer.global_step:
            plan.module.load_state_dict(self._best["weights"], strict=False)

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return dict(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over from a checkpoint."""
        self._best = dict(state_dict)
