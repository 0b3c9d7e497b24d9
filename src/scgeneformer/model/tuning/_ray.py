"""A search on Ray: the data that are sent, the resources, and how an interrupted search is resumed."""

from __future__ import annotations

import errno
import json
import logging
import os
import reprlib
import shutil
import signal
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from anndata import AnnData

from scgeneformer._run_folder import write_whole
from scgeneformer._settings import settings

from ._trial import OBJECTIVE, Search, run_trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ray.tune import Result, Tuner
    from ray.tune.experiment import Trial


class Asha(TypedDict):
    """Options of the scheduler that stops trials early."""

    max_t: int
    grace_period: int
    reduction_factor: float
    stop_last_trials: bool


_FULL, _LITTLE_SPACE = (errno.ENOSPC, errno.EDQUOT), 1 << 20  # bytes
TRIALS, SEARCH = "trials", "search.json"  # in the folder of a search
_ENVIRONMENT = {  # for Ray, unless the user has set them
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths among the arguments stay valid
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one cannot be silenced
    "RAY_TQDM_PATCH_PRINT": "0",  # it replaces the built-in print for good, and numba cannot compile the other
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # a resumed search loses a second at most
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # states are small, and trials long
}


def portable(adata: AnnData, registry: Mapping[str, Any]) -> AnnData:
    """The cells with only their registered slots, in memory: no counts, no graphs, no other representations."""
    slots = [field["data_registry"] for field in registry["field_registries"].values()]
    keys = [slot["attr_key"] for slot in slots if slot.get("attr_name") == "obsm"]
    return AnnData(
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        obsm={key: np.asarray(adata.obsm[key]) for key in keys},
        uns={key: adata.uns[key] for key in keys if key in adata.uns},
    )


