"""How a network is trained: optimizer, schedule per step, what is logged, and what a checkpoint remembers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from scvi.train import TrainingPlan
from torch import distributed
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from scgeneformer.model.objectives._objective import gathered

from ._callbacks import KeepBest, LastCheckpoint
from ._fingerprint import check_same_run
from ._random import seed_generators

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.callbacks import Callback
    from scvi.module.base import BaseModuleClass, LossOutput
    from torch import Tensor, nn

    from scgeneformer.model.objectives._objective import Objective

    from ._fingerprint import Identity

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


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


class TokenTrainingPlan(TrainingPlan):
    """Training of any module of this room for an objective, with a schedule per optimizer step.

    The loss, what the module's ``LossOutput`` has in `extra_metrics` and the scores of the objective are logged as ``train_<name>`` and
    ``validation_<name>``. In several processes a step is what one process would do with all their batches at once: losses are weighted with
    the numbers of items that they are means over.

    Parameters
    ----------
    module
        What is trained.
    objective
        What it is trained for.
    optimizer
        ``"adamw"`` or ``"adam"`` (whose decay is added to the gradient).
    learning_rate, weight_decay, betas, eps
        Of the optimizer; biases and layer norms are not decayed.
    schedule
        ``"linear"`` or ``"cosine"`` descent to 0, or ``"constant"``.
    warmup
        Number of steps, or their share of all steps if below 1.
    total_steps
        Length of the schedule. Defaults to the number of steps of the run.
    checkpoints, checkpoint_every
        Folder for checkpoints to resume from, and steps between two of them. Defaults to one at the end of each epoch.
    keep_best
        Metric of validation whose best weights the model is left with, such as ``"validation_loss"``; None leaves the last weights.
    rng, stream
        Seed of dropout, and which of its streams.
    """

    identity: Identity  # of the run

    def __init__(
        self,
        module: BaseModuleClass,
        objective: Objective,
        *,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        schedule: str = "linear",
        warmup: float = 0.05,
        total_steps: int | None = None,
        checkpoints: str | Path | None = None,
        checkpoint_every: int | None = None,
        keep_best: str | None = None,
        rng: int = 0,
        stream: int = 0,
    ) -> None:
        super().__init__(module, lr=learning_rate, weight_decay=weight_decay, eps=eps)
        self.objective, self.optimizer_class, self.betas = objective, OPTIMIZERS[optimizer.lower()], betas
        self.schedule, self.warmup, self.total_steps = schedule, warmup, total_steps
        self.checkpoints, self.checkpoint_every, self.keep_best = checkpoints, checkpoint_every, keep_best
        self._n_steps = total_steps  # of the schedule
        self.rng, self.stream = rng, stream
        self._random_state: dict[str, Any] | None = None
        self._n_batches: int | None = None

    @property
    def length_matters(self) -> bool:
        """Whether each step depends on how many there will be."""
        return self.total_steps is None and (self.schedule != "constant" or 0 < self.warmup < 1)

    def fingerprint(self) -> dict[str, Any]:
        """What a run must share with a checkpoint that it resumes from: optimizer, schedule, and which weights it leaves."""
        optimizer = {"optimizer": self.optimizer_class.__name__.lower(), "learning_rate": self.lr}
        optimizer |= {name: getattr(self, name) for name in ("weight_decay", "betas", "eps")}
        return optimizer | {name: getattr(self, name) for name in ("schedule", "warmup", "total_steps", "keep_best")}

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer and its schedule.

        The schedule's length is left to `on_train_start`: to count batches here, Lightning would make the loader before it restores
        the loops, and then never restore the loader's place in the epoch.
        """
        groups = decay_groups(self.module, self.weight_decay)
        optimizer = self.optimizer_class(groups, lr=self.lr, betas=self.betas, eps=self.eps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _factor(self, step: int) -> float:
        if self._n_steps is None:  # training has not started
            return 1.0
        warmup = round(self.warmup * self._n_steps) if self.warmup < 1 else int(self.warmup)
        return schedule_factor(step, total=self._n_steps, warmup=warmup, schedule=self.schedule)

    def configure_callbacks(self) -> list[Callback]:
        """Checkpoints to resume from and the best weights, if asked for."""
        best = [] if self.keep_best is None else [KeepBest(self.keep_best)]
        last = [] if self.checkpoints is None else [LastCheckpoint(self.checkpoints, self.checkpoint_every)]
        return [*best, *last]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient; raise if its norm is not finite.

        In half precision the scaler skips such steps, and sharded gradients are the strategy's.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy) or self.trainer.precision == "16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        with_gradient = [p for p in self.module.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in with_gradient])
        self._check_finite(norm, "norm of the gradient")
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            clip_grads_with_norm_(with_gradient, gradient_clip_val, norm)

    def _check_finite(self, value: Tensor, what: str) -> None:
        if torch.isfinite(value):
            return
        saved = "" if self.checkpoints is None else f" The last good checkpoint is in {str(self.checkpoints)!r}."
        msg = (
            f"The {what} became {value.item()} at step {self.global_step} (epoch {self.current_epoch}, batch {self._batch_idx}). "
            f"The model has the weights before this step.{saved} "
            f"Lower learning_rate (now {self.lr}), raise warmup, or train with precision='32-true'."
        )
        raise FloatingPointError(msg)

    def _joint(self, output: LossOutput) -> tuple[Tensor, Tensor]:
        """The loss to differentiate in this process, and the mean over what all processes have in this step."""
        loss, n, world = output.loss, output.n_obs_minibatch, self.trainer.world_size
        if world == 1:
            return loss, loss.detach()
        sums = torch.stack([loss.detach().float() * n, torch.tensor(float(n), device=loss.device)])
        distributed.all_reduce(sums)
        everyone = sums[1].clamp(min=1)
        return loss * (n * world / everyone), sums[0] / everyone

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        self._batch_idx = batch_idx
        output = self.module(self.objective.prepare(batch, self.current_epoch))[-1]
        loss, shown = self._joint(output)
        self._check_finite(shown, "loss")
        values = {"train_loss_step": shown.item(), "learning_rate": self.optimizers().param_groups[0]["lr"]}
        for logger in self.loggers:  # at once, since Lightning's own logging comes after the checkpoint of this step
            logger.log_metrics(values, step=self.global_step)
        self.log("loss", shown, prog_bar=True, logger=False)
        means = {"loss": output.loss} | output.extra_metrics
        means = {f"train_{name}": value for name, value in means.items()}
        self.log_means(means, output, on_step=False, on_epoch=True)
        return loss

    def log_means(self, values: dict[str, Tensor], output: LossOutput, **kwargs: Any) -> None:
        """Log means over what `output` is of, to be averaged over batches and processes with that weight."""
        # Lightning averages weights over processes as integers: a multiple of their number loses nothing
        weight = output.n_obs_minibatch * self.trainer.world_size
        self.log_dict(values, batch_size=weight, sync_dist=self.use_sync_dist, **kwargs)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and metrics of one batch, to be averaged over all; the objective takes note of the outputs."""
        batch = self.objective.prepare(batch, None)
        _, outputs, output = self.module(batch)
        values = {"loss": output.loss} | output.extra_metrics
        values = {f"validation_{name}": value for name, value in values.items()}
        self.log_means(values, output, prog_bar=True)
        self.objective.update(outputs, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the objective over all validation batches."""
        scores = {f"validation_{name}": torch.tensor(float(v)) for name, v in self.objective.compute().items()}
        self.log_dict(scores, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what exact resuming needs: the generators that dropout draws from, and the metrics so far."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["random_state"] = gathered({"cpu": torch.get_rng_state(), "cuda": cuda})
        checkpoint["fingerprint"] = self.identity.entries
        checkpoint["n_batches"] = self.trainer.num_training_batches
        if hasattr(self.trainer.logger, "state_dict"):
            checkpoint["history"] = self.trainer.logger.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over metrics and generators of the run that was saved."""
        self._n_batches = checkpoint["n_batches"]
        self._random_state = checkpoint["random_state"][self.trainer.global_rank]
        if "history" in checkpoint and self.trainer.is_global_zero and hasattr(self.trainer.logger, "load_state_dict"):
            self.trainer.logger.load_state_dict(checkpoint["history"])

    def on_train_start(self) -> None:
        """Seed dropout, check the number of batches in an epoch, which is known only now, and set the length of the schedule."""
        seed_generators(self.trainer.strategy.root_device, self.rng, self.stream, self.trainer.global_rank)
        if self._n_batches is not None:
            name = "batches in an epoch"
            check_same_run({name: self._n_batches}, {name: self.trainer.num_training_batches}, self.trainer.ckpt_path)
        if self._n_steps is None:
            self._n_steps = int(self.trainer.estimated_stepping_batches)
            factor = self._factor(self.lr_schedulers().last_epoch)
            for group in self.optimizers().param_groups:
                group["lr"] = group["initial_lr"] * factor
        loop = self.trainer.fit_loop
        if loop.restarted_mid_epoch and loop.epoch_progress.current.processed == loop.epoch_progress.current.ready:
            # the checkpoint came after the last batch of an epoch: let Lightning count the next one, or it takes it for finished too
            loop.reset_restart_stage()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Put the generators back as they were when the checkpoint was written."""
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if self._random_state["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random_state["cuda"])
            self._random_state = None
