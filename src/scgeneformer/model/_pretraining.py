"""``train`` of masked genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .corpus._corpus import Corpus
from .data._fields import TokenSplitter
from .data._masking import Masking
from .objectives._masked_plan import GeneformerPlan
from .training._train import place_of, run_training, token_budget_of

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.loggers import Logger

_EPOCHS = 3  # of the published models


class PretrainingMixin:
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
        optimizer: Literal["adamw", "adam"] = "adamw",
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
        logger: Logger | list[Logger] | None = None,
        checkpoint_activations: bool = False,
        compile: bool = False,
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
        optimizer, learning_rate, weight_decay
            AdamW, or Adam, whose decay is added to the gradient (betas 0.9 and 0.999, eps 1e-8). Biases and layer norms are not decayed.
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
            (Only the means `train_loss` and `train_accuracy` of the epoch in which it stopped are over what was left of it, if anything.)
        logger
            Loggers of Lightning beside `history`, such as ``TensorBoardLogger("logs")`` or ``CSVLogger("logs")``.
        checkpoint_activations
            Compute the states within a block anew for its gradient instead of keeping them: less memory, about a third more time.
        compile
            Compile the blocks with :meth:`torch.nn.Module.compile`.
        rng
            Seed of the split, the order of cells and the masks. Dropout draws from torch's generator, as elsewhere in scvi-tools.
        datasplitter_kwargs
            For the loader (`num_workers` ...) and the split (`external_indexing`).
        plan_kwargs
            For the training plan: `betas`, `eps` and all the above that concern the optimizer.
        datamodule
            Use this instead of registered data: a :class:`Corpus` of files, or one of your own. Its batches are dicts with ``tokens`` (B, L), right-padded with 0 and not masked.
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
            If there are no data, cells longer than the model has positions, or arguments that a data module would ignore.
        FloatingPointError
            If the loss is no longer a number; the step is named.
        """
        if datamodule is None and self.adata_manager is None:
            msg = "This model has no data. Run `Geneformer.setup_anndata(adata)` and pass `adata` to the constructor or `load`."
            raise ValueError(msg)
        if isinstance(datamodule, Corpus):
            datamodule.check_fits(self.vocabulary, self.encoder.config.max_length)
        if datamodule is not None:
            asked = {"train_size": train_size, "validation_size": validation_size, "token_budget": token_budget}
            asked |= {"datasplitter_kwargs": datasplitter_kwargs}
            if batch_size is not None and hasattr(datamodule, "set_batch_size"):
                datamodule.set_batch_size(batch_size)
            else:
                asked["batch_size"] = batch_size
            given = [name for name, value in asked.items() if value is not None]
            if given:
                msg = f"{', '.join(given)} have no effect on a data module, which makes its own batches and sets: give them to that."
                raise ValueError(msg)
        if max_epochs is None:
            max_epochs = _EPOCHS if max_steps is None else -1
        rule = Masking.over(self.vocabulary, rule=masking, probability=mask_probability, seed=rng)
        options = {"optimizer": optimizer, "learning_rate": learning_rate, "weight_decay": weight_decay}
        options |= {"schedule": schedule, "warmup": warmup}
        options |= {"checkpoints": checkpoints, "checkpoint_every": checkpoint_every}
        plan = GeneformerPlan(self.module, masking=rule, **options | (plan_kwargs or {}))
        if datamodule is None:
            datamodule = TokenSplitter(
                self.adata_manager,
                masking=rule,
                vocabulary=self.vocabulary,
                train_size=_train_size(train_size, validation_size),
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                batch_size=batch_size,
                token_budget=token_budget or token_budget_of(place_of(accelerator)),
                seed=rng,
                **datasplitter_kwargs or {},
            )
            self._check_lengths(int(datamodule.lengths.max(initial=0)))
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


def _train_size(train_size: float | None, validation_size: float | None) -> float:
    """Nine tenths, or what validation leaves."""
    if train_size is not None:
        return train_size
    return 0.9 if validation_size is None else 1 - validation_size
