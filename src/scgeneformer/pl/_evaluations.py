"""What plots of an evaluation show: predictions, their scores and their colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys

from ._figure import ABOVE, BELOW

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

# Okabe and Ito's colours, and dashes for print in grey: the model first, then baselines.
STYLES = ((ABOVE, "-"), (BELOW, "--"), ("#009E73", "-."))


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of predicted classes, read from its slots.

    Attributes
    ----------
    label
        Column of ``obs`` with the truth.
    classes
        Names of classes.
    truth
        Codes of the evaluated cells' classes, (n,).
    proba
        Probabilities, (n, n_classes), by the name of the model or baseline, the model first.
    metrics
        Scores, one row per name.
    """

    label: str
    classes: list[str]
    truth: np.ndarray
    proba: dict[str, np.ndarray]
    metrics: pd.DataFrame

    @property
    def occurring(self) -> np.ndarray:
        """Codes of classes that some but not all evaluated cells are of: curves exist for no others."""
        n = np.bincount(self.truth, minlength=len(self.classes))
        return np.flatnonzero((n > 0) & (n < len(self.truth)))

    def code_of(self, name: str) -> int:
        """Code of the class with this name."""
        if name not in self.classes:
            msg = f"{name!r} is not a class of .obs[{self.label!r}]. Its classes are {self.classes}."
            raise ValueError(msg)
        return self.classes.index(name)


def read_evaluation(adata: AnnData | MuData, key: str, mod: str) -> Evaluation:
    """Read what :func:`~scgeneformer.tl.evaluate` wrote.

    Raises
    ------
    KeyError
        If a slot is missing.
    ValueError
        If the evaluated labels are continuous, or the labels are no longer those that were.
    """
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure="sg.tl.evaluate(adata, model)")
    if run["kind"] == "continuous":
        msg = f"The labels {run['labels']!r} are numbers: there are no classes to plot. See `sg.get.evaluation(adata)`."
        raise ValueError(msg)
    label, slots, classes = str(run["labels"]), list(map(str, run["answers"])), list(map(str, run["classes"]))
    for slot in slots:
        if slot not in data.obsm:
            msg = f"Did not find .obsm[{slot!r}], which belongs to the evaluation. Run `sg.tl.evaluate(adata, model)`."
            raise KeyError(msg)
    metrics = data.uns[key]["metrics"]
    answered = data.obsm[slots[0]].notna().all(axis=1).to_numpy()
    truth = pd.Index(classes).get_indexer(_keys.obs_column(adata, label, mod).astype(str)[answered])
    if np.any(truth < 0):
        msg = f"Labels of evaluated cells in .obs[{label!r}] have changed. Run `sg.tl.evaluate(adata, model)` again."
        raise ValueError(msg)
    proba = {str(name): data.obsm[slot].to_numpy()[answered] for name, slot in zip(metrics.index, slots, strict=False)}
    return Evaluation(label, classes, truth, proba, metrics)
