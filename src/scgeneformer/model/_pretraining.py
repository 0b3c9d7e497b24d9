"""``train``: the masked-gene objective with scvi-tools' runner on Lightning's trainer."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi.train import TrainRunner

from scgeneformer import engine
from scgeneformer._settings import settings

from ._data import TokenSplitter
from ._history import History, joined
from ._masking import Masking
from ._plan import GeneformerPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.pytorch import LightningDataModule

_TOKEN_BUDGET = {"cuda": 65_536}
_EPOCHS = 3  # of the published models


class TrainingMixin:
    """Gives a model of masked genes its ``train``."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
        token_budget: int | None = None,
        masking: Literal["protected", "geneformer"] = "protected",
        mask_probability: float = 0.15,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-3,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.05,
        gradient_clip: float = 1.0,
        accumulate: int = 1,
        precision: str = "auto",
        early_stopping: bool = False,
        checkpoints: str | Path | None = None,
        checkpoint_every: int | None = None,
        ckpt_path: str | Path | None = None,
        rng: int = 0,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on hidden genes (Theodoris 2023), or go on training.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. Without this and `max_steps`: 3, as the published models.
        max_steps
            Number of optimizer steps; with `max_epochs`, whatever is reached first.
        accelerator, devices
            As in scvi-tools.
        train_size, validation_size
            Shares of the cells. By default nine tenths train and the rest validates. Validation cells are masked the same way at
            every check, so that their losses can be compared.
        shuffle_set_split
            Draw the sets at random; else validation cells come first.
        batch_size
            Cells per step; overrides `token_budget`.
        token_budget
            Most tokens per step, padding included. By default 8,192, on CUDA 65,536. Batches hold cells of similar length.
        masking
            ``"protected"`` never hides special tokens nor puts them in the place of genes. ``"geneformer"`` is the official rule,
            which treats ``<cls>`` and ``<eos>`` as genes.
        mask_probability
            Share of positions that are hidden: 80 % of them as ``<mask>``, 10 % as a random token, 10 % left as they are.
        learning_rate, weight_decay
            Of AdamW (betas 0.9 and 0.999, eps 1e-8). Biases and layer norms are not decayed.
        schedule, warmup
            Descent of the learning rate, per step, after a linear rise over `warmup` steps (or that share of all steps, below 1).
        gradient_clip
            Largest norm of the gradient; 0 for no limit.
        accumulate
            Batches per optimizer step.
        precision
            ``"auto"`` is ``"bf16-mixed"`` on CUDA devices and processors with instructions for it (AVX-512 bf16, about a third faster),
            and ``"32-true"`` elsewhere; or any precision of Lightning's trainer.
        early_stopping
            Stop when ``validation_loss`` no longer falls (`early_stopping_patience` etc. go to the trainer).
        checkpoints, checkpoint_every
            Folder for ``last.ckpt``, from which a run is resumed, and steps between two of them; None writes one per epoch. The best model
            by `validation_loss` is kept by scvi-tools' :class:`~scvi.train.SaveCheckpoint` among the `callbacks`.
        ckpt_path
            Checkpoint to resume from: the run goes on as if it had never stopped, on the same data with the same arguments.
            (Only the mean `train_loss` of the epoch in which it stopped is over what was left of it.)
        rng
            Seed of the split, the order of cells and the masks. Dropout draws from torch's generator, as elsewhere in scvi-tools.
        datasplitter_kwargs
            For the loader (`num_workers` ...) and the split (`external_indexing`).
        plan_kwargs
            For the training plan: `betas`, `eps` and all the above that concern the optimizer.
        datamodule
            Use this instead of registered data. Its batches are dicts with ``tokens`` (B, L), right-padded with 0 and not masked.
        **trainer_kwargs
            For :class:`scvi.train.Trainer`, and so for Lightning's.

        Notes
        -----
        Writes nothing to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``train_accuracy``,
        ``validation_loss`` and ``validation_accuracy`` (share of hidden genes that are named) as DataFrames over optimizer steps.
        An interrupted run leaves the weights of its last step, ready for use.

        Raises
        ------
        ValueError
            If there are no data, or cells longer than the model has positions.
        FloatingPointError
            If the loss is no longer a number; the step is named.
        """
        if datamodule is None and self.adata_manager is None:
            msg = "This model has no data. Run `Geneformer.setup_anndata(adata)` and pass `adata` to the constructor or `load`."
            raise ValueError(msg)
        if max_epochs is None:
            max_epochs = _EPOCHS if max_steps is None else -1
        device = engine.resolve_device({"gpu": "cuda"}.get(accelerator, accelerator))
        rule = Masking.over(self.vocabulary, rule=masking, probability=mask_probability, seed=rng)
        plan = {"learning_rate": learning_rate, "weight_decay": weight_decay, "schedule": schedule, "warmup": warmup}
        plan |= {"checkpoints": checkpoints, "checkpoint_every": checkpoint_every}
        training_plan = GeneformerPlan(self.module, masking=rule, **plan | (plan_kwargs or {}))
        if datamodule is None:
            split = {"train_size": _train_size(train_size, validation_size), "validation_size": validation_size}
            split |= {"shuffle_set_split": shuffle_set_split, "batch_size": batch_size, "seed": rng}
            split |= {
                "token_budget": token_budget or _TOKEN_BUDGET.get(device.type, 8192),
                "pad_id": self.vocabulary.pad_id,
            }
            datamodule = TokenSplitter(self.adata_manager, masking=rule, **split | (datasplitter_kwargs or {}))
            self._check_lengths(int(datamodule.lengths.max(initial=0)))
        if getattr(datamodule, "n_val", 1):
            trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        if precision == "auto":
            precision = "bf16-mixed" if _has_fast_bfloat16(device) else "32-true"
        defaults = {
            "logger": History(),
            "simple_progress_bar": False,
            "enable_progress_bar": settings.progress,
            "early_stopping_monitor": "validation_loss",
            "gradient_clip_val": gradient_clip or None,
            "use_distributed_sampler": False,  # batches are dealt to processes by the sampler
        }
        runner = TrainRunner(
            self,
            training_plan=training_plan,
            data_splitter=datamodule,
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            max_steps=-1 if max_steps is None else max_steps,
            precision=precision,
            accumulate_grad_batches=accumulate,
            early_stopping=early_stopping,
            ckpt_path=ckpt_path,
            **defaults | trainer_kwargs,
        )
        with self._kept_usable(runner):
            self.module.train()  # Lightning leaves modes as it finds them, and dropout would stay off
            runner()

    def _check_lengths(self, longest: int) -> None:
        positions = self.encoder.config.max_length
        if longest > positions:
            msg = (
                f"The longest cell has {longest} tokens, but this model has {positions} positions. "
                f"Run `sg.pp.tokenize(adata, model.vocabulary, max_length={positions})`."
            )
            raise ValueError(msg)

    @contextmanager
    def _kept_usable(self, runner: TrainRunner) -> Iterator[None]:
        """Whatever ends the run, leave the model trained, in evaluation mode, with its history; an interrupt stays one."""
        before = dict(self.history_ or {})
        trained = self.is_trained_
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
            self.module.eval()
            self.is_trained_ = trained or runner.trainer.global_step > 0
            new = getattr(runner.trainer.logger, "history", None)
            self.history_ = joined(before, new) if isinstance(new, dict) else before


def _train_size(train_size: float | None, validation_size: float | None) -> float:
    """Nine tenths, or what validation leaves."""
    if train_size is not None:
        return train_size
    return 0.9 if validation_size is None else 1 - validation_size


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on `device`."""
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch cannot say
        return bool(known.get("avx512_bf16", False))
    return engine.resolve_precision("auto", device) == torch.bfloat16
