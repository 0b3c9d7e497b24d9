"""``get.evaluation``: scores of a classifier and its baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer import _keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def evaluation(adata: AnnData | MuData, *, key: str = _keys.EVALUATION, mod: str = "rna") -> pd.DataFrame:
    """Scores of a classifier and, beside it, of its baselines, from :func:`~scgeneformer.tl.evaluate`.

    Parameters
    ----------
    adata
        Annotated data with an evaluation in ``.uns[key]``.
    key
        Slot of the evaluation.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame, one row per model, the evaluated one first, and a column for each score: of classes ``accuracy``,
    ``balanced_accuracy``, ``macro_f1``, ``auc``, ``average_precision``, ``log_loss``, ``calibration_error``, and ``mae`` and
    ``kappa`` if they are ordinal; of continuous labels ``mae``, ``rmse``, ``r2``, ``spearman``.

    Raises
    ------
    KeyError
        If there is no evaluation.
    """
    run = _keys.as_adata(adata, mod).uns.get(key, {})
    if "metrics" not in run:
        msg = f"Did not find .uns[{key!r}]['metrics']. Run `sg.tl.evaluate(adata, model)` first."
        raise KeyError(msg)
    return run["metrics"].copy()
