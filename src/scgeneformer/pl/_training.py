from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer._arguments import checked

from ._figure import ABOVE, BELOW, OTHER, finish, no_figure_left

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("loss", "scores", "learning_rate")
STEP_LOSS, RATE = "train_loss_step", "learning_rate"
PARTS = {"train": ("train_", BELOW), "validation": ("validation_", ABOVE)}
DASHES = ("-", "--", "-.", ":")
SPELLED = {"auc": "AUC", "macro_f1": "macro F1"}


@checked
@no_figure_left
def training(
    model: Any,
    *,
    kind: Literal["loss", "scores", "learning_rate"] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Plot the course of training: loss, scores and learning rate by optimizer step.

    Parameters
    ----------
    model
        A trained model, or its `history`: a DataFrame for each metric, indexed by step, as in scvi-tools.
    kind
        ``"loss"``: mean training and validation loss of each epoch, and the smoothed training loss of each step as a pale line. ``"scores"``:
        all other logged metrics of training and validation, such as accuracy and macro F1. ``"learning_rate"``. By default all kinds
        that were logged, side by side, or the loss if `ax` is given.
    ax
        Axes to draw on.
    show
        Show the figure and return ``None``. Defaults to scanpy's setting, or to False if `ax` is given.
    return_fig
        Return the Figure instead of showing it.

    Returns
    -------
    Axes, or a list of Axes for several kinds, or a Figure if `return_fig`, or ``None`` if shown.

    Raises
    ------
    ValueError
        If the model is not trained, or nothing of this kind was logged.

    Examples
    --------
    `model` is a trained :class:`~scgeneformer.model.CellClassifier`.

    >>> axes = sg.pl.training(model, show=False)
    """
    history = {name: frame.iloc[:, 0].dropna() for name, frame in _history(model).items()}
    names = {name: metrics for name in KINDS if (metrics := _names(history, name))}
    if not names:
        msg = "The history is empty. Call `model.train()` first; if it kept a linear probe, the runs are in `model.selected.histories`."
        raise ValueError(msg)
    own_figure = ax is None
    kinds = [kind] if kind else list(names) if own_figure else ["loss"]
    if missing := set(kinds) - set(names):
        msg = f"No metric of kind={missing.pop()!r} was logged, only {sorted(history)}."
        raise ValueError(msg)
    axes = _panels(len(kinds)) if ax is None else [ax]
    for panel, shown in zip(axes, kinds, strict=True):
        _draw(panel, {name: history[name] for name in names[shown]}, shown)
    return finish(axes if len(axes) > 1 else axes[0], own_figure=own_figure, show=show, return_fig=return_fig)


def _history(model: Any) -> Mapping[str, pd.DataFrame]:
    if hasattr(model, "keys"):
        return model
    return getattr(model, "history", None) or {}


def _names(history: Mapping[str, pd.Series], kind: str) -> list[str]:
    """Metrics of a kind, those of training first."""
    if kind == "learning_rate":
        return [RATE] if RATE in history else []
    losses = [name for name in (STEP_LOSS, "train_loss", "validation_loss") if name in history]
    if kind == "loss":
        return losses
    scores = [name for name in history if name not in losses and name.startswith(("train_", "validation_"))]
    return sorted(scores, key=lambda name: (_parts(name)[1], name))


def _parts(name: str) -> tuple[str, str]:
    """``validation_macro_f1`` is ``macro_f1`` in ``validation``."""
    part, _, metric = name.partition("_")
    return part, metric


def _panels(n: int) -> list[Axes]:
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, n, figsize=(3.6 * n + 0.4, 3.2), squeeze=False, layout="constrained")
    return list(axes[0])


def _draw(ax: Axes, shown: Mapping[str, pd.Series], kind: str) -> None:
    metrics = list(dict.fromkeys(_parts(name)[1] for name in shown if name not in (STEP_LOSS, RATE)))
    for name, values in shown.items():
        steps, heights = values.index.to_numpy(), values.to_numpy()
        if name == RATE:
            ax.plot(steps, heights, color="0.3", linewidth=1.2)
        elif name == STEP_LOSS:
            ax.plot(steps, heights, color=OTHER, linewidth=0.5, alpha=0.6, zorder=1)
            ax.plot(steps, _smoothed(heights), color="0.55", linewidth=1, zorder=2, label="training, by step")
        else:
            part, metric = _parts(name)
            label = {"train": "training", "validation": "validation"}[part]
            dashes = DASHES[metrics.index(metric) % len(DASHES)] if kind == "scores" else "-"
            text = label if kind == "loss" else f"{SPELLED.get(metric, metric.replace('_', ' '))}, {label}"
            marker = "o" if len(steps) <= 30 else None
            ax.plot(
                steps,
                heights,
                color=PARTS[part][1],
                linestyle=dashes,
                marker=marker,
                markersize=3,
                zorder=3,
                label=text,
            )
    ax.set_xlabel(str(next(iter(shown.values())).index.name or "step"))
    ax.set_ylabel({"loss": "loss", "scores": "score", "learning_rate": "learning rate"}[kind])
    ax.spines[["top", "right"]].set_visible(False)
    if kind == "learning_rate":
        ax.ticklabel_format(axis="y", scilimits=(-2, 3))
        ax.set_ylim(bottom=0)
    else:
        ax.legend(frameon=False, fontsize="small")


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of the last few values, a fiftieth of all."""
    window = max(1, len(values) // 50)
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
