"""The linear probe and a run that starts from it, of which the validation cells or genes choose one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgeneformer import _log as logg
from scgeneformer._run_folder import check_writable
from scgeneformer.model.data._batches import trimmed
from scgeneformer.model.objectives._cells import class_weights_of, score_tasks
from scgeneformer.model.training._checkpoint_files import LAST, alone_in, read_checkpoint
from scgeneformer.model.training._history import joined
from scgeneformer.model.training._options import named_plan_options
from scgeneformer.model.training._train import device_of, token_budget_of

from ._probe import Probe, fit_probe
from ._selection import COLUMNS, PROBE, Selection, reason_of
from ._single import OWN, WARMUP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scgeneformer.model._classifier import Classifier

    from ._items import TrainingItems

MOST_CELLS = 16  # of a batch
EPOCHS, LEAST_STEPS, MOST_STEPS = 8, 250, 3000  # of a run
RATES = {"small": (5e-5, 2e-4), "large": (1e-5, 3e-5), "adapters": (1e-4, 3e-4)}  # of run A and of run B
LARGE = 50_000_000  # parameters
RUNS = ("A", "B")
FEW_CLASSES = 3  # up to this number, a shrunk probe keeps all classes, and larger steps pay


@dataclass(frozen=True, eq=False)
class Candidate:
    """A run: its name, where its head starts, and its learning rate."""

    name: str
    start: Probe
    learning_rate: float


def check_portfolio(options: Mapping[str, Any]) -> None:
    """Raise if options make no sense where the end of a run is compared with the probe.

    Raises
    ------
    FileNotFoundError
        If `ckpt_path` is not a folder with a checkpoint of the run.
    OSError
        If `checkpoints` cannot be written to.
    ValueError
        If the run would be stopped early or shared by several processes, or a checkpoint holds more than tensors and plain values.
    """
    plain = "With recipe='plain' there is one run."
    if options["keep_best"] != OWN or options["early_stopping"]:
        msg = (
            f"recipe='auto' compares the end of its run with the probe: leave out keep_best and early_stopping. {plain}"
        )
        raise ValueError(msg)
    devices = options["devices"]
    n_devices = len(devices) if isinstance(devices, list) else devices
    if n_devices not in (1, "auto", "1"):
        msg = f"recipe='auto' trains on one device, not on devices={devices!r}. {plain}"
        raise ValueError(msg)
    if options["checkpoints"] is not None:
        check_writable(options["checkpoints"], "checkpoints")
    if options["ckpt_path"] is None:
        return
    found = list(Path(options["ckpt_path"]).glob(f"[AB]/{LAST}"))
    for path in found:
        read_checkpoint(path)
    if not found:
        msg = (
            f"ckpt_path={str(options['ckpt_path'])!r} has no A/{LAST} or B/{LAST}. Name the folder that "
            f"`train(checkpoints=...)` was given. {plain}"
        )
        raise FileNotFoundError(msg)


def train_portfolio(items: TrainingItems, recipe: str, max_epochs: int | None, options: Mapping[str, Any]) -> Selection:
    """Make the linear probe the head of the model and, if the recipe is ``"auto"``, train from there and keep what validates best.

    If a run ends early, for whatever reason, the model is left with the best classifier so far.
    """
    model, network = items.model, items.model.module.network
    training, held_out = items.with_states("train"), items.with_states("validation")
    of_training, of_held_out = np.split(items.states(np.concatenate([training, held_out])), [len(training)])
    probe = _fitted(items, of_training, options["rng"])
    probe.put_into(network)
    model.module.eval()
    model.is_trained_ = True
    contest = _Contest(items, held_out)
    if len(held_out):
        for name, scores in items.references(options["rng"]).items():
            contest.show(name, scores)
        with torch.no_grad():
            of_probe = network.scores(torch.from_numpy(of_held_out).to(network.classifier.weight))
        contest.enter(PROBE, of_probe.float().cpu().numpy())
    reason = "it was asked for" if recipe == PROBE else _why_no_run(contest)
    if reason is None:
        candidate = _candidate(items, of_training, probe, options)
        del of_training, of_held_out
        with alone_in(options["checkpoints"]):
            _compete(contest, candidate, max_epochs, options)
        reason = reason_of(contest.kept, contest.table, contest.judge.told(items.what))
    reason += contest.better_references()
    logg.info(f"kept {'the linear probe' if contest.kept == PROBE else f'run {contest.kept}'}: {reason}")
    return Selection(contest.kept, reason, len(held_out), contest.table, contest.histories)


class _Contest:
    """Classifiers that were judged so far, and the weights of the one to keep."""

    def __init__(self, items: TrainingItems, held_out: np.ndarray) -> None:
        self.items, self.held_out = items, held_out
        self.judge = items.judge()
        self.best = _trained(items.model)  # after the probe was put into it
        self.kept = PROBE
        self.rows: dict[str, dict[str, float]] = {}
        self.losses: dict[str, np.ndarray] = {}
        self.histories: dict[str, dict[str, pd.DataFrame]] = {}

    def show(self, name: str, scores: np.ndarray, **row: float) -> None:
        """Judge the scores of the validation items."""
        losses = self.losses[name] = self.judge.losses(scores)
        row["criterion"] = self.judge.criterion(losses)
        self.rows[name] = row | score_tasks(self.items.tasks, scores, self.items.labels[self.held_out])

    def enter(self, name: str, scores: np.ndarray, **row: float) -> None:
        """Judge the classifier that the model is now, and keep it if it beats the probe, which comes first."""
        self.show(name, scores, **row)
        if self._beats(name, PROBE):
            self.kept, self.best = name, _trained(self.items.model)

    def better_references(self) -> str:
        """A sentence on each model of other features that is better than what is kept."""
        if self.judge.too_few():
            return ""
        better = [name for name in self.rows if name not in (PROBE, *self.histories) and self._beats(name, self.kept)]
        return "".join(f"; the {name} alone does better ({self.rows[name]['criterion']:.3g})" for name in better)

    def _beats(self, name: str, other: str) -> bool:
        difference, error = self._compared(name, other)
        return difference < -error

    def _compared(self, name: str, other: str) -> tuple[float, float]:
        """Difference of two criteria, and its standard error."""
        differences = self.losses[name] - self.losses[other]
        return self.judge.criterion(differences), self.judge.standard_error(differences)

    @property
    def table(self) -> pd.DataFrame:
        rows = {
            name: row
            if name == PROBE
            else row | dict(zip(("difference", "standard_error"), self._compared(name, PROBE), strict=True))
            for name, row in self.rows.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index", dtype=np.float64)
        return table.reindex(columns=[*COLUMNS, *[name for name in table if name not in COLUMNS]])


def _compete(contest: _Contest, candidate: Candidate, max_epochs: int | None, options: Mapping[str, Any]) -> None:
    """Run the candidate, and leave the model with the better classifier, even if the run fails."""
    items, model, name = contest.items, contest.items.model, candidate.name
    before = dict(model.history_ or {})
    try:
        candidate.start.put_into(model.module.network)
        model.history_ = {}
        _run(items, candidate, max_epochs, options)
        contest.histories[name] = model.history_
        scores = items.scores(contest.held_out)
        contest.enter(name, scores, learning_rate=candidate.learning_rate, steps=model.trainer.global_step)
    except KeyboardInterrupt as stop:
        msg = f"Training was interrupted in run {name}. The model is the best classifier so far, the linear probe."
        raise KeyboardInterrupt(msg) from stop
    finally:
        _restore(model, contest.best)
        model.history_ = joined(before, contest.histories.get(contest.kept, {}))


def _fitted(items: TrainingItems, states: np.ndarray, rng: int, shrunk: Probe | None = None) -> Probe:
    """The probe of the training items or, at the penalties of one a hundred times stronger, one that is balanced by class."""
    training = items.with_states("train")
    labels, weights = items.labels[training], items.class_weights
    if shrunk is not None:
        weights = class_weights_of(items.tasks, labels, "balanced") | dict(weights)
    groups = items.groups(training)
    return fit_probe(items.tasks, states, labels, groups=groups, class_weights=weights, rng=rng, shrunk=shrunk)


def _why_no_run(contest: _Contest) -> str | None:
    """Why the probe is kept without a run; None if a run follows."""
    items = contest.items
    trained = [name for name, p in items.model.module.network.named_parameters() if p.requires_grad]
    if all(name.startswith("classifier.") for name in trained):
        return "only the head is trained, and the probe is its best fit"
    if contest.judge.too_few():
        least, of_a_class = items.least
        told = f"{len(contest.held_out)}; it takes {least}, and {of_a_class} of each of two classes"
        return f"too few validation {items.what} to tell ({told})"
    return None


def _candidate(items: TrainingItems, states: np.ndarray, probe: Probe, options: Mapping[str, Any]) -> Candidate:
    """Run B, in larger steps from a shrunk probe, where all tasks are of few classes; else run A, from the probe."""
    given = named_plan_options(options["plan_kwargs"]).get("learning_rate", options["learning_rate"])
    if given is not None:
        return Candidate("A", probe, given)
    encoder = items.model.encoder
    large = sum(p.numel() for p in encoder.parameters()) >= LARGE
    small_steps, large_steps = RATES["adapters" if hasattr(encoder, "peft_config") else "large" if large else "small"]
    if all(0 < len(task.classes) <= FEW_CLASSES for task in items.tasks):
        return Candidate("B", _fitted(items, states, options["rng"], shrunk=probe), large_steps)
    return Candidate("A", probe, small_steps)


def _run(items: TrainingItems, candidate: Candidate, max_epochs: int | None, options: Mapping[str, Any]) -> None:
    """Train the candidate to its end, or from where it stopped."""
    options = {"limit_val_batches": 0} | dict(options)
    options |= {"learning_rate": candidate.learning_rate, "keep_best": None}
    if options["warmup"] is None:
        options["warmup"] = WARMUP
    if options["batch_size"] is None and options["token_budget"] is None:
        budget = token_budget_of(device_of(options["accelerator"]))
        options["batch_size"] = int(np.clip(budget // trimmed(items.longest()), 1, MOST_CELLS))
    for argument, file in (("checkpoints", ""), ("ckpt_path", LAST)):
        if options[argument] is not None:
            options[argument] = Path(options[argument]) / candidate.name / file
    if options["ckpt_path"] is not None and not options["ckpt_path"].is_file():
        options["ckpt_path"] = None  # it was interrupted before this run began
    if max_epochs is None:
        per_epoch = -(-len(items.batches(options).train_dataloader()) // options["accumulate"])
        n_steps = min(max(EPOCHS * per_epoch, LEAST_STEPS), MOST_STEPS, options["max_steps"] or MOST_STEPS)
        max_epochs, options["max_steps"] = -(-n_steps // per_epoch), n_steps
    items.train(max_epochs, options, stream=RUNS.index(candidate.name))


def _trained(model: Classifier) -> dict[str, Tensor]:
    """A copy of what training changes, and of what the head standardises by."""
    network = model.module.network
    state = {name: p for name, p in network.named_parameters() if p.requires_grad} | dict(
        network.standardise.named_buffers("standardise")
    )
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _restore(model: Classifier, state: Mapping[str, Tensor]) -> None:
    model.module.network.load_state_dict(state, strict=False)
