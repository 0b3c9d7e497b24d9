"""One run of training with scvi-tools' runner on Lightning's trainer, whatever is trained."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from scvi.train import TrainRunner

from scgeneformer import engine, nn
from scgeneformer._run_folder import check_writable
from scgeneformer._settings import settings

from ._callbacks import best_restored
from ._checkpoint_files import CheckpointFiles, reserved
from ._fingerprint import Identity
from ._history import History, joined
from ._options import PLAN_OPTIONS, TrainOptions, named_plan_options
from ._plan import TokenTrainingPlan
from ._random import generators_restored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning.pytorch import LightningDataModule

    from scgeneformer.model._base import TransformerModel
    from scgeneformer.model.objectives._objective import Objective

_TOKEN_BUDGET = {"cuda": 65_536}


def device_of(accelerator: str) -> torch.device:
    """The device that Lightning's `accelerator` means."""
    return engine.resolve_device({"gpu": "cuda"}.get(accelerator, accelerator))


def token_budget_of(device: torch.device) -> int:
    """Tokens of a training step that keep `device` busy."""
    return _TOKEN_BUDGET.get(device.type, 8192)


def run_training(
    model: TransformerModel,
    objective: Objective,
    datamodule: LightningDataModule,
    *,
    max_epochs: int,
    options: Mapping[str, Any],
    stream: int = 0,
) -> None:
    """Train `model` for `objective` on `datamodule`.

    Parameters
    ----------
    model
        Left trained, in evaluation mode, with its history, whatever ends the run.
    objective
        What it is trained for.
    datamodule
        Its batches.
    max_epochs
        Maximum number of epochs; -1 for no limit.
    options
        All of `TrainOptions`, and options of Lightning's trainer.
    stream
        Number of the stream of dropout, for runs of one `rng` that are to differ.

    Raises
    ------
    OSError
        If the folder for checkpoints cannot be written to, another run writes there, or there is no such checkpoint to resume from.
    ValueError
        If that checkpoint, or one in the folder, is of another run, damaged, or holds more than tensors and plain values.
    FloatingPointError
        If the loss or the norm of its gradient is not finite.
    """
    options = dict(options)
    trainer_options = {name: options.pop(name) for name in set(options) - set(TrainOptions.__annotations__)}
    plan_options = {name: options[name] for name in PLAN_OPTIONS} | named_plan_options(options["plan_kwargs"])
    if not getattr(datamodule, "n_val", 1):
        plan_options["keep_best"] = None
    plan = TokenTrainingPlan(model.module, objective, **plan_options, rng=options["rng"], stream=stream)
    if plan.checkpoints is not None:
        check_writable(plan.checkpoints, "checkpoints")
    if getattr(datamodule, "n_val", 1):
        trainer_options.setdefault("check_val_every_n_epoch", 1)
    loggers = options["logger"]
    further = [] if loggers is None else loggers if isinstance(loggers, list) else [loggers]
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
        accelerator=options["accelerator"],
        devices=options["devices"],
        max_steps=-1 if options["max_steps"] is None else options["max_steps"],
        precision=_precision(options["precision"], options["accelerator"]),
        gradient_clip_val=options["gradient_clip"] or None,
        accumulate_grad_batches=options["accumulate"],
        early_stopping=options["early_stopping"],
        ckpt_path=options["ckpt_path"],
        logger=[History(), *further],
        **defaults | trainer_options,
    )
    datamodule.trainer = runner.trainer  # as when it is fitted; batches depend on its device
    if type(runner.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        runner.trainer.strategy.checkpoint_io = CheckpointFiles()
    plan.identity = Identity(model, plan, datamodule, runner.trainer)
    with reserved(plan.checkpoints, options["ckpt_path"], plan.identity), _kept_usable(model, runner):
        if options["compile"]:
            nn.compile_blocks(model.module.network)
        model.encoder.checkpoint_activations = options["checkpoint_activations"]
        model.module.train()  # Lightning leaves modes as it finds them, and dropout would stay off
        with generators_restored(runner.trainer.strategy.root_device), best_restored(model, runner):
            runner()


def loader_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `TrainOptions` that concern the batches, as arguments of `TokenRows`."""
    budget = options["token_budget"] or token_budget_of(device_of(options["accelerator"]))
    shared = {"batch_size": options["batch_size"], "token_budget": budget, "seed": options["rng"]}
    return shared | (options["datasplitter_kwargs"] or {})


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


def _precision(precision: str | None, accelerator: str) -> str:
    """Precision of Lightning's trainer; None is the setting."""
    precision = settings.precision if precision is None else precision
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(device_of(accelerator)) else "float32"
    return {"bfloat16": "bf16-mixed", "float32": "32-true"}.get(precision, precision)


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on `device`."""
    if device.type == "cpu":
        capabilities: dict[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older releases of torch cannot say
        return bool(capabilities.get("avx512_bf16", False))
    return engine.resolve_precision("auto", device) == torch.bfloat16
