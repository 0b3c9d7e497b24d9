"""How the network is trained: optimizer, schedule per step, what is logged, and what a checkpoint remembers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from scvi.train import TrainingPlan

from ._batches import masked_batch
from ._masking import FIXED_EPOCH

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor, nn

    from ._masking import Masking
    from ._module import GeneformerModule

SCHEDULES = ("linear", "cosine", "constant")


def schedule_factor(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """Learning rate at `step`, as a share of the highest: linear rise over `warmup` steps, then the schedule's descent to 0."""
    if step < warmup:
        return step / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    return {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[schedule]


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: biases and layer norms (all vectors) are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class LastCheckpoint(Callback):
    """Keeps ``last.ckpt`` in `folder`: after every `every` steps (None: every epoch), and after the last step of the run.

    Lightning's own callback takes an epoch that `max_steps` cut short for a finished one, and a resumed run would skip its rest.
    """

    def __init__(self, folder: str | Path, every: int | None) -> None:
        self.folder, self.every = Path(folder), every
        self._saved = -1

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save if it is time; the file is replaced only once the new one is complete."""
        step = trainer.global_step
        due = trainer.is_last_batch if self.every is None else step % self.every == 0
        if step == self._saved or not (due or step == trainer.max_steps or trainer.should_stop):
            return
        self._saved = step
        part = self.folder / "last.ckpt.part"
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            part.replace(self.folder / "last.ckpt")


class GeneformerPlan(TrainingPlan):
    """Masked-gene training with AdamW and a schedule per optimizer step.

    Parameters
    ----------
    module
        What is trained.
    masking
        Applied to batches of a data module of one's own, which come unmasked; batches of this package's loader are masked already.
    learning_rate, weight_decay, betas, eps
        Of AdamW; biases and layer norms are not decayed.
    schedule
        ``"linear"`` or ``"cosine"`` descent to 0, or ``"constant"``.
    warmup
        Number of steps, or their share of all steps if below 1.
    total_steps
        Length of the schedule; None takes the number of steps of the run.
    checkpoints, checkpoint_every
        Folder for checkpoints to resume from, and steps between two of them; None saves at the end of each epoch.
    """

    def __init__(
        self,
        module: GeneformerModule,
        *,
        masking: Masking,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        schedule: str = "linear",
        warmup: float = 0.05,
        total_steps: int | None = None,
        checkpoints: str | Path | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        if schedule not in SCHEDULES:
            msg = f"schedule={schedule!r} is not one of {SCHEDULES}."
            raise ValueError(msg)
        if warmup < 0:
            msg = f"warmup={warmup!r} must be a number of steps, or a share of all steps below 1."
            raise ValueError(msg)
        super().__init__(module, lr=learning_rate, weight_decay=weight_decay, eps=eps)
        self.masking, self.betas, self.schedule, self.warmup = masking, betas, schedule, warmup
        self.total_steps = total_steps
        self.checkpoints, self.checkpoint_every = checkpoints, checkpoint_every
        self._random_state: dict[str, Any] | None = None
        self._seen = 0

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule, laid out over the run's number of steps."""
        optimizer = torch.optim.AdamW(
            decay_groups(self.module, self.weight_decay), lr=self.lr, betas=self.betas, eps=self.eps
        )
        self.total_steps = self.total_steps or int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _factor(self, step: int) -> float:
        warmup = round(self.warmup * self.total_steps) if self.warmup < 1 else int(self.warmup)
        return schedule_factor(step, total=self.total_steps, warmup=warmup, schedule=self.schedule)

    def configure_callbacks(self) -> list[Callback]:
        """Checkpoints to resume from, if a folder was given."""
        return [] if self.checkpoints is None else [LastCheckpoint(self.checkpoints, self.checkpoint_every)]

    def _masked(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mask a batch that comes with ``tokens`` only (and ``cells``, if its masks shall not depend on the order of batches)."""
        if "targets" in batch:
            return batch
        tokens = batch["tokens"].cpu().numpy()
        cells = batch["cells"].cpu().numpy() if "cells" in batch else self._seen + np.arange(len(tokens))
        self._seen += len(tokens)
        epoch = self.current_epoch if self.trainer.training else FIXED_EPOCH
        made = masked_batch(tokens, (tokens != 0).sum(1), cells, epoch, self.masking)
        return {name: value.to(batch["tokens"].device) for name, value in made.items()}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        output = self.module(self._masked(batch))[-1]
        if not torch.isfinite(output.loss):
            msg = (
                f"The loss became {output.loss.item()} at step {self.global_step} (epoch {self.current_epoch}, batch {batch_idx}). "
                f"Lower learning_rate (now {self.lr}), raise warmup, or train with precision='float32'."
            )
            raise FloatingPointError(msg)
        n, sync = output.n_obs_minibatch, self.use_sync_dist
        rate = self.lr_schedulers().get_last_lr()[0]
        if self.logger is not None:  # at once, since Lightning's own logging comes after the checkpoint of this step
            self.logger.log_metrics(
                {"train_loss_step": output.loss.item(), "learning_rate": rate}, step=self.global_step
            )
        self.log("loss", output.loss, prog_bar=True, logger=False)
        self.log("train_loss", output.loss, on_step=False, on_epoch=True, batch_size=n, sync_dist=sync)
        accuracy = output.extra_metrics["accuracy"]
        self.log("train_accuracy", accuracy, on_step=False, on_epoch=True, batch_size=n, sync_dist=sync)
        return output.loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and share of hidden genes that are named, averaged over the hidden genes of all validation cells."""
        output = self.module(self._masked(batch))[-1]
        values = {"validation_loss": output.loss, "validation_accuracy": output.extra_metrics["accuracy"]}
        self.log_dict(values, prog_bar=True, batch_size=output.n_obs_minibatch, sync_dist=self.use_sync_dist)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what exact resuming needs: the generators that dropout draws from, and the metrics so far."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["random_state"] = {"cpu": torch.get_rng_state(), "cuda": cuda}
        checkpoint["masking"] = {"rule": self.masking.rule, "seed": self.masking.seed}
        if hasattr(self.trainer.logger, "state_dict"):
            checkpoint["history"] = self.trainer.logger.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run is the one that was saved, and take over its metrics and generators."""
        now = {"rule": self.masking.rule, "seed": self.masking.seed}
        if checkpoint["masking"] != now:
            msg = f"The checkpoint was made with masking {checkpoint['masking']}, this run has {now}: give the same masking and rng."
            raise ValueError(msg)
        self._random_state = checkpoint["random_state"]
        if "history" in checkpoint and hasattr(self.trainer.logger, "load_state_dict"):
            self.trainer.logger.load_state_dict(checkpoint["history"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Put the generators back as they were when the checkpoint was written."""
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if self._random_state["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random_state["cuda"])
            self._random_state = None
