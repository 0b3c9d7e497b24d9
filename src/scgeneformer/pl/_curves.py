from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys, evaluation
from scgeneformer._arguments import checked

from ._evaluations import STYLES, read_evaluation
from ._figure import OTHER, begin, finish, legend_above, no_figure_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mudata import MuData

    from ._evaluations import Evaluation

GRID = np.linspace(0, 1, 1001)


@checked
@no_figure_left
def roc(
    adata: AnnData | MuData,
    *,
    key: str = _keys.EVALUATION,
    group: str | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Receiver operating characteristic of a model and its baselines on evaluated cells.

    With two classes, the curve of the second class is drawn. With more, the true positive rate is averaged over classes, each against
    the rest, and thin lines show the curve of each class for the model. The legend gives the areas under the curves.

    Parameters
    ----------
    adata
        Annotated data with an evaluation, from :func:`~scgeneformer.tl.evaluate`.
    key
        Slot of the evaluation.
    group
        Class to draw against the rest.
    mod
        Modality of a MuData.
    ax
        Axes to draw on.
    show
        Show the figure and return ``None``. Defaults to scanpy's setting, or to False if `ax` is given.
    return_fig
        Return the Figure instead of showing it.

    Returns
    -------
    Axes, or a Figure if `return_fig`, or ``None`` if shown.

    Raises
    ------
    KeyError
        If there is no evaluation.
    ValueError
        If the evaluated labels are continuous, `group` is not one of them, or all evaluated cells have the same class.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.evaluate(adata, model)
    >>> ax = sg.pl.roc(adata, show=False)
    """
    evaluated, codes, which = _choose(adata, key, group, mod)
    own_figure = ax is None
    ax = begin(ax, 4.4, 4.9)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    _draw(ax, evaluated, codes, evaluation.roc, _true_positive_rate, "area under the curve")
    ax.set_xlabel("false positive rate")
    ax.set_ylabel(f"true positive rate, {which}")
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


@checked
@no_figure_left
def precision_recall(
    adata: AnnData | MuData,
    *,
    key: str = _keys.EVALUATION,
    group: str | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Precision against recall of a model and its baselines on evaluated cells.

    With two classes, the curve of the second class is drawn. With more, the precision is averaged over classes, each against
    the rest, and thin lines show the curve of each class for the model. The legend gives the average precisions; the dotted line is chance.

    Parameters
    ----------
    adata
        Annotated data with an evaluation, from :func:`~scgeneformer.tl.evaluate`.
    key
        Slot of the evaluation.
    group
        Class to draw against the rest.
    mod
        Modality of a MuData.
    ax
        Axes to draw on.
    show
        Show the figure and return ``None``. Defaults to scanpy's setting, or to False if `ax` is given.
    return_fig
        Return the Figure instead of showing it.

    Returns
    -------
    Axes, or a Figure if `return_fig`, or ``None`` if shown.

    Raises
    ------
    KeyError
        If there is no evaluation.
    ValueError
        If the evaluated labels are continuous, `group` is not one of them, or all evaluated cells have the same class.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.evaluate(adata, model)
    >>> ax = sg.pl.precision_recall(adata, group="dcm", show=False)
    """
    evaluated, codes, which = _choose(adata, key, group, mod)
    own_figure = ax is None
    ax = begin(ax, 4.4, 4.9)
    ax.axhline(np.mean(evaluated.truth[:, None] == codes), color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    _draw(ax, evaluated, codes, evaluation.precision_recall, _precision, "average precision")
    ax.set_xlabel("recall")
    ax.set_ylabel(f"precision, {which}")
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _choose(adata: AnnData | MuData, key: str, group: str | None, mod: str) -> tuple[Evaluation, np.ndarray, str]:
    """The evaluation, codes of the classes whose curves are drawn, and how to call them."""
    evaluated = read_evaluation(adata, key, mod)
    if len(evaluated.occurring) == 0:
        msg = f"All evaluated cells are of one class of .obs[{evaluated.label!r}]: no curve is defined. Evaluate more cells."
        raise ValueError(msg)
    if group is None and len(evaluated.classes) == 2:
        group = evaluated.classes[1]
    if group is None:
        return evaluated, evaluated.occurring, f"mean of {len(evaluated.occurring)} classes"
    code = evaluated.code_of(group)
    if code not in evaluated.occurring:
        msg = f"No evaluated cell is of class {group!r}. Choose one of {[evaluated.classes[c] for c in evaluated.occurring]}."
        raise ValueError(msg)
    return evaluated, np.array([code]), group


def _draw(
    ax: Axes,
    evaluated: Evaluation,
    codes: np.ndarray,
    curve_of: Callable[[np.ndarray, np.ndarray], evaluation.Curve],
    on_grid: Callable[[evaluation.Curve], np.ndarray],
    measure: str,
) -> None:
    handles, labels = [], []
    for i, (name, proba) in enumerate(evaluated.proba.items()):
        colour, dashes = STYLES[i]
        curves = [curve_of(evaluated.truth == code, proba[:, code]) for code in codes]
        heights = np.stack([on_grid(curve) for curve in curves])
        if i == 0 and len(curves) > 1:
            thin = [ax.plot(GRID, height, color=OTHER, linewidth=0.6, zorder=1)[0] for height in heights]
        line = ax.plot(GRID, heights.mean(axis=0), color=colour, linestyle=dashes, linewidth=1.6, zorder=4 - i)[0]
        handles.append(line)
        labels.append(f"{name}, {np.mean([curve.area for curve in curves]):.3f}")
    if len(codes) > 1:
        handles.append(thin[0])
        labels.append(f"each class, {next(iter(evaluated.proba))}")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(ax, handles, labels, title=measure)


def _true_positive_rate(curve: evaluation.Curve) -> np.ndarray:
    """Height at each false positive rate of the grid; where the curve rises, its upper end, but 0 is the start."""
    height = np.interp(GRID, curve.x, curve.y)
    height[0] = 0
    return height


def _precision(curve: evaluation.Curve) -> np.ndarray:
    """Height at each recall of the grid: that of the highest threshold which reaches it; at 0 that of the first positives."""
    return curve.y[np.searchsorted(curve.x, np.maximum(GRID - 1e-12, 1e-12))]
