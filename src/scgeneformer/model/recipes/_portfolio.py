"""The linear probe and runs that start from it, of which the validation cells choose one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgeneformer.model.data._batches import trimmed
from scgeneformer.model.objectives._cells import class_weights_of
from scgeneformer.model.training._callbacks import check_plain, check_writable
from scgeneformer.model.training._history import joined
from scgeneformer.model.training._options import named_plan_options
from scgeneformer.model.training._train import device_of, token_budget_of

from ._probe import Probe, fit_probe
from ._selection import COLUMNS, LEAST_CELLS, LEAST_OF_A_CLASS, PROBE, Judge, Selection, reason_of
from ._single import OWN, WARMUP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scgeneformer.model._cell_classifier import CellClassifier

    from ._cells import TrainingCells

MOST_CELLS = 16  # of a batch
EPOCHS, LEAST_STEPS, MOST_STEPS = 8, 250, 3000  # of a run
RATES = {"small": (5e-5, 2e-4), "large": (1e-5, 3e-5), "adapters": (1e-4, 3e-4)}  # of runs A and B
LARGE = 50_000_000  # parameters
FEW_CLASSES, LARGE_CLASS = 3, 50  # training cells that let a shrunk probe keep all of its classes
LAST = "last.ckpt"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A run: where its head starts, and its learning rate."""

    start: Probe
    learning_rate: float


def check_portfolio(options: Mapping[str, Any]) -> None:
    """Raise if options make no sense where several runs are compared by their ends.

    Raises
    ------
    FileNotFoundError
        If `ckpt_path` is not a folder with checkpoints of the runs.
    OSError
        If `checkpoints` cannot be written to.
    ValueError
        If the runs would be stopped early or shared by several processes, or a checkpoint holds more than tensors and plain values.
    """
    plain = "With recipe='plain' there is one run."
    if options["keep_best"] != OWN or options["early_stopping"]:
        msg = f"recipe='auto' compares the ends of its runs: leave out keep_best and early_stopping. {plain}"
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
        check_plain(path)
    if not found:
        msg = (
            f"ckpt_path={str(options['ckpt_path'])!r} has no A/{LAST} or B/{LAST}. Name the folder that "
            f"`train(checkpoints=...)` was given. {plain}"
        )
        raise FileNotFoundError(msg)


def train_portfolio(
    model: CellClassifier, cells: TrainingCells, recipe: str, max_epochs: int | None, options: Mapping[str, Any]
) -> Selection:
    """Make the linear probe the head of `model` and, if the recipe is ``"auto"``, train from there and keep what validates best.

    Whatever ends a run before its time, the model is left with the best classifier so far.
    """
    from scanpy import logging as logg

    network = model.module.network
    training, held_out = cells.with_tokens("train"), cells.with_tokens("validation")
    states = model._classify(cells.tokens[np.concatenate([training, held_out])]).states
    of_training, of_held_out = np.split(states, [len(training)])
    probe = _fitted(model, cells, of_training, options["rng"])
    probe.put_into(network)
    model.module.eval()
    model.is_trained_ = True
    contest = _Contest(model, cells, held_out)
    if len(held_out):
        with torch.no_grad():
            scores = network.scores(torch.from_numpy(of_held_out).to(network.classifier.weight))
        contest.enter(PROBE, scores.float().cpu().numpy())
    reason = "it was asked for" if recipe == PROBE else _why_no_run(model, contest.judge, len(held_out))
    if reason is None:
        candidates = _candidates(model, cells, of_training, probe, options)
        del states, of_training, of_held_out
        _compete(contest, candidates, max_epochs, options)
        reason = reason_of(contest.kept, contest.table, len(held_out))
    logg.info(f"kept {'the linear probe' if contest.kept == PROBE else f'run {contest.kept}'}: {reason}")
    return Selection(contest.kept, reason, len(held_out), contest.table, contest.histories)


class _Contest:
    """Classifiers that were judged so far, and the weights of the one to keep."""

    def __init__(self, model: CellClassifier, cells: TrainingCells, held_out: np.ndarray) -> None:
        self.model, self.cells, self.held_out = model, cells, held_out
        self.judge = Judge(model.tasks, cells.labels[held_out], model.module.task_weights)
        self.start = self.best = _trained(model)  # after the probe was put into it
        self.kept = PROBE
        self.rows: dict[str, dict[str, float]] = {}
        self.histories: dict[str, dict[str, pd.DataFrame]] = {}

    def enter(self, name: str, scores: np.ndarray, **row: float) -> None:
        """Judge the classifier that the model is now by its scores of the validation cells; the first is the probe."""
        losses = self.judge.losses(scores)
        row["criterion"] = self.judge.criterion(losses)
        if name == PROBE:
            self.losses = losses
        else:
            row["difference"] = self.judge.criterion(losses - self.losses)
            row["standard_error"] = self.judge.standard_error(losses - self.losses)
            if row["difference"] < -row["standard_error"] and row["criterion"] < self.rows[self.kept]["criterion"]:
                self.kept, self.best = name, _trained(self.model)
        labels = torch.from_numpy(self.cells.labels[self.held_out])
        self.cells.objective.update({"scores": torch.from_numpy(scores)}, {"labels": labels})
        self.rows[name] = row | self.cells.objective.compute()

    @property
    def table(self) -> pd.DataFrame:
        table = pd.DataFrame.from_dict(self.rows, orient="index", dtype=np.float64)
        return table.reindex(columns=[*COLUMNS, *[name for name in table if name not in COLUMNS]])


