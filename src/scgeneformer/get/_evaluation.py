"""``get.evaluation``: scores of a classifier and its baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer import _keys
from scgeneformer._arguments import checked

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


@checked
def evaluation(
    adata: AnnData | MuData, *, key: str = _keys.EVALUATION, intervals: bool = False, mod: str = "rna"
) -> pd.DataFrame:
    """Scores of a classifier and its baselines, from :func:`~scgeneformer.tl.evaluate`.

    Parameters
    ----------
    adata
        Annotated data with an evaluation in ``.uns[key]``.
    key
        Slot of the evaluation.
    intervals
        Add the ends of the 95 % interval, ``<score>_low`` and ``<score>_high``, after each score.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with one row per model, the evaluated one first, and one column per score. For classes ``accuracy``,
    ``balanced_accuracy``, ``macro_f1``, ``auc``, ``average_precision``, ``log_loss``, ``calibration_error`` and, if they are ordinal,
    ``mae`` and ``kappa``; for continuous labels ``mae``, ``rmse``, ``r2``, ``spearman``. ``tied_with_best`` is True if a model is
    within one standard error of the best one; see :func:`~scgeneformer.tl.evaluate`.

    Raises
    ------
    KeyError
        If there is no evaluation.

    Examples
    --------
    `model` is a :class:`~scgeneformer.model.CellClassifier` that was trained on these cells.

    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.evaluate(adata, model)
    >>> scores = sg.get.evaluation(adata)
    >>> list(scores.index)
    ['trained head', 'linear probe', 'regression on HVGs', 'most frequent class']
    >>> list(scores.columns[:3])
    ['accuracy', 'balanced_accuracy', 'macro_f1']
    """
    run = _keys.as_adata(adata, mod).uns.get(key, {})
    if "metrics" not in run:
        msg = f"Did not find .uns[{key!r}]['metrics']. Run `sg.tl.evaluate(adata, model)` first."
        raise KeyError(msg)
    metrics = run["metrics"]
    if not intervals or f"{metrics.columns[0]}_low" in metrics:  # an evaluation of shifts always has them
        return metrics.copy()
    if "intervals" not in run:
        msg = f"Did not find .uns[{key!r}]['intervals']. Run `sg.tl.evaluate(adata, model)` with n_bootstrap above 0."
        raise KeyError(msg)
    ends = run["intervals"]
    names = [[name, *(end for end in (f"{name}_low", f"{name}_high") if end in ends)] for name in metrics]
    return metrics.join(ends)[[column for group in names for column in group]]
