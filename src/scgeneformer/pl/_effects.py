from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys, get
from scgeneformer._arguments import checked

from ._cells import symbols_of
from ._figure import add_colour_bar, begin, finish, no_figure_left, symmetric, whole_figure

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from mudata import MuData


@checked
@no_figure_left
def effects(
    adata: AnnData | MuData,
    perturbed: str,
    *,
    key: str = _keys.SHIFT,
    n_top: int = 20,
    min_cells: int = 5,
    gene_symbols: str | None = None,
    cmap: str | Colormap | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Plot the genes most affected by a perturbation, around the perturbed gene.

    The width and the colour of a line show the effect: 1 minus the mean cosine similarity between the states of the affected
    gene before and after the perturbation. Effects decrease clockwise from the top.

    Parameters
    ----------
    adata
        Annotated data with effects on genes in ``.varp[key]``, from :func:`~scgeneformer.tl.perturb`.
    perturbed
        Perturbed gene, by its name in ``var_names`` or its symbol, or a set.
    key
        Slot of the perturbation.
    n_top
        Number of affected genes to show.
    min_cells
        Minimum number of cells in which a gene was affected.
    gene_symbols
        Column of ``.var`` with the names to show. Defaults to that of :func:`~scgeneformer.get.shifts`, or else to ``var_names``.
    cmap
        Colour map of the effects, starting at 0.
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
        If there are no effects on genes, or `perturbed` was not perturbed.
    ValueError
        If no gene was affected in at least `min_cells` cells, or `perturbed` is the symbol of several perturbed genes.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.perturb(adata, genes=["STAT1"], effects=True, max_cells=8)
    >>> ax = sg.pl.effects(adata, "STAT1", show=False)
    """
    data = _keys.as_adata(adata, mod)
    frame = get.effects(data, perturbed, key=key, gene_symbols=gene_symbols)
    itself = frame.filter(["names", "symbol"]).eq(perturbed).any(axis=1)
    frame = frame[(frame["n_cells"] >= min_cells) & ~itself]
    if frame.empty:
        msg = f"{perturbed!r} affected no gene in min_cells={min_cells} cells. Lower it."
        raise ValueError(msg)
    frame = frame[:n_top]
    names = frame["symbol" if "symbol" in frame else "names"].astype(str).tolist()

    own_figure = ax is None
    ax = begin(ax, 6.4, max(3.4, 1.2 + 0.17 * len(names)))
    labels = dict(zip(data.var_names, symbols_of(data, gene_symbols), strict=True))
    _draw(ax, 1 - frame["cosine"].to_numpy(), names, labels.get(perturbed, perturbed), cmap)
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _circle(n: int) -> np.ndarray:
    """Places on the unit circle, clockwise from the top, at even heights on each side so that labels never meet; (n, 2)."""
    n_right = n - n // 2
    right, left = (1 - (2 * np.arange(k) + 1) / max(k, 1) for k in (n_right, n // 2))
    y = np.concatenate([right, left[::-1]])
    side = np.where(np.arange(n) < n_right, 1, -1)
    return np.column_stack([side * np.sqrt(1 - y**2), y])


def _draw(ax: Axes, effect: np.ndarray, names: list[str], centre: str, cmap: str | Colormap | None) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap

    # without the palest quarter, which does not show as a line on white
    cmap = cmap or ListedColormap(colormaps["YlGnBu"](np.linspace(0.25, 1, 256)))
    places, (low, high) = _circle(len(names)), symmetric(float(effect.max()), signed=False)
    edges = LineCollection(
        [[(0, 0), place] for place in places], array=effect, cmap=cmap, linewidths=0.6 + 4 * effect / high, zorder=1
    )
    edges.set_clim(low, high)
    ax.add_collection(edges)
    x, y = places.T
    ax.scatter(x, y, c=effect, cmap=cmap, vmin=low, vmax=high, s=36, edgecolors="0.3", linewidths=0.5, zorder=2)
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    ax.axis("off")
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.3"}
    ax.annotate(centre, (0, 0), ha="center", va="center", fontsize=9, fontweight="bold", bbox=box, zorder=3)
    add_colour_bar(edges, ax, "effect on the gene", "1 − cosine similarity", shrink=0.7, aspect=25)
    _label(ax, places, names)


def _label(ax: Axes, places: np.ndarray, names: list[str]) -> None:
    """Names beside their places, and limits that leave room for them within the axes."""
    whole_figure(ax).draw_without_rendering()  # the size of the axes is final from here on
    notes = []
    for place, name in zip(places, names, strict=True):
        side = 1 if place[0] > 0 else -1
        note = ax.annotate(
            name,
            place,
            xytext=(6 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
        note.set_in_layout(False)
        notes.append(note)
    frame = ax.get_window_extent()
    gap = 10 * ax.figure.dpi / 72
    widths = np.array([note.get_window_extent().width + gap for note in notes])
    height = notes[0].get_window_extent().height
    right, left = (widths[side].max(initial=gap) for side in (places[:, 0] > 0, places[:, 0] <= 0))
    per_x = max(frame.width - left - right, frame.width / 4) / 2  # pixels in a radius
    per_y = max(frame.height - height, frame.height / 4) / 2
    ax.set_xlim(-1 - left / per_x, 1 + right / per_x)
    ax.set_ylim(-1 - height / 2 / per_y, 1 + height / 2 / per_y)
