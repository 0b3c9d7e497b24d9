"""One trial of hyperparameter tuning, which runs in a worker of Ray."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from scgeneformer._settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from lightning.pytorch import LightningModule
    from scvi.train import Trainer

    from scgeneformer.model._base import TransformerModel

OBJECTIVE = "objective"  # by which trials are compared: the best value of the metric so far


@dataclass(frozen=True, eq=False)
class Search:
    """Data and arguments that all trials share. Ray keeps one copy per machine, whose arrays the workers read without copying.

    Attributes
    ----------
    model_cls
        Class of the model.
    adata
        Cells with only their registered slots.
    setup_method, setup_args
        Method that registers them, and its arguments.
    model_params, train_params
        Arguments of the constructor and of ``train`` that are the same in all trials.
    constructed
        Names in the space that are arguments of the constructor.
    metric, mode
        Validation metric, and whether its ``"min"`` or ``"max"`` is best.
    rng
        Seed of the weights and of dropout.
    threads
        Number of threads of torch in a trial.
    settings
        Settings of the process that called `tune`.
    """

    model_cls: type[TransformerModel]
    adata: AnnData
    setup_method: str
    setup_args: Mapping[str, Any]
    model_params: Mapping[str, Any]
    train_params: Mapping[str, Any]
    constructed: frozenset[str]
    metric: str
    mode: str
    rng: int
    threads: int
    settings: Mapping[str, Any]


def run_trial(config: dict[str, Any], search: Search) -> dict[str, Any]:
    """Train one model with the hyperparameters of `config` and report each validation; return the last report, marked as finished.

    Raises
    ------
    ValueError
        If the metric is not a validation metric, or nothing is validated.
    FloatingPointError
        If the metric is not finite.
    """
    # time to clean up after a stop, before this process is reused
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "300")
    torch.set_num_threads(search.threads)
    for name, value in search.settings.items():
        setattr(settings, name, value)
    chosen = {name: value for name, value in config.items() if name in search.constructed}
    getattr(search.model_cls, search.setup_method)(search.adata, **search.setup_args)
    torch.manual_seed(search.rng)
    model = search.model_cls(search.adata, **{**search.model_params, **chosen})
    arguments = dict(search.train_params)
    arguments |= {name: value for name, value in config.items() if name not in search.constructed}
    report = Report(model, search.metric, search.mode)
    model.train(**arguments | {"callbacks": [*arguments.get("callbacks", ()), report]})
    if not report.last:
        msg = f"There was no validation, so {search.metric!r} is not known. Set `validation_size` in train_params above 0."
        raise ValueError(msg)
    return report.last | {"finished": True}


class Report(Callback):
    """Reports the metrics of each validation to Ray, with the model if it is the best so far.

    Ray may end the trial here, by an exit of its thread, if other trials are better.
    """

    def __init__(self, model: TransformerModel, metric: str, mode: str) -> None:
        self.model, self.metric = model, metric
        self.sign = -1.0 if mode == "min" else 1.0
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    def on_validation_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Report."""
        from ray import tune

        if trainer.sanity_checking:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("validation_")}
        if self.metric not in metrics:
            msg = f"metric={self.metric!r} is not among the validation metrics: {sorted(metrics)}."
            raise ValueError(msg)
        epoch, value = trainer.current_epoch + 1, metrics[self.metric]
        if not math.isfinite(value):
            msg = f"{self.metric} is {value} after epoch {epoch}: trials cannot be compared by it."
            raise FloatingPointError(msg)
        better = not self.best or self.sign * value > self.sign * self.best["metrics"][self.metric]
        if better:
            self.best = {"epoch": epoch, "metrics": metrics}
        self.last = metrics | {"epoch": epoch, "best": self.best, "finished": False}
        self.last[OBJECTIVE] = self.best["metrics"][self.metric]
        if not better:
            tune.report(self.last)
            return
        with tempfile.TemporaryDirectory() as folder:
            self._save(trainer, folder)
            tune.report(self.last, checkpoint=tune.Checkpoint.from_directory(folder))

    def _save(self, trainer: Trainer, folder: str) -> None:
        """Save the model as it would be if training ended now: trained, with its history and the cells of each set."""
        model, data = self.model, trainer.datamodule
        before = model.history_, model.is_trained_
        model.history_, model.is_trained_ = trainer.logger.history, True
        model.train_indices, model.validation_indices = data.train_idx, data.val_idx
        model.test_indices = data.test_idx
        model.save(folder, overwrite=True)
        model.history_, model.is_trained_ = before
