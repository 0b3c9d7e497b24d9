"""``train`` of classifiers of cells: which cells train, by what loss, and what the rest says of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from scgeneformer import _keys, evaluation

from .data._cell_splits import SETS, choose_split
from .data._columns import LABELS_PREFIX
from .data._fields import registered_tokens
from .data._rows import LabelsOfCells, SplitModule
from .objectives._cell_plan import ClassifierPlan
from .training._train import place_of, run_training, token_budget_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from lightning.pytorch.loggers import Logger

    from .data._cell_labels import CellTask


class CellTrainingMixin:
    """Gives a classifier of cells its ``train``."""

    def train(
        self,
        max_epochs: int = 10,
        *,
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        split: evaluation.Split | str | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        test_size: float = 0.1,
        balance: Sequence[str] | None = None,
        batch_size: int | None = None,
        token_budget: int | None = None,
        class_weights: Literal["balanced"] | Mapping[str, Any] | None = None,
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-3,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.1,
        gradient_clip: float = 1.0,
        accumulate: int = 1,
        precision: str = "auto",
        early_stopping: bool = False,
        keep_best: str | None = "validation_loss",
        checkpoints: str | Path | None = None,
        checkpoint_every: int | None = None,
        ckpt_path: str | Path | None = None,
        logger: Logger | list[Logger] | None = None,
        checkpoint_activations: bool = False,
        compile: bool = False,
        rng: int = 0,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on the labelled cells of some samples, or go on training on the same.

        Parameters
        ----------
        max_epochs, max_steps
            Passes over the training cells, and most optimizer steps.
        accelerator, devices
            As in scvi-tools.
        split
            Which cells train, validate and test: a :class:`scgeneformer.evaluation.Split`, or the name of a column of ``.obs`` with
            ``"train"``, ``"validation"``, ``"test"`` or NaN. None draws one, by samples where the data were set up with any, else
            stratified by the first column of labels; once drawn it is kept, also for further calls of ``train``.
        train_size, validation_size, test_size
            Shares of the sets.
        balance
            Covariates, columns of ``.obs``, that the sets are to be alike in.
        batch_size
            Cells per step; overrides `token_budget`.
        token_budget
            Most tokens per step, padding included. By default 8,192, on CUDA 65,536. Batches hold cells of similar length.
        class_weights
            Weight of each class in the loss: ``"balanced"`` by the inverse of its frequency among the training cells; a mapping from
            classes; or a mapping from columns to either.
        learning_rate, weight_decay
            Of AdamW. The official tool's default rate, 5e-5, is for large models.
        schedule, warmup
            Descent of the learning rate, per step, after a linear rise over `warmup` steps (or that share of all steps, below 1).
        gradient_clip
            Largest norm of the gradient; 0 for no limit.
        accumulate
            Batches per optimizer step.
        precision
            As for :class:`Geneformer`.
        early_stopping
            Stop when ``validation_loss`` no longer falls (`early_stopping_patience` etc. go to the trainer).
        keep_best
            Leave the model with the weights that were best by this metric of validation, as the official tool does; None for the last.
        checkpoints, checkpoint_every, ckpt_path, logger, checkpoint_activations, compile
            As for :class:`Geneformer`.
        rng
            Seed of the split and of the order of cells. Dropout and new heads draw from torch's generator.
        datasplitter_kwargs
            For the loader (`num_workers` ...).
        plan_kwargs
            For the training plan: `optimizer`, `betas`, `eps`, `total_steps`.
        **trainer_kwargs
            For :class:`scvi.train.Trainer`, and so for Lightning's.

        Notes
        -----
        Writes nothing to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``validation_loss``,
        ``validation_accuracy``, ``validation_macro_f1``, ``validation_auc``, and those of each task where there are several. Afterwards the
        scores are calibrated on the validation cells (:meth:`calibrate`).

        Raises
        ------
        ValueError
            If there are no data, a class or sample leaves no way to split, or sets share a sample.
        OSError
            If `checkpoints` cannot be written to.
        FloatingPointError
            If the loss is no longer a number; step and batch are named.
        """
        if self.adata_manager is None:
            msg = "This model has no data. Run `CellClassifier.setup_anndata(adata, labels)` and pass `adata` to the constructor or `load`."
            raise ValueError(msg)
        tokens, lengths = registered_tokens(self.adata_manager, self.vocabulary)
        self._check_lengths(int(lengths.max(initial=0)))
        labels = self.labels()
        sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        chosen = self.split if split is None and self.split_ is not None else None
        chosen = chosen or choose_split(
            self._cells(),
            self.tasks,
            labels,
            split,
            sample=self.registry["setup_args"].get("sample"),
            balance=balance,
            rng=rng,
            **sizes,
        )
        self.module.class_weights = self._class_weights(labels[chosen.train], class_weights)
        self.split_ = {name: getattr(chosen, name) for name in SETS}
        self.temperature_ = {}
        options = {"learning_rate": learning_rate, "weight_decay": weight_decay, "schedule": schedule, "warmup": warmup}
        options |= {"checkpoints": checkpoints, "checkpoint_every": checkpoint_every}
        options |= {"keep_best": keep_best if len(chosen.validation) else None}
        plan = ClassifierPlan(self.module, split=chosen, **options | (plan_kwargs or {}))
        datamodule = SplitModule(
            np.asarray(tokens),
            lengths,
            LabelsOfCells(labels),
            split=chosen,
            batch_size=batch_size,
            token_budget=token_budget or token_budget_of(place_of(accelerator)),
            seed=rng,
            **(datasplitter_kwargs or {}),
        )
        run_training(
            self,
            plan,
            datamodule,
            max_epochs=max_epochs,
            max_steps=max_steps,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            gradient_clip=gradient_clip,
            accumulate=accumulate,
            early_stopping=early_stopping,
            ckpt_path=ckpt_path,
            logger=logger,
            checkpoint_activations=checkpoint_activations,
            compile=compile,
            **trainer_kwargs,
        )
        self.calibrate()

    @property
    def split(self) -> evaluation.Split:
        """Cells of this model's data that train, validate and test.

        Raises
        ------
        AttributeError
            If the model was not trained; scvi-tools looks at all attributes when it saves, and takes this for one that is not there.
        """
        if self.split_ is None:
            msg = "This model has not been trained, and so has no split of cells. Call `train` first."
            raise AttributeError(msg)
        return evaluation.Split(**self.split_)

    def calibrate(self) -> dict[str, float]:
        """Fit a temperature to the scores of the validation cells, for each column of categories (Guo 2017).

        Returns
        -------
        The temperatures, by task, which :meth:`predict` divides scores by; none without validation cells.
        """
        cells, labels = self.split.validation, self.labels()
        self.temperature_ = {}
        for i, task in enumerate(self.tasks):
            there = cells[~np.isnan(labels[cells, i])]
            if task.kind == "categorical" and len(there):
                scores = self.scores(indices=there, task=task.name)
                seen = np.isfinite(scores[:, 0])  # cells without tokens have none
                if seen.any():
                    codes = labels[there, i].astype(np.int64)
                    self.temperature_[task.name] = evaluation.temperature(scores[seen], codes[seen])
        return dict(self.temperature_)

    def labels(self, adata: AnnData | None = None) -> np.ndarray:
        """Labels of cells as numbers: codes of classes, standardised values, NaN where missing; float32 (n_obs, tasks).

        Parameters
        ----------
        adata
            Data with the columns of the tasks; None for those of this model.
        """
        cells = self._cells() if adata is None else adata
        unlabeled = self.registry["setup_args"].get("unlabeled")
        return np.stack([task.encode(cells.obs[task.name], unlabeled) for task in self.tasks], 1)

    def _cells(self) -> AnnData:
        """The AnnData, or modality, with this model's labels."""
        where = self.adata_manager.data_registry[LABELS_PREFIX + self.tasks[0].name]
        mod = dict(where).get("mod_key")
        return self.adata if mod is None else _keys.as_adata(self.adata, mod)

    def _class_weights(self, labels: np.ndarray, given: Any) -> dict[str, torch.Tensor]:
        """Weights of classes, by task."""
        if given is None:
            return {}
        names = {task.name for task in self.tasks}
        by_task = given if isinstance(given, dict) and set(given) <= names else dict.fromkeys(names, given)
        columns = {task.name: (task, labels[:, i]) for i, task in enumerate(self.tasks) if task.kind != "continuous"}
        return {name: _weights(*columns[name], by_task[name]) for name in by_task if name in columns}


def _weights(task: CellTask, labels: np.ndarray, given: Any) -> torch.Tensor:
    if given == "balanced":
        counts = np.bincount(labels[~np.isnan(labels)].astype(np.int64), minlength=len(task.classes))
        return torch.from_numpy(counts.sum() / (len(counts) * np.maximum(counts, 1))).float()
    if not isinstance(given, dict) or set(given) != set(task.classes):
        msg = f"class_weights={given!r} must be 'balanced' or give a weight to each of {list(task.classes)}."
        raise ValueError(msg)
    return torch.tensor([float(given[name]) for name in task.classes])
