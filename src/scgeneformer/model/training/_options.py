"""The options that all ``train`` methods share."""

from __future__ import annotations

import difflib
import functools
import inspect
from pathlib import Path  # noqa: TC003 the annotations of options are evaluated
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.loggers import Logger  # noqa: TC002
from scvi.train import Trainer

from scgeneformer._arguments import check_keywords, checked
from scgeneformer._docs import doc_params, shared_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class TrainOptions(TypedDict, total=False):
    """Options of training that all models share.

    Attributes
    ----------
    max_steps
        Maximum number of optimizer steps; training ends with `max_epochs` or `max_steps`, whichever comes first.
    accelerator, devices
        As in scvi-tools.
    batch_size
        Number of cells per step; overrides `token_budget`.
    token_budget
        Maximum number of tokens per step, padding included. Defaults to 8,192, on CUDA to 65,536. Batches hold cells of similar length.
    optimizer
        ``"adamw"``, or ``"adam"``, whose decay is added to the gradient (betas 0.9 and 0.999, eps 1e-8).
    learning_rate, weight_decay
        Options of the optimizer. Biases and layer norms are not decayed. The official tool fine-tunes large models with a learning rate of 5e-5.
    schedule, warmup
        Decay of the learning rate, by step, after a linear increase over `warmup` steps (below 1: over that fraction of all steps).
    gradient_clip
        Maximum norm of the gradient; 0 for no limit.
    accumulate
        Number of batches per optimizer step.
    precision
        ``"auto"`` is ``"bf16-mixed"`` on CUDA devices and processors with instructions for it (AVX-512 bf16, about a third faster), and
        ``"32-true"`` elsewhere; or any precision of Lightning's trainer. Defaults to ``settings.precision``.
    early_stopping
        Stop when ``validation_loss`` no longer falls (`early_stopping_patience` etc. go to the trainer).
    keep_best
        Validation metric, such as ``"validation_loss"``: the model is left with the weights of its best value, the minimum of losses and
        errors, the maximum of other metrics. None leaves the last weights.
    checkpoints, checkpoint_every
        Folder for ``last.ckpt``, from which a run can be resumed, and number of steps between two checkpoints. Defaults to one per epoch.
        The one before it is kept as ``previous.ckpt``. A folder belongs to one run at a time, and one with a checkpoint of another run is
        refused; one of the same run is replaced if `ckpt_path` is not given.
    ckpt_path
        Checkpoint to resume from: with the same data and arguments, the run continues as if it had never stopped. Whatever shapes the run
        must be the same, or the error names it; devices, workers, loggers and progress bars may differ, and `max_epochs` and `max_steps`
        if the schedule does not depend on them (``"constant"``, or `total_steps` in `plan_kwargs`).
        (Only ``train_loss`` and ``train_accuracy`` of the interrupted epoch differ: they are means over the rest of that epoch.)
    logger
        Loggers of Lightning in addition to `history`, such as ``TensorBoardLogger("logs")`` or ``CSVLogger("logs")``.
    checkpoint_activations
        Recompute the states within a block for its gradient instead of storing them: less memory, about a third more time.
    compile
        Compile the blocks with :meth:`torch.nn.Module.compile`.
    rng
        Seed of the split, the order of cells, masks, dropout, and the head and adapters of a classifier that was not trained before. The
        generator of torch is left as it was.
    datasplitter_kwargs
        Options of the data loader (`num_workers` ...).
    plan_kwargs
        Options of the training plan: `betas`, `eps`, `total_steps`, and all options above that concern the optimizer (`lr` is
        `learning_rate`).
    """

    max_steps: int | None
    accelerator: str
    devices: int | list[int] | str
    batch_size: int | None
    token_budget: int | None
    optimizer: Literal["adamw", "adam"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["linear", "cosine", "constant"]
    warmup: float
    gradient_clip: float
    accumulate: int
    precision: str | None
    early_stopping: bool
    keep_best: str | None
    checkpoints: str | Path | None
    checkpoint_every: int | None
    ckpt_path: str | Path | None
    logger: Logger | list[Logger] | None
    checkpoint_activations: bool
    compile: bool
    rng: int
    datasplitter_kwargs: dict[str, Any] | None
    plan_kwargs: dict[str, Any] | None


PLAN_OPTIONS = (
    *("optimizer", "learning_rate", "weight_decay", "schedule", "warmup"),
    *("checkpoints", "checkpoint_every", "keep_best"),
)
_PLAN_ONLY = ("betas", "eps", "total_steps")
_DEFAULTS = {
    "max_steps": None,
    "accelerator": "auto",
    "devices": "auto",
    "batch_size": None,
    "token_budget": None,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "schedule": "linear",
    "warmup": 0.05,
    "gradient_clip": 1.0,
    "accumulate": 1,
    "precision": None,
    "early_stopping": False,
    "keep_best": None,
    "checkpoints": None,
    "checkpoint_every": None,
    "ckpt_path": None,
    "logger": None,
    "checkpoint_activations": False,
    "compile": False,
    "rng": 0,
    "datasplitter_kwargs": None,
    "plan_kwargs": None,
}
_RAISES = """
    TypeError, ValueError
        If an option is unknown, or its value is not allowed.
    OSError
        If `checkpoints` cannot be written to, or another run writes there.
    FloatingPointError
        If the loss is not finite; the message names step and batch.
    """
_OURS = {  # for words of other packages
    "lr": "learning_rate",
    "n_epochs": "max_epochs",
    "epochs": "max_epochs",
    "gradient_clip_val": "gradient_clip",
    "accumulate_grad_batches": "accumulate",
    "seed": "rng",
    "random_state": "rng",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup",
    "use_gpu": "accelerator",
    "early_stopping_kwargs": "early_stopping_patience",
}


def train_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a ``train`` method all of `TrainOptions`, with these defaults where they differ."""

    def decorate(train: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(train)
        def with_known_options(*args: Any, **options: Any) -> None:
            explicit = inspect.signature(train).parameters.keys()
            check_trainer_options(options.keys() - explicit - TrainOptions.__annotations__.keys())
            check_keywords(documented, named_plan_options(options["plan_kwargs"]))
            train(*args, **options)

        documented = shared_options(TrainOptions, defaults=_DEFAULTS | defaults, rest="trainer_kwargs")(
            with_known_options
        )
        return checked(doc_params(raises=_RAISES)(documented))

    return decorate


def check_trainer_options(names: Iterable[str]) -> None:
    """Refuse names that are not options of Lightning's trainer either.

    Raises
    ------
    TypeError
        If there is such a name; the nearest option is named.
    """
    allowed = _trainer_options()
    for name in names:
        if name not in allowed:
            msg = f"train() has no option {name!r}, and neither has Lightning's trainer.{_hint(name, {*_DEFAULTS, *allowed})}"
            raise TypeError(msg)


def named_plan_options(given: dict[str, Any] | None) -> dict[str, Any]:
    """Options of the training plan by our names.

    Raises
    ------
    TypeError
        If there is no such option; the nearest one is named.
    """
    options = {"learning_rate" if name == "lr" else name: value for name, value in (given or {}).items()}
    allowed = {*PLAN_OPTIONS, *_PLAN_ONLY}
    for name in options:
        if name not in allowed:
            msg = f"plan_kwargs has {name!r}, which the training plan does not know.{_hint(name, allowed)}"
            raise TypeError(msg)
    return options


@functools.cache
def _trainer_options() -> frozenset[str]:
    options = {*inspect.signature(Trainer).parameters, *inspect.signature(LightningTrainer).parameters}
    return frozenset(options - {"kwargs", "max_epochs", "gradient_clip_val", "accumulate_grad_batches"})


def _hint(name: str, allowed: Iterable[str]) -> str:
    nearest = [_OURS[name]] if name in _OURS else difflib.get_close_matches(name, sorted(allowed), 1)
    return f" Did you mean {nearest[0]!r}?" if nearest else f" Options are {sorted(allowed)}."
