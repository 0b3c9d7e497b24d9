from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scgeneformer import _keys
from scgeneformer._arguments import checked

from ._cells import effects_in_cells
from ._figure import DIVERGING, SEQUENTIAL, add_colour_bar, finish, no_figure_left, symmetric
from ._ranking import check_state, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from mudata import MuData

UNTESTED = "#D9D9D9"


@checked
@no_figure_left
def shift_embedding(
    adata: AnnData | MuData,
    genes: Sequence[str] | str,
    *,
    basis: str = "umap",
    key: str = _keys.SHIFT,
    state: str | None = None,
    vmax: float | None = None,
    cmap: str | Colormap | None = None,
    size: float | None = None,
    ncols: int = 4,
    centered: bool = True,
    gene_symbols: str | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Colour an embedding of cells by the effect of perturbing a gene in each cell, with one panel per gene.

    Drawn by :func:`scanpy.pl.embedding`. Cells in which the gene was not tested are grey and in the background; cells with strong effects are
    in front. All panels share their colour limits, so that genes can be compared.

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, from :func:`~scgeneformer.tl.perturb`.
    genes
        One or several genes, by their name in ``var_names`` or their symbol, or sets.
    basis
        Embedding, as in scanpy: ``"umap"`` is ``.obsm["X_umap"]``.
    key
        Slot of the shifts.
    state
        End state, for perturbations with goal states. Defaults to the target.
    vmax
        Upper colour limit; the lower one is ``-vmax`` with goal states and 0 without. Defaults to the 99th percentile of the
        absolute effects, so that a few extreme cells do not dominate the colours.
    cmap
        Colour map. Defaults to a diverging one for changes in similarity to a state and, without goal states, to a sequential one for 1
        minus the similarity.
    size
        Size of dots. Defaults to that of scanpy.
    ncols
        Number of panels per row.
    centered
        Subtract the effect of other genes (for sets, of random sets) in the same cell, as :func:`~scgeneformer.tl.rank_shifts` does. Otherwise
        genes look alike, since most of a shift is common to all genes of a cell.
    gene_symbols
        Column of ``.var`` with the names to show. Defaults to that of :func:`~scgeneformer.get.shifts`, or else to ``var_names``.
    mod
        Modality of a MuData.
    ax
        Axes to draw on, for a single gene; the colour bar takes space from them.
    show
        Show the figure and return ``None``. Defaults to scanpy's setting, or to False if `ax` is given.
    return_fig
        Return the Figure instead of showing it.

    Returns
    -------
    Axes, or a list of Axes for several genes, or a Figure if `return_fig`, or ``None`` if shown.

    Raises
    ------
    KeyError
        If there are no shifts, no embedding, or no such gene.
    ValueError
        If `state` is not an end state, a gene was perturbed in no cell, or `ax` is given for several genes.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.perturb(adata, genes=["STAT1", "IRF9"], groupby="disease", source="dcm", target="nf")
    >>> axes = sg.pl.shift_embedding(adata, ["STAT1", "IRF9"], show=False)
    >>> len(axes)
    2
    """
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure="sg.tl.perturb(adata)")
    state = check_state(run, key, state)
    genes = [genes] if isinstance(genes, str) else list(genes)
    if ax is not None and len(genes) > 1:
        msg = f"`ax` has room for one gene, but {len(genes)} are named. Leave out `ax`, or call once for each gene."
        raise ValueError(msg)
    places = next((name for name in (f"X_{basis}", basis) if name in data.obsm), None)
    if places is None:
        msg = f"No embedding in .obsm['X_{basis}']. Run `sc.tl.umap(adata)` first, or name another `basis`."
        raise KeyError(msg)
    values, labels = effects_in_cells(
        data, run, genes, key=key, state=state, gene_symbols=gene_symbols, centered=centered
    )

    own_figure = ax is None
    axes = _panels(len(genes), ncols) if ax is None else [ax]
    largest = vmax if vmax is not None else np.nanpercentile(np.abs(values), 99)
    limits = symmetric(largest, signed=state is not None or centered)
    cmap = cmap or (DIVERGING if state is not None or centered else SEQUENTIAL)
    for panel, column, label in zip(axes, values.T, labels, strict=True):
        _draw(panel, column, label, np.asarray(data.obsm[places]), basis, limits=limits, cmap=cmap, size=size)
    what, measure = words(run, state, mean=False, centered=centered)
    add_colour_bar(
        axes[0].collections[0], axes, what, measure, shrink=0.8, aspect=25, fraction=0.15 / min(len(axes), ncols)
    )
    return finish(axes if len(axes) > 1 else axes[0], own_figure=own_figure, show=show, return_fig=return_fig)


def _panels(n: int, ncols: int) -> list[Axes]:
    import matplotlib.pyplot as plt

    columns = min(n, max(ncols, 1))
    rows = -(-n // columns)
    size = (2.9 * columns + 1.1, 2.9 * rows)
    _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in axes.flat[n:]:
        panel.remove()
    return list(axes.flat[:n])


def _draw(
    ax: Axes,
    values: np.ndarray,
    title: str,
    places: np.ndarray,
    basis: str,
    *,
    limits: tuple[float, float],
    cmap: str | Colormap,
    size: float | None,
) -> None:
    import scanpy as sc

    order = np.argsort(np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")  # the strongest are drawn last
    values = values[order]
    obs = pd.DataFrame({"effect": values}, index=np.arange(len(values)).astype(str))
    shown = AnnData(obs=obs, obsm={f"X_{basis}": places[order]})
    size = 120_000 / len(values) if size is None else size
    sc.pl.embedding(
        shown,
        basis,
        color="effect",
        title=f"{title} ({np.isfinite(values).sum():,} cells)",
        vmin=limits[0],
        vmax=limits[1],
        cmap=cmap,
        na_color=UNTESTED,
        sort_order=False,
        size=size,
        edgecolor="0.5",
        linewidths=np.where(np.isfinite(values), 0.03 * np.sqrt(size), 0),  # so that effects near 0 show on white
        colorbar_loc=None,
        ax=ax,
        show=False,
    )
