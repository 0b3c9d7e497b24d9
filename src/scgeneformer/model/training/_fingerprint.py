"""What the weights at the end of a run depend on, by which a checkpoint is matched to that run."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scgeneformer._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningDataModule, Trainer

    from scgeneformer.model._base import TransformerModel

    from ._plan import TokenTrainingPlan

VERSION = "scgeneformer"  # entry that may differ
_OF_TRAINER = {  # by our names where they differ
    "accumulate": "accumulate_grad_batches",
    "gradient_clip": "gradient_clip_val",
    "processes": "world_size",
} | {
    name: name
    for name in (
        *("precision", "gradient_clip_algorithm", "limit_train_batches", "overfit_batches"),
        *("limit_val_batches", "val_check_interval", "check_val_every_n_epoch"),
    )
}
_HASH = 64  # characters


@dataclass(eq=False)
class Identity:
    """All that shapes a run, by names that a user knows: data, network, options.

    Not what it runs on: devices, workers, loggers, progress bars; nor how long it is, unless its schedule depends on that. Of a data module
    of the user nothing is known.
    """

    model: TransformerModel
    plan: TokenTrainingPlan
    datamodule: LightningDataModule
    trainer: Trainer

    @cached_property
    def entries(self) -> dict[str, Any]:
        """Plain values, made when first needed."""
        plan, trainer = self.plan, self.trainer
        entries = {VERSION: __version__, "vocabulary": self.model.vocabulary.hash} | self.model.module.fingerprint()
        entries |= plan.fingerprint() | plan.objective.fingerprint()
        entries |= getattr(self.datamodule, "fingerprint", dict)()
        entries |= {ours: getattr(trainer, theirs) for ours, theirs in _OF_TRAINER.items()}
        if plan.length_matters:
            entries |= {name: getattr(trainer, name) for name in ("max_epochs", "max_steps")}
        stopping = trainer.early_stopping_callback
        names = ("monitor", "mode", "patience", "min_delta")
        entries["early_stopping"] = stopping and {name: getattr(stopping, name) for name in names}
        return json.loads(json.dumps(entries, default=_plain))  # as it will be read


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries in which two runs differ, with both values; a checkpoint of an earlier version is compared by what it has."""
    names = [*saved, *(name for name in now if name not in saved and VERSION in saved)]
    return [
        f"{name} was {_short(saved.get(name))} and is {_short(now.get(name))}"
        for name in names
        if name != VERSION and saved.get(name) != now.get(name)
    ]


def check_same_run(saved: Mapping[str, Any], now: Mapping[str, Any], path: Any) -> None:
    """Refuse to resume from the checkpoint `path` of another run.

    Raises
    ------
    ValueError
        If they differ; the message says in what.
    """
    if differs := differences(saved, now):
        msg = (
            f"The checkpoint {str(path)!r} is of another run: {'; '.join(differs)}. Pass the same data and arguments, "
            "including rng, to resume it, or train without ckpt_path and with checkpoints in another folder."
        )
        raise ValueError(msg)


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == _HASH else reprlib.repr(value)


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python, all else as text."""
    return value.item() if hasattr(value, "item") else str(value)