def _compete(
    contest: _Contest, candidates: Mapping[str, Candidate], max_epochs: int | None, options: Mapping[str, Any]
) -> None:
    """Run all candidates, and leave the model with the best classifier, also if one fails."""
    model, before = contest.model, dict(contest.model.history_ or {})
    try:
        for number, (name, candidate) in enumerate(candidates.items()):
            _restore(model, contest.start)
            candidate.start.put_into(model.module.network)
            model.history_ = {}
            with torch.random.fork_rng():
                torch.manual_seed(int(np.random.default_rng([options["rng"], number]).integers(2**31)))
                _run(model, contest.cells, name, candidate, max_epochs, options)
            contest.histories[name] = model.history_
            scores = model._classify(contest.cells.tokens[contest.held_out]).scores
            contest.enter(name, scores, learning_rate=candidate.learning_rate, steps=model.trainer.global_step)
    finally:
        _restore(model, contest.best)
        model.history_ = joined(before, contest.histories.get(contest.kept, {}))


def _fitted(
    model: CellClassifier, cells: TrainingCells, states: np.ndarray, rng: int, shrunk: Probe | None = None
) -> Probe:
    """The probe of the training cells or, at the penalties of one a hundred times stronger, one that is balanced by class."""
    training = cells.with_tokens("train")
    labels, weights = cells.labels[training], model.module.class_weights
    if shrunk is not None:
        weights = class_weights_of(model.tasks, labels, "balanced") | weights
    groups = None if cells.samples is None else cells.samples[training]
    return fit_probe(model.tasks, states, labels, groups=groups, class_weights=weights, rng=rng, shrunk=shrunk)


def _why_no_run(model: CellClassifier, judge: Judge, n_held_out: int) -> str | None:
    """Why the probe is kept without a run; None if there is to be one."""
    trained = [name for name, p in model.module.network.named_parameters() if p.requires_grad]
    if all(name.startswith("classifier.") for name in trained):
        return "only the head is trained, and the probe is its best fit"
    if judge.too_few():
        least = f"{LEAST_CELLS}, and {LEAST_OF_A_CLASS} of each class"
        return f"too few validation cells to tell ({n_held_out}; it takes {least})"
    return None


def _candidates(
    model: CellClassifier,
    cells: TrainingCells,
    states: np.ndarray,
    probe: Probe,
    options: Mapping[str, Any],
) -> dict[str, Candidate]:
    """The runs, by name: one where the learning rate is given."""
    given = named_plan_options(options["plan_kwargs"]).get("learning_rate", options["learning_rate"])
    if given is not None:
        return {"A": Candidate(probe, given)}
    encoder = model.encoder
    large = sum(p.numel() for p in encoder.parameters()) >= LARGE
    rates = RATES["adapters" if hasattr(encoder, "peft_config") else "large" if large else "small"]
    candidates = {"A": Candidate(probe, rates[0])}
    if not _small_classes(model, cells.labels[cells.with_tokens("train")]):
        candidates["B"] = Candidate(_fitted(model, cells, states, options["rng"], shrunk=probe), rates[1])
    return candidates


def _small_classes(model: CellClassifier, labels: np.ndarray) -> bool:
    """Whether a shrunk probe, which begins without rare classes, would lose some of many."""
    for task, of_task in zip(model.tasks, labels.T, strict=True):
        if len(task.classes) > FEW_CLASSES:
            codes = of_task[~np.isnan(of_task)].astype(np.int64)
            if np.bincount(codes, minlength=len(task.classes)).min() < LARGE_CLASS:
                return True
    return False


def _run(
    model: CellClassifier,
    cells: TrainingCells,
    name: str,
    candidate: Candidate,
    max_epochs: int | None,
    options: Mapping[str, Any],
) -> None:
    """Train one candidate to its end, or from where it stopped."""
    options = {"limit_val_batches": 0} | dict(options)
    options |= {"learning_rate": candidate.learning_rate, "keep_best": None}
    if options["warmup"] is None:
        options["warmup"] = WARMUP
    if options["batch_size"] is None and options["token_budget"] is None:
        longest = trimmed(int(cells.lengths[cells.split.train].max()))
        budget = token_budget_of(device_of(options["accelerator"]))
        options["batch_size"] = int(np.clip(budget // longest, 1, MOST_CELLS))
    for argument, file in (("checkpoints", ""), ("ckpt_path", LAST)):
        if options[argument] is not None:
            options[argument] = Path(options[argument]) / name / file
    if options["ckpt_path"] is not None and not options["ckpt_path"].is_file():
        options["ckpt_path"] = None  # it was interrupted before this run began
    if max_epochs is None:
        per_epoch = -(-len(cells.batches(options).train_dataloader()) // options["accumulate"])
        n_steps = min(max(EPOCHS * per_epoch, LEAST_STEPS), MOST_STEPS, options["max_steps"] or MOST_STEPS)
        max_epochs, options["max_steps"] = -(-n_steps // per_epoch), n_steps
    cells.train(model, max_epochs, options)


def _trained(model: CellClassifier) -> dict[str, Tensor]:
    """A copy of what training changes, and of what the head standardises by."""
    network = model.module.network
    state = {name: p for name, p in network.named_parameters() if p.requires_grad} | dict(
        network.standardise.named_buffers("standardise")
    )
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _restore(model: CellClassifier, state: Mapping[str, Tensor]) -> None:
    model.module.network.load_state_dict(state, strict=False)
