"""Hyperparameter tuning on Ray Tune.

It goes to Ray directly, since scvi-tools' ``run_autotune`` (1.4, 1.5) imports scib-metrics in every trial, sends the data with each of
them, cannot go on after an interrupt and gives no model back. Where both have the same thing, the name is the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from anndata import AnnData

from scgeneformer._settings import settings
from scgeneformer.model._classifier import Backbone
from scgeneformer.model.training._callbacks import check_writable

from ._ray import SEARCH, Asha, ended, portable, remember, run, running
from ._space import constructed, described, digest, longest, resolve_space, searcher_named
from ._trial import OBJECTIVE, Search

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ray.tune import Result

    from scgeneformer.model._base import TransformerModel

_SCHEDULERS = ("asha", "fifo")


@dataclass(frozen=True, eq=False)
class TuneResult:
    """What :func:`tune` found.

    Attributes
    ----------
    table
        One row per trial, in the order of their suggestion, with its hyperparameters; the metrics of validation after ``best_epoch``,
        the epoch in which the objective was best; ``epochs`` that were run and ``seconds``; ``status`` (``"finished"``, ``"stopped"``
        early since others were better, or ``"failed"``) and ``error``.
    best_model
        The best model that was measured, with the weights of its best epoch, on the data that were given.
    best_params
        Its hyperparameters.
    folder
        Where everything is, Ray's own files of each trial (TensorBoard's among them) too.
    """

    table: pd.DataFrame
    best_model: TransformerModel
    best_params: dict[str, Any]
    folder: Path


def tune(
    model_cls: type[TransformerModel],
    adata: AnnData,
    space: Mapping[str, Any] | None = None,
    *,
    folder: str | Path,
    metric: str = "validation_loss",
    mode: Literal["min", "max"] | None = None,
    n_trials: int = 16,
    max_epochs: int = 10,
    model_params: Mapping[str, Any] | None = None,
    train_params: Mapping[str, Any] | None = None,
    searcher: Literal["random", "hyperopt"] = "random",
    scheduler: Literal["asha", "fifo"] = "asha",
    grace_period: int = 1,
    reduction_factor: float = 2,
    resources: Mapping[str, float] | None = None,
    max_concurrent: int | None = None,
    rng: int = 0,
) -> TuneResult:
    """Search for good hyperparameters with Ray Tune, several models at a time.

    Without a cluster, Ray is started on this machine and stopped at the end. After ``ray.init(address="auto")``, or where the
    variable ``RAY_ADDRESS`` names a cluster, the trials run there; all its machines must see `folder`.

    Parameters
    ----------
    model_cls
        Class of the models, such as :class:`CellClassifier`.
    adata
        Tokenized cells, registered by ``model_cls.setup_anndata``. All trials train on the same of them and validate on the same others.
        Only what is registered goes to the workers.
    space
        What to choose among the arguments of the constructor and of ``train``: for each a list of values, or a distribution such as
        ``ray.tune.loguniform(1e-5, 1e-3)``. None takes :func:`default_space` without what is fixed. Combinations that the class refuses,
        such as frozen layers beside LoRA, are failed trials.
    folder
        For everything that is kept. A search that was interrupted goes on when called again with the same arguments: trials that came
        to an end are not run again, those that were running start anew.
    metric
        Metric of validation by which models are compared, as in ``history``: ``"validation_loss"``, ``"validation_macro_f1"``,
        ``"validation_auc"`` and so on. A trial counts with its best epoch.
    mode
        Whether the best is the ``"min"`` or the ``"max"``. None: the least of losses and errors, the most of other metrics.
    n_trials
        Number of trials.
    max_epochs
        Epochs of each trial, unless they are in the space.
    model_params, train_params
        Arguments of the constructor and of ``train`` that all trials share.
    searcher
        ``"random"`` draws each trial independently, ``"hyperopt"`` by tree-structured Parzen estimators from what was found so far.
    scheduler
        ``"asha"`` stops trials early (Li 2020): of those that come to epoch `grace_period` only the best go on, and again at
        `reduction_factor` times as many epochs, and so forth. ``"fifo"`` lets each come to its end.
    grace_period, reduction_factor
        First epoch at which ASHA stops trials; one in how many goes on.
    resources
        Of each trial, such as ``{"cpu": 4, "gpu": 0.5, "memory": 8e9}`` (bytes). By default one processor, and one GPU where Ray has any.
        Torch gets as many threads as there are processors.
    max_concurrent
        Most trials at a time; None for as many as there are resources.
    rng
        Seed of the suggestions, and of each trial's split, weights, order of cells and dropout.

    Returns
    -------
    :class:`TuneResult`.

    Raises
    ------
    ImportError
        If Ray Tune or hyperopt is not installed.
    TypeError, ValueError
        If the data are not a registered AnnData, an argument makes no sense, or `folder` holds another search.
    RuntimeError
        If all trials failed, or no machine has the resources of one.
    KeyboardInterrupt
        If the search was interrupted.

    Notes
    -----
    Writes nothing to the data. A trial that dies, by an exception or with its process, is in the table with its error, and the others go
    on. ``"random"`` suggests the same for the same `rng`, and on CPUs a trial measures the same after each epoch. Which trials ASHA
    stops, and what ``"hyperopt"`` suggests, depends on what others have reported by then: only ``max_concurrent=1`` repeats that too.

    Examples
    --------
    >>> sg.model.CellClassifier.setup_anndata(adata, "cell_type", sample_key="donor")
    >>> found = sg.model.tune(
    ...     sg.model.CellClassifier,
    ...     adata,
    ...     {"learning_rate": ray.tune.loguniform(1e-5, 1e-3), "lora": [4, 8, 16], "max_epochs": [2, 4, 8]},
    ...     metric="validation_macro_f1",
    ...     model_params={"pretrained": "V2-104M"},
    ...     folder="tuned",
    ... )
    >>> found.best_model.predict()
    """
    fixed_model, fixed_train = dict(model_params or {}), dict(train_params or {})
    if "max_epochs" in fixed_train:
        msg = "train_params has max_epochs, which is an argument of tune itself."
        raise ValueError(msg)
    if {"checkpoints", "ckpt_path"} & set(fixed_train):
        msg = "All trials would write the same checkpoints: leave them out of train_params. The best model of each is kept anyway."
        raise ValueError(msg)
    resolved = resolve_space(model_cls, space, [*fixed_model, *fixed_train], metric)
    if mode is None:
        mode = "min" if metric.endswith(("loss", "error")) else "max"
    _check_choices(mode=(mode, ("min", "max")), scheduler=(scheduler, _SCHEDULERS))
    _check_counts(n_trials=n_trials, max_epochs=max_epochs, grace_period=grace_period)
    algorithm = searcher_named(searcher, rng)
    if not isinstance(adata, AnnData):
        msg = f"tune takes an AnnData, not {type(adata).__name__}. Of a MuData, register and pass the modality: mdata['rna']."
        raise TypeError(msg)
    manager = model_cls._get_most_recent_anndata_manager(adata, required=True)
    registry = manager.registry
    folder = check_writable(folder, "folder").absolute()
    arguments = {"model": model_cls.__name__, "space": resolved, "metric": metric, "mode": mode, "n_trials": n_trials}
    arguments |= {"max_epochs": max_epochs, "model_params": fixed_model, "train_params": fixed_train, "rng": rng}
    arguments |= {"searcher": searcher, "scheduler": scheduler, "grace_period": grace_period}
    arguments |= {"reduction_factor": reduction_factor, "setup": registry["setup_args"], "data": digest(manager)}
    remember(folder / SEARCH, described(arguments))
    # not at the last epoch, so that a trial that comes to its end can be told from one that was stopped
    asha: Asha = {
        "max_t": longest(resolved, max_epochs) - 1,
        "grace_period": grace_period,
        "reduction_factor": reduction_factor,
        "stop_last_trials": False,
    }

    with running(resources or {}) as wanted:
        defaults: dict[str, Any] = {"max_epochs": max_epochs, "rng": rng, "devices": 1, "enable_progress_bar": False}
        defaults |= {} if wanted["gpu"] else {"accelerator": "cpu"}
        search = Search(
            model_cls=model_cls,
            adata=portable(adata, registry),
            setup_method=registry["setup_method_name"],
            setup_args=registry["setup_args"],
            model_params=fixed_model,
            train_params=defaults | fixed_train,
            constructed=constructed(model_cls, resolved),
            metric=metric,
            mode=mode,
            rng=rng,
            threads=max(1, int(wanted["cpu"])),
            settings=asdict(settings),
        )
        results = run(
            search,
            resolved,
            folder,
            resources=wanted,
            algorithm=algorithm,
            n_trials=n_trials,
            max_concurrent=max_concurrent,
            asha=asha if scheduler == "asha" and grace_period <= asha["max_t"] else None,
        )
        if len(results) < n_trials or any(not ended(result) for result in results):
            msg = f"Tuning was interrupted. Call it again with the same arguments to go on from {str(folder)!r}."
            raise KeyboardInterrupt(msg)
        return _found(results, search, adata, folder)


def _found(results: Iterable[Result], search: Search, adata: AnnData, folder: Path) -> TuneResult:
    """Read the trials, and load the best model."""
    trials = sorted(results, key=lambda result: Path(result.path).name)
    params = [json.loads((Path(result.path) / "params.json").read_text()) for result in trials]
    reports = [result.metrics or {} for result in trials]
    best_of = [report.get("best", {}) for report in reports]
    table = pd.DataFrame(params).rename_axis("trial")
    metrics = pd.DataFrame(
        [best.get("metrics", {}) for best in best_of], columns=None if any(best_of) else [search.metric]
    )
    table = table.join(metrics)
    table["best_epoch"] = pd.array([best.get("epoch") for best in best_of], dtype="Int64")
    table["epochs"] = [report.get("epoch", 0) for report in reports]
    table["seconds"] = [report.get("time_total_s", 0.0) for report in reports]
    ends = ["finished" if report.get("finished") else "stopped" for report in reports]
    table["status"] = [end if result.error is None else "failed" for end, result in zip(ends, trials, strict=True)]
    table["error"] = [_reason(result.error) for result in trials]

    scores = table.loc[table["status"] != "failed", search.metric]
    if scores.empty:
        msg = (
            f"All {len(table)} trials failed; the first: {table['error'].iloc[0]} (Tracebacks are in {str(folder)!r}.)"
        )
        raise RuntimeError(msg)
    best = int(scores.idxmin() if search.mode == "min" else scores.idxmax())
    saved = {report[OBJECTIVE]: checkpoint for checkpoint, report in trials[best].best_checkpoints or ()}
    with saved[scores[best]].as_directory() as path:
        model = search.model_cls.load(path, adata)
    if getattr(model, "start_", "") is None:  # a model in memory, with which baselines are made, is not saved
        given = search.model_params["pretrained"], None, search.model_params.get("vocabulary")
        model._start = Backbone.of(*given, dropout=None, attention_dropout=0.0).pretrained
    if hasattr(model, "calibrate"):  # which `train` does at its end
        model.calibrate()
    return TuneResult(table, model, params[best], folder)


def _reason(error: Exception | None) -> str | None:
    """Kind and first line of what ended a trial."""
    if error is None:
        return None
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            msg = f"{name}={value!r} is not one of {known}."
            raise ValueError(msg)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            msg = f"{name}={value!r} must be at least 1."
            raise ValueError(msg)
