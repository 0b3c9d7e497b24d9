"""One run of training with scvi-tools' runner on Lightning's trainer, whatever is trained."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from scvi.train import TrainRunner

from scgeneformer import engine, nn
from scgeneformer._settings import settings

from ._callbacks import best_restored, check_plain, check_writable
from ._history import History, joined

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.loggers import Logger

    from scgeneformer.model._base import TransformerModel

    from ._plan import Plan

_TOKEN_BUDGET = {"cuda": 65_536}


def place_of(accelerator: str) -> torch.device:
    """The device that Lightning's `accelerator` means."""
    return engine.resolve_device({"gpu": "cuda"}.get(accelerator, accelerator))


def token_budget_of(device: torch.device) -> int:
    """Tokens of a training step that keep `device` busy."""
    return _TOKEN_BUDGET.get(device.type, 8192)


def run_training(
    model: TransformerModel,
    plan: Plan,
    datamodule: LightningDataModule,
    *,
    max_epochs: int,
    max_steps: int | None = None,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    precision: str = "auto",
    gradient_clip: float = 1.0,
    accumulate: int = 1,
    early_stopping: bool = False,
    ckpt_path: str | Path | None = None,
    logger: Logger | list[Logger] | None = None,
    checkpoint_activations: bool = False,
    compile: bool = False,
    **trainer_kwargs: Any,
) -> None:
    """Train `model` by `plan` on `datamodule`; the arguments are those of the models' ``train``.

    Raises
    ------
    OSError
        If the folder for checkpoints cannot be written to, or the checkpoint to resume from is not there.
    ValueError
        If that checkpoint holds more than tensors and plain values.
    FloatingPointError
        If the loss or the norm of its gradient is no longer a number.
    """
    if plan.checkpoints is not None:
        check_writable(plan.checkpoints, "checkpoints")
    if ckpt_path is not None:
        check_plain(ckpt_path)
    if getattr(datamodule, "n_val", 1):
        trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
    if precision == "auto":
        precision = "bf16-mixed" if _has_fast_bfloat16(place_of(accelerator)) else "32-true"
    further = [] if logger is None else logger if isinstance(logger, list) else [logger]
    defaults = {
        "simple_progress_bar": False,
        "enable_progress_bar": settings.progress,
        "early_stopping_monitor": "validation_loss",
        "use_distributed_sampler": False,  # batches are dealt to processes by the sampler
    }
    runner = TrainRunner(
        model,
        training_plan=plan,
        data_splitter=datamodule,
        max_epochs=max_epochs,
        accelerator=accelerator,
        devices=devices,
        max_steps=-1 if max_steps is None else max_steps,
        precision=precision,
        gradient_clip_val=gradient_clip or None,
        accumulate_grad_batches=accumulate,
        early_stopping=early_stopping,
        ckpt_path=ckpt_path,
        logger=[History(), *further],
        **defaults | trainer_kwargs,
    )
    with _kept_usable(model, runner):
        if compile:
            nn.compile_blocks(model.module.network)
        model.encoder.checkpoint_activations = checkpoint_activations
        model.module.train()  # Lightning leaves modes as it finds them, and dropout would stay off
        with best_restored(model, runner.trainer):
            runner()


@contextmanager
def _kept_usable(model: TransformerModel, runner: TrainRunner) -> Iterator[None]:
    """Whatever ends the run, leave the model trained, in evaluation mode, with its history; an interrupt stays one."""
    before = dict(model.history_ or {})
    trained = model.is_trained_
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    except SystemExit as stop:  # what Lightning makes of an interrupt, after switching off the signal
        if not runner.trainer.interrupted:
            raise
        msg = f"Training was interrupted after {runner.trainer.global_step} steps. The model has the weights of that step."
        raise KeyboardInterrupt(msg) from stop
    finally:
        if in_main:
            signal.signal(signal.SIGINT, on_interrupt)
        model.encoder.checkpoint_activations = False
        model.module.eval()
        model.is_trained_ = trained or runner.trainer.global_step > 0
        new = getattr(runner.trainer.logger, "history", None)
        model.history_ = joined(before, new) if isinstance(new, dict) else before


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on `device`."""
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch cannot say
        return bool(known.get("avx512_bf16", False))
    return engine.resolve_precision("auto", device) == torch.bfloat16
