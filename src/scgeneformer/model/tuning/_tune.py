"""Hyperparameter tuning on Ray Tune.

It uses Ray directly, since ``run_autotune`` of scvi-tools (1.4, 1.5) imports scib-metrics in every trial, sends the data with each
trial, cannot resume after an interrupt and returns no model. What both have has the same name.
"""

from __future__ import annotations

import inspect
import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from anndata import AnnData

from scgeneformer._arguments import check_keywords, checked
from scgeneformer._run_folder import check_writable, locked
from scgeneformer._settings import settings
from scgeneformer.model._classifier import Backbone

from ._ray import SEARCH, Asha, cause_of, ended, portable, remember, run, running
from ._space import constructed, described, digest, longest, resolve_space, searcher_named
from ._trial import OBJECTIVE, Search

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ray.tune import Result

    from scgeneformer.model._base import TransformerModel

_RECIPES = ("plain", "official")  # of one run, that each epoch is validated in


@dataclass(frozen=True, eq=False)
class TuneResult:
    """Trials of a hyperparameter search by :func:`tune`, and the best model.

    Attributes
    ----------
    table
        One row per trial, in the order of suggestion: its hyperparameters; the validation metrics after ``best_epoch``,
        the epoch with the best value of `metric`; the number of ``epochs`` and ``seconds`` that it ran; ``status`` (``"finished"``,
        ``"stopped"`` early because others were better, or ``"failed"``) and ``error``.
    best_model
        Model of the best trial, with the weights of its best epoch, on the data given to :func:`tune`.
    best_params
        Hyperparameters of the best trial.
    folder
        Folder of the search, with the files of Ray for each trial, including those for TensorBoard.

    Examples
    --------
    `result` was returned by :func:`tune`, and `adata` has tokens.

    >>> result.best_params
    {'learning_rate': 0.0001, 'freeze': 2}
    >>> best = result.table.sort_values("validation_loss").head()
    >>> result.best_model.save("tuned_classifier")
    """

    table: pd.DataFrame
    best_model: TransformerModel
    best_params: dict[str, Any]
    folder: Path


