"""``train`` of classifiers of genes: which genes and cells, by what loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from scgeneformer import engine, evaluation

from .data._fields import registered_tokens
from .data._gene_splits import SETS, choose_genes, loss_weights
from .objectives._gene_plan import GenePlan, GeneSplitModule
from .training._train import place_of, run_training, token_budget_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lightning.pytorch.loggers import Logger


class GeneTrainingMixin:
    """Gives a classifier of genes its ``train``."""

    def train(
        self,
        max_epochs: int = 1,
        *,
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        split: evaluation.Split | Mapping[str, Sequence[str]] | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        test_size: float = 0.1,
        max_cells: int | None = None,
        batch_size: int | None = None,
        token_budget: int | None = None,
        count_each: Literal["occurrence", "gene"] = "occurrence",
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-3,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.1,
        gradient_clip: float = 1.0,
        accumulate: int = 1,
        precision: str = "auto",
        early_stopping: bool = False,
        keep_best: str | None = None,
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
        """Train on the cells in which some of the classified genes occur; others of these genes validate and test.

        All cells with a training gene are trained on, also those in which test genes occur: what is held out is which class these are of.

        Parameters
        ----------
        max_epochs, max_steps
            Passes over the cells, and most optimizer steps.
        accelerator, devices
            As in scvi-tools.
        split
            Which genes train, validate and test: a :class:`scgeneformer.evaluation.Split` of numbers of rows of `genes`, or a mapping
            from ``"train"``, ``"validation"``, ``"test"`` to genes. None draws one that is stratified by class; once drawn it is
            kept, also for further calls of ``train``. Genes that occur in no cell are in no set.
        train_size, validation_size, test_size
            Shares of the sets. To predict genes of unknown class, train on all: ``train_size=1, validation_size=0, test_size=0``.
        max_cells
            Most cells to train on, drawn at random; None for all. The official tool's examples take 10,000.
        batch_size
            Cells per step; overrides `token_budget`.
        token_budget
            Most tokens per step, padding included. By default 8,192, on CUDA 65,536.
        count_each
            ``"occurrence"``: every position in every cell has the same weight in the loss, as in the official tool, so that genes
            that all cells express weigh most. ``"gene"``: every gene has, however many cells express it, as it has in the scores; genes
            that few cells express then make steps noisier. Neither was reliably better on dosage-sensitive factors in blood cells.
        class_weights
            Weight of each class in the loss, or ``"balanced"``: all training genes of a class together, as `count_each` counts them,
            weigh as those of any other class.
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
            Leave the model with the weights that were best by this metric of validation; None for the last ones, since validation
            genes are few and their scores noisy.
        checkpoints, checkpoint_every, ckpt_path, logger, checkpoint_activations, compile
            As for :class:`Geneformer`.
        rng
            Seed of the split, of `max_cells` and of the order of cells. Dropout and new heads draw from torch's generator.
        datasplitter_kwargs
            For the loader (`num_workers` ...).
        plan_kwargs
            For the training plan: `optimizer`, `betas`, `eps`, `total_steps`.
        **trainer_kwargs
            For :class:`scvi.train.Trainer`, and so for Lightning's.

        Notes
        -----
        Writes nothing to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``train_accuracy`` (of
        occurrences), ``validation_loss``, and of the validation genes, each judged by its mean over cells, ``validation_accuracy``,
        ``validation_macro_f1`` and ``validation_auc``. The scores of few genes are noisy: see :meth:`cross_validate`.

        Raises
        ------
        ValueError
            If there are no data or no genes, or a class has too few genes that occur in cells.
        OSError
            If `checkpoints` cannot be written to.
        FloatingPointError
            If the loss is no longer a number; step and batch are named.
        """
        tokens, lengths = self._training_tokens()
        chosen_cells, counts = self._cells_and_counts(tokens, max_cells, rng)
        seen = counts[self._classes.tokens] > 0
        sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        chosen = self.split if split is None else None
        chosen = chosen or choose_genes(self._classes, seen, split, self.vocabulary, rng=rng, **sizes)
        sets = {"train": chosen.train, "validation": chosen.validation}
        wanted = {name: self._classes.wanted(len(counts), genes) for name, genes in sets.items()}
        cells = {name: chosen_cells[engine.rows_with(tokens[chosen_cells], there)] for name, there in wanted.items()}
        weights = loss_weights(self._classes, chosen, counts, count_each=count_each, class_weights=class_weights)
        options = {"learning_rate": learning_rate, "weight_decay": weight_decay, "schedule": schedule, "warmup": warmup}
        options |= {"checkpoints": checkpoints, "checkpoint_every": checkpoint_every}
        options |= {"keep_best": keep_best if len(cells["validation"]) else None}
        options |= {"genes": self._classes, "split": chosen, "cells": cells["train"]}
        plan = GenePlan(self.module, **options | (plan_kwargs or {}))
        datamodule = GeneSplitModule(
            tokens,
            lengths,
            cells=cells,
            codes={name: self._classes.code_of_token(len(counts), genes) for name, genes in sets.items()},
            batch_size=batch_size,
            token_budget=token_budget or token_budget_of(place_of(accelerator)),
            seed=rng,
            **(datasplitter_kwargs or {}),
        )
        self.split_ = {name: getattr(chosen, name) for name in SETS}
        self.told_ = np.union1d(self.told_, chosen.train)
        self.module.token_weights = None if weights is None else torch.from_numpy(weights)
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

    @property
    def split(self) -> evaluation.Split | None:
        """Genes that train, validate and test, as numbers of rows of `genes`; None before training."""
        return None if self.split_ is None else evaluation.Split(**self.split_)

    @property
    def told(self) -> list[str]:
        """Ids of the genes whose classes this model was trained with, in any call of ``train`` or before it was loaded from a folder."""
        return self.genes.index[self.told_].tolist()

    def _training_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of this model's data, in memory, and their lengths, if there is something to learn."""
        if self.adata_manager is None:
            msg = "This model has no data. Run `GeneClassifier.setup_anndata(adata)` and pass `adata` to the constructor or `load`."
            raise ValueError(msg)
        if len(np.unique(self._classes.codes)) < len(self._classes.names):
            msg = f"This model knows no genes of some of its classes {list(self._classes.names)}. Give them as `from_pretrained(..., classes=)`."
            raise ValueError(msg)
        tokens, lengths = registered_tokens(self.adata_manager, self.vocabulary)
        self._check_lengths(int(lengths.max(initial=0)))
        return np.asarray(tokens), lengths

    def _cells_and_counts(self, tokens: np.ndarray, max_cells: int | None, rng: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows with classified genes, at most so many of them, and how often each token occurs there, (V,)."""
        n_tokens = len(self.vocabulary)
        cells = np.flatnonzero(engine.rows_with(tokens, self._classes.wanted(n_tokens)))
        if max_cells is not None and max_cells < len(cells):
            cells = np.sort(np.random.default_rng(rng).choice(cells, max_cells, replace=False))
        if len(cells) == 0:
            msg = f"No gene of the classes {list(self._classes.names)} is among the tokens of any cell. Check the lists, or how cells were tokenized."
            raise ValueError(msg)
        return cells, engine.count_tokens(tokens[cells], n_tokens)