def remember(file: Path, search: dict[str, Any]) -> None:
    """Write the arguments of a search to `file`, or check that they are those in it.

    Raises
    ------
    ValueError
        If the folder holds another search; the message names what differs.
    """
    now = json.loads(json.dumps(search))
    if not file.exists():
        write_whole(file, lambda path: path.write_text(json.dumps(now, indent=1)))
        return
    before = json.loads(file.read_text())
    differs = _differences(before, now)
    if differs:
        msg = f"{str(file.parent)!r} holds another search: {'; '.join(differs)}. Pass the same arguments to resume it, or choose another folder."
        raise ValueError(msg)


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Arguments in which two searches differ, with both values."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        names = {**before, **now}
        differences = [_differences(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in names]
        return [text for texts in differences for text in texts]
    return [f"{name} was {reprlib.repr(before)}, is {reprlib.repr(now)}"]


@contextmanager
def running(resources: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """Start Ray unless it is running, and stop it again; yield the resources of a trial, including the defaults.

    Raises
    ------
    RuntimeError
        If this machine does not have these resources, since Ray would wait for them forever. (A cluster may grow.)
    """
    import ray

    missing = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    started = not ray.is_initialized()
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        available = ray.cluster_resources()
        needed = {"cpu": 1, "gpu": int(available.get("GPU", 0) >= 1)} | dict(resources)
        amounts = {name: available.get(name.upper(), available.get(name, 0)) for name in needed}
        lacking = {name: amount for name, amount in amounts.items() if needed[name] > amount}
        if started and lacking:
            msg = f"A trial would need resources={needed}, of which this machine has {lacking}. Ask for less."
            raise RuntimeError(msg)
        yield needed
    finally:
        if in_main:
            signal.signal(signal.SIGINT, on_interrupt)  # Ray Tune leaves its own, which ignores the next interrupt
        if started:
            ray.shutdown()
        for name in missing:
            os.environ.pop(name, None)


def run(
    search: Search,
    space: Mapping[str, Any],
    folder: Path,
    *,
    resources: Mapping[str, float],
    algorithm: Any,
    n_trials: int,
    max_concurrent: int | None,
    asha: Asha | None,
) -> list[Result]:
    """Run all trials, or those missing in `folder`; `asha` are the options of the scheduler that stops trials early, if any.

    Raises
    ------
    OSError
        If trials failed because the disk is full. They run again when the search is resumed.
    """
    from ray import tune

    trainable = tune.with_resources(tune.with_parameters(run_trial, search=search), dict(resources))
    trials = folder / TRIALS
    if _can_resume(trials):
        return _listed(tune.Tuner.restore(str(trials), trainable, restart_errored=_disk_was_full(trials)), folder)
    scheduler = None if asha is None else tune.schedulers.ASHAScheduler(time_attr="epoch", **asha)
    checkpoints = tune.CheckpointConfig(
        num_to_keep=1, checkpoint_score_attribute=OBJECTIVE, checkpoint_score_order=search.mode
    )
    tuner: Tuner = tune.Tuner(
        trainable,
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode=search.mode,
            num_samples=n_trials,
            search_alg=algorithm,
            scheduler=scheduler,
            max_concurrent_trials=max_concurrent,
            trial_dirname_creator=_dirname,
            reuse_actors=True,  # importing torch and scvi-tools takes seconds
        ),
        run_config=tune.RunConfig(
            name=TRIALS, storage_path=str(folder), checkpoint_config=checkpoints, verbose=int(settings.progress)
        ),
    )
    return _listed(tuner, folder)


def _listed(tuner: Tuner, folder: Path) -> list[Result]:
    advice = "Make room, and call tune again with the same arguments: finished trials are kept."
    try:
        grid = tuner.fit()
        results = [grid[i] for i in range(len(grid))]
    except Exception as error:
        if shutil.disk_usage(folder).free > _LITTLE_SPACE:
            raise
        msg = f"No space for Ray's own files in {str(folder)!r}. {advice}"
        raise OSError(errno.ENOSPC, msg) from error
    without_space = [cause for result in results if _is_full_disk(cause := cause_of(result.error))]
    if without_space:
        msg = f"No space for {len(without_space)} of {len(results)} trials in {str(folder)!r}. {advice}"
        raise OSError(errno.ENOSPC, msg) from without_space[0]
    return results


def _can_resume(trials: Path) -> bool:
    """Whether Ray left the state of a search; one that it could not write whole, as on a full disk, is removed with all trials."""
    from ray import tune

    if not tune.Tuner.can_restore(str(trials)):
        return False
    states = sorted(trials.glob("experiment_state-*.json"))
    try:
        json.loads(states[-1].read_text())
    except (IndexError, ValueError):
        warnings.warn(
            f"The state of the search in {str(trials)!r} is incomplete: all trials start again.", stacklevel=2
        )
        shutil.rmtree(trials)
        return False
    return True


def _disk_was_full(trials: Path) -> bool:
    """Whether any trial failed for that."""
    errors = [path.read_text(errors="replace") for path in trials.glob("*/error.txt")]
    return any(not text or _says_full(text) for text in errors)


def cause_of(error: Exception | None) -> Exception | None:
    """What a trial raised, without what Ray wraps it in."""
    return getattr(error, "cause", None) or error


def _is_full_disk(error: Exception | None) -> bool:
    return isinstance(error, OSError) and (error.errno in _FULL or _says_full(str(error)))


def _says_full(text: str) -> bool:
    return any(os.strerror(number) in text for number in _FULL)


def ended(result: Result) -> bool:
    """Whether a trial finished, was stopped by the scheduler or failed, and was not interrupted with the search.

    Ray marks trials that finish by themselves as done in memory, but not always in the file from which a search is resumed.
    """
    last = result.metrics or {}
    return result.error is not None or bool(last.get("done") or last.get("finished"))


def _dirname(trial: Trial) -> str:
    """Folder of a trial, named by its number; the rest of Ray's tag are its hyperparameters."""
    return f"trial_{int(trial.experiment_tag.split('_')[0]):05d}"