@checked
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
    """Search for good hyperparameters with Ray Tune, with several models in training at a time.

    Without a cluster, Ray is started on this machine and stopped at the end. After ``ray.init(address="auto")``, or if the environment
    variable ``RAY_ADDRESS`` names a cluster, the trials run there; all machines of the cluster must have access to `folder`.

    Parameters
    ----------
    model_cls
        Class of the models, such as :class:`CellClassifier`.
    adata
        Tokenized cells, registered by ``model_cls.setup_anndata``. All trials have the same training and validation cells.
        Only what is registered is sent to the workers.
    space
        Arguments of the constructor and of ``train`` to search: for each a list of values, or a distribution such as
        ``ray.tune.loguniform(1e-5, 1e-3)``. Defaults to :func:`default_space` without the fixed arguments. Combinations that the class
        refuses, such as frozen layers with LoRA, are failed trials.
    folder
        Folder of the search. The same call resumes an interrupted search: trials that ended are not run again, and those that were running
        start again.
    metric
        Validation metric by which models are compared, as in ``history``: ``"validation_loss"``, ``"validation_macro_f1"``,
        ``"validation_auc"`` and so on. The value of a trial is that of its best epoch.
    mode
        Whether the ``"min"`` or the ``"max"`` is best. Defaults to the minimum for losses and errors and to the maximum for other metrics.
    n_trials
        Number of trials.
    max_epochs
        Number of epochs of each trial, unless it is in the space.
    model_params, train_params
        Arguments of the constructor and of ``train`` that all trials share. Classifiers are trained by ``recipe="plain"``.
    searcher
        ``"random"`` draws each trial independently; ``"hyperopt"`` uses tree-structured Parzen estimators and the results so far.
    scheduler
        ``"asha"`` stops trials early (Li 2020): of the trials that reach epoch `grace_period` only the best continue, again at
        `reduction_factor` times that epoch, and so on. ``"fifo"`` runs every trial to its end.
    grace_period, reduction_factor
        First epoch at which ASHA stops trials; one in `reduction_factor` trials continues.
    resources
        Resources of each trial, such as ``{"cpu": 4, "gpu": 0.5, "memory": 8e9}`` (bytes). Defaults to one processor, and one GPU if Ray
        has any. Torch uses as many threads as there are processors.
    max_concurrent
        Maximum number of trials at a time. Defaults to as many as the resources allow.
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
        If the data are not a registered AnnData, an argument is invalid, or `folder` holds another search.
    BlockingIOError
        If another process searches in `folder`.
    RuntimeError
        If all trials failed, or no machine has the resources for a trial.
    OSError
        If the disk is full. Trials that failed for that run again when the search is resumed.
    KeyboardInterrupt
        If the search was interrupted.

    Notes
    -----
    Nothing is written to the data. If a trial fails, with an exception or with its process, the table has its error, and the others
    continue. ``"random"`` makes the same suggestions for the same `rng`, and on CPUs a trial has the same metrics after each epoch. Which
    trials ASHA stops, and what ``"hyperopt"`` suggests, depends on which results are reported first: only ``max_concurrent=1`` makes these
    reproducible too.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.model.CellClassifier.setup_anndata(adata, "disease", sample_key="donor")
    >>> space = {"learning_rate": [1e-4, 3e-4, 1e-3], "freeze": [0, 2]}
    >>> result = sg.model.tune(  # doctest: +SKIP
    ...     sg.model.CellClassifier, adata, space, folder="tuned", model_params={"pretrained": "default"}, n_trials=4
    ... )
    >>> predicted = result.best_model.predict()
    """
    fixed_model, fixed_train = dict(model_params or {}), dict(train_params or {})
    check_keywords(model_cls.__init__, fixed_model)
    check_keywords(model_cls.train, fixed_train)
    if "max_epochs" in fixed_train:
        msg = "train_params has max_epochs, which is an argument of tune itself."
        raise ValueError(msg)
    if {"checkpoints", "ckpt_path"} & set(fixed_train):
        msg = "All trials would write the same checkpoints: leave them out of train_params. The best model of each is kept anyway."
        raise ValueError(msg)
    if "recipe" in (space or {}):
        msg = "space has recipe, but a trial is one run, whose options are searched. Set recipe to one of ('plain', 'official') in train_params."
        raise ValueError(msg)
    resolved = resolve_space(model_cls, space, [*fixed_model, *fixed_train], metric)
    if mode is None:
        mode = "min" if metric.endswith(("loss", "error")) else "max"
    if (recipe := fixed_train.get("recipe", _RECIPES[0])) not in _RECIPES:
        msg = f"recipe={recipe!r} of train_params is not a single run, as a trial is: choose one of {_RECIPES}."
        raise ValueError(msg)
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
    # not at the last epoch, so that a finished trial can be distinguished from a stopped one
    asha: Asha = {
        "max_t": longest(resolved, max_epochs) - 1,
        "grace_period": grace_period,
        "reduction_factor": reduction_factor,
        "stop_last_trials": False,
    }

    with ExitStack() as stack:
        stack.enter_context(locked(folder, "folder"))
        remember(folder / SEARCH, described(arguments))
        wanted = stack.enter_context(running(resources or {}))
        defaults: dict[str, Any] = {"max_epochs": max_epochs, "rng": rng, "devices": 1, "enable_progress_bar": False}
        defaults |= {} if wanted["gpu"] else {"accelerator": "cpu"}
        defaults |= {"recipe": _RECIPES[0]} if "recipe" in inspect.signature(model_cls.train).parameters else {}
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
            msg = f"Tuning was interrupted. Call it again with the same arguments to continue from {str(folder)!r}."
            raise KeyboardInterrupt(msg)
        return _read_result(results, search, adata, folder)


def _read_result(results: Iterable[Result], search: Search, adata: AnnData, folder: Path) -> TuneResult:
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
    if getattr(model, "start_", "") is None:  # a start in memory, which baselines need, is not saved with a model
        given = search.model_params["pretrained"], None, search.model_params.get("vocabulary")
        model._start = Backbone.of(*given, dropout=None, attention_dropout=0.0).pretrained
    if hasattr(model, "calibrate"):  # as at the end of `train`
        model.calibrate()
    return TuneResult(table, model, params[best], folder)


def _reason(error: Exception | None) -> str | None:
    """Class and first line of the error that ended a trial."""
    if error is None:
        return None
    cause = cause_of(error)
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"
