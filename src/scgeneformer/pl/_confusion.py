from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys
from scgeneformer._arguments import checked

from ._evaluations import read_evaluation
from ._figure import begin, finish, no_figure_left, whole_figure

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from mudata import MuData

    from ._evaluations import Evaluation

SHOWN_SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1"}
MOST_NUMBERS = 20  # classes up to which fields have numbers


@checked
@no_figure_left
def confusion(
    adata: AnnData | MuData,
    *,
    key: str = _keys.EVALUATION,
    model: str | None = None,
    normalize: bool = True,
    cmap: str | Colormap = "Blues",
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Confusion matrix of the evaluated cells: true classes in rows, predicted classes in columns, scores of all models above.

    Parameters
    ----------
    adata
        Annotated data with an evaluation, from :func:`~scgeneformer.tl.evaluate`.
    key
        Slot of the evaluation.
    model
        Model whose predictions to show: a row of :func:`~scgeneformer.get.evaluation`, such as ``"linear probe"``. Defaults to the
        evaluated model.
    normalize
        Show percentages of each true class, with the number of cells next to its name. Otherwise show numbers of cells.
    cmap
        Colour map, starting at 0.
    mod
        Modality of a MuData.
    ax
        Axes to draw on; the colour bar takes space from them.
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
        If the evaluated labels are continuous, or `model` has no predictions.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.evaluate(adata, model)
    >>> ax = sg.pl.confusion(adata, model="linear probe", show=False)
    """
    evaluated = read_evaluation(adata, key, mod)
    model = next(iter(evaluated.proba)) if model is None else model
    if model not in evaluated.proba:
        msg = f"There are no predictions of model={model!r}, only of {list(evaluated.proba)}."
        raise ValueError(msg)
    n = len(evaluated.classes)
    counts = np.zeros((n, n), dtype=np.int64)
    np.add.at(counts, (evaluated.truth, evaluated.proba[model].argmax(axis=1)), 1)

    own_figure = ax is None
    names, side = 0.075 * max(map(len, evaluated.classes)), max(2.3, 0.36 * n)  # inches
    ax = begin(ax, 2.2 + names + side, 1.2 + 0.8 * names + side)
    _draw(ax, counts, evaluated.classes, cmap=cmap, normalize=normalize)
    ax.set_xlabel(f"{evaluated.label}, predicted ({model})")
    ax.set_ylabel(f"{evaluated.label}, true", labelpad=8)
    ax.set_title(_caption(evaluated), loc="left", fontsize="small")
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _caption(evaluated: Evaluation) -> str:
    """A line of scores for each model."""
    return "\n".join(
        f"{name}: " + ", ".join(f"{text} {row[score]:.2f}" for score, text in SHOWN_SCORES.items())
        for name, row in evaluated.metrics.iterrows()
        if name in evaluated.proba
    )


def _draw(ax: Axes, counts: np.ndarray, classes: list[str], *, cmap: str | Colormap, normalize: bool) -> None:
    support = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    values = percent if normalize else counts.astype(np.float64)
    field = ax.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=cmap,
        vmin=0,
        vmax=100 if normalize else None,
        edgecolors="white",
        linewidth=0.5,
    )
    ticks = np.arange(len(classes)) + 0.5
    ax.set_xticks(ticks, classes)
    ax.set_yticks(ticks, [f"{name} ({n:,})" for name, n in zip(classes, support[:, 0], strict=True)])
    ax.tick_params(length=0, labelsize=8)
    for text in ax.get_xticklabels():
        text.set(ha="right", va="top", rotation=45, rotation_mode="anchor")
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    if len(classes) <= MOST_NUMBERS:
        _number(ax, counts, values, field)
    bar = ax.figure.colorbar(field, ax=ax, shrink=0.8, aspect=25)
    bar.set_label("% of the true class" if normalize else "cells", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)


def _number(ax: Axes, counts: np.ndarray, values: np.ndarray, field: ScalarMappable) -> None:
    """Write the numbers other than 0 into their fields, dark on light and light on dark."""
    whole_figure(ax).draw_without_rendering()
    side = ax.get_window_extent().width / counts.shape[1] * 72 / ax.figure.dpi  # points
    for row, column in np.argwhere(counts):
        value = values[row, column]
        red, green, blue, _ = field.to_rgba(value)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
        text = "<1" if value < 0.5 else f"{value:.0f}"
        colour = "black" if light else "white"
        size = min(8, 0.42 * side) if len(text) < 4 else min(8, 1.4 * side / len(text))
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=size)
