"""How every figure begins and ends: axes, units, legend, and how it is shown."""

from __future__ import annotations

import functools
from textwrap import fill
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")
Drawn = TypeVar("Drawn", bound="Axes | list[Axes]")

# Okabe and Ito's vermillion and blue: distinguishable with every common colour vision deficiency, and in print by
# lightness.
ABOVE, BELOW, OTHER = "#D55E00", "#0072B2", "#BDBDBD"
# For values around 0, and for values from 0 on; both hold with colour vision deficiencies.
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
CAPTION_SIZE = 7  # points


def no_figure_left(function: Callable[P, R]) -> Callable[P, R]:
    """Close the figures that a plot opened before it failed."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib.pyplot as plt

        before = plt.get_fignums()
        try:
            return function(*args, **kwargs)
        except BaseException:
            for number in set(plt.get_fignums()).difference(before):
                plt.close(number)
            raise

    return wrapper


def begin(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of that size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def finish(drawn: Drawn, *, own_figure: bool, show: bool | None, return_fig: bool | None) -> Drawn | Figure | None:
    """Return what was drawn, or its figure, or show it: by default where scanpy would, and not on the caller's axes."""
    if return_fig:
        return whole_figure(drawn[0] if isinstance(drawn, list) else drawn)
    if show is None:
        from scanpy import settings

        show = own_figure and settings.autoshow
    if show:
        import matplotlib.pyplot as plt

        plt.show()
        return None
    return drawn


def whole_figure(ax: Axes) -> Figure:
    """Figure of `ax`, even where `ax` is part of a subfigure."""
    return ax.figure.figure


def exponent_of(values: np.ndarray) -> int:
    """Power of ten to write `values` in, since effects are small; 0 where the plain numbers are short."""
    largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    exponent = int(np.floor(np.log10(max(largest, np.finfo(float).tiny))))
    return exponent if -300 < exponent < -2 else 0


def in_tens(exponent: int) -> Callable[[float, object], str]:
    """Format numbers in units of ``10**exponent``, for :meth:`~matplotlib.axis.Axis.set_major_formatter`."""
    return lambda value, _: f"{value / 10.0**exponent:.3g}".replace("-", "−")


def with_unit(what: str, measure: str, exponent: int, *, width: int) -> str:
    """``what  (measure, 10^exponent)``, on several lines if longer than `width` characters."""
    unit = f", 10$^{{{exponent}}}$" if exponent else ""
    if len(what) + len(measure) + (8 if exponent else 4) > width:
        return f"{fill(what, width)}\n({measure}{unit})"
    return f"{what}  ({measure}{unit})"


def name_axis(axis: XAxis | YAxis, what: str, measure: str, exponent: int) -> None:
    """Label an axis and write its numbers in units of ``10**exponent``; the label is broken where the axis is short."""
    axis.set_major_formatter(in_tens(exponent))
    ax, text = axis.axes, axis.label
    whole_figure(
        ax
    ).draw_without_rendering()  # layouts do not make room along an axis, so that its length has to be known
    extent = ax.get_window_extent()
    points = (extent.width if axis.axis_name == "x" else extent.height) * 72 / ax.figure.dpi
    size = text.get_fontproperties().get_size_in_points()
    axis.set_label_text(with_unit(what, measure, exponent, width=max(12, int(points / (0.56 * size)))))


def caption_below(ax: Axes, text: str) -> None:
    """Small print below the label of the x axis, its lines broken to the width of the axes."""
    figure = whole_figure(ax)
    figure.draw_without_rendering()  # the label's lines have to be known
    label, points = ax.xaxis.label.get_window_extent(), 72 / ax.figure.dpi
    below = (ax.get_window_extent().y0 - label.y0) * points + 3
    width = max(20, int(ax.get_window_extent().width * points / (0.55 * CAPTION_SIZE)))
    ax.annotate(
        "\n".join(fill(line, width) for line in text.splitlines()),
        (0.5, 0),
        xycoords="axes fraction",
        xytext=(0, -below),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=CAPTION_SIZE,
        color="0.4",
    )


def symmetric(largest: float, *, signed: bool) -> tuple[float, float]:
    """Colour limits: around 0 for signed values, from 0 otherwise; never empty."""
    largest = largest if np.isfinite(largest) and largest > 0 else 1.0
    return (-largest if signed else 0.0), largest


def add_colour_bar(
    mappable: ScalarMappable,
    axes: Axes | list[Axes],
    what: str,
    measure: str,
    *,
    shrink: float,
    aspect: float = 20,
    fraction: float = 0.15,
) -> Colorbar:
    """Colour bar beside `axes`, its numbers in units of a power of ten that its label names."""
    figure = (axes if hasattr(axes, "figure") else axes[0]).figure
    bar = figure.colorbar(mappable, ax=axes, shrink=shrink, aspect=aspect, fraction=fraction)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)
    bar.ax.yaxis.label.set_fontsize(8)
    name_axis(bar.ax.yaxis, what, measure, exponent_of(np.array(mappable.get_clim())))
    return bar


def legend_above(ax: Axes, handles: Sequence[Artist], labels: Sequence[str], *, title: str | None = None) -> None:
    """Legend over the axes, where it covers nothing, in as many columns as there is room for: it would squeeze the axes."""
    lengths = sorted(map(len, labels), reverse=True)
    columns = max((n for n in (2, 3) if sum(lengths[:n]) <= 60 and (n == 2 or len(labels) == 3)), default=1)
    ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize="small",
        title=title,
        title_fontsize="small",
        alignment="left",
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.3,
    )
