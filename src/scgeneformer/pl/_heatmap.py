from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys
from scgeneformer._arguments import checked

from ._cells import effects_in_cells
from ._figure import DIVERGING, SEQUENTIAL, add_colour_bar, begin, finish, legend_above, no_figure_left, symmetric
from ._ranking import check_state, read_ranking, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from mudata import MuData


@checked
@no_figure_left
def shift_heatmap(
    adata: AnnData | MuData,
    *,
    groupby: str | None = None,
    genes: Sequence[str] | str | None = None,
    n_top: int = 20,
    key: str = _keys.SHIFT,
    state: str | None = None,
    min_cells: int = 5,
    centered: bool = True,
    gene_symbols: str | None = None,
    cmap: str | Colormap | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Heatmap of mean effects: perturbed genes in rows, groups of cells in columns.

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, from :func:`~scgeneformer.tl.perturb`.
    groupby
        Column of ``.obs`` with groups of cells, such as cell types; for MuData, also of the MuData itself or of another modality
        (``"prot:gate"``). Categories keep their order. Defaults to the groups of the perturbation.
    genes
        Genes, by their name in ``var_names`` or their symbol, or sets, in the order of the rows. Defaults to the `n_top` genes
        with the largest absolute scores (effects, if the test has no scores) in any group of the ranking by
        :func:`~scgeneformer.tl.rank_shifts`, by descending effect.
    n_top
        Number of genes if `genes` is not given.
    key
        Slot of the shifts.
    state
        End state, for perturbations with goal states. Defaults to the target.
    min_cells
        Minimum number of cells for a mean to be shown.
    centered
        Subtract the effect of other genes (for sets, of random sets) in the same cell, as :func:`~scgeneformer.tl.rank_shifts` does. Otherwise
        genes look alike, since most of a shift is common to all genes of a cell.
    gene_symbols
        Column of ``.var`` with the names to show. Defaults to that of :func:`~scgeneformer.get.shifts`, or else to ``var_names``.
    cmap
        Colour map. Defaults to a diverging one and, without goal states and `centered`, to a sequential one for 1 minus the similarity.
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
        If there are no shifts, no column `groupby`, no such gene, or no ranking to choose genes from.
    ValueError
        If `state` is not an end state, a named gene was perturbed in no cell, or there are no groups.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> states = {"groupby": "disease", "source": "dcm", "target": "nf"}
    >>> sg.tl.perturb(adata, genes=["STAT1", "IRF9"], within="cell_type", **states)
    >>> ax = sg.pl.shift_heatmap(adata, genes=["STAT1", "IRF9"], show=False)
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['fibroblast', 'myocyte']
    """
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure="sg.tl.perturb(adata)")
    state = check_state(run, key, state)
    groupby = run.get("within") if groupby is None else groupby
    if groupby is None:
        msg = f"Name the groups of cells by `groupby`: {key!r} was not perturbed within groups."
        raise ValueError(msg)
    groups = _keys.obs_column(adata, groupby, mod)
    if genes is None:
        genes = _strongest(data, key=key, state=state, n_top=n_top)
    genes = [genes] if isinstance(genes, str) else list(genes)
    values, labels = effects_in_cells(
        data, run, genes, key=key, state=state, gene_symbols=gene_symbols, centered=centered
    )
    means = _group_means(values, groups, min_cells)

    own_figure = ax is None
    height = max(2.2, 0.22 * len(labels))  # of the map itself, in inches; the rest is for text
    names = max(len(str(group)) for group in means.columns)
    ax = begin(ax, 1.9 + 0.07 * max(map(len, labels)) + 0.34 * means.shape[1], 0.8 + 0.05 * names + height)
    _draw(
        ax,
        means,
        labels,
        cmap=cmap,
        signed=state is not None or centered,
        few="no cells" if min_cells == 1 else f"< {min_cells} cells",
    )
    add_colour_bar(ax.collections[0], ax, *words(run, state, centered=centered), shrink=min(1, 3 / height))
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _strongest(data: AnnData, *, key: str, state: str | None, n_top: int) -> list[str]:
    """Names of the genes of largest absolute strength in any group, by falling mean effect."""
    ranking = read_ranking(data, key=key, state=state, max_fdr=1, all_groups=True)
    effect = ranking.frame["effect"].to_numpy()
    table = pd.DataFrame({"strength": np.abs(ranking.strength), "effect": effect}, index=ranking.ids)
    of_gene = table.groupby(level=0, sort=False).agg({"strength": "max", "effect": "mean"})
    best = of_gene.sort_values("strength", ascending=False, kind="stable")[:n_top]
    return best.sort_values("effect", ascending=False, kind="stable").index.tolist()


def _group_means(values: np.ndarray, groups: pd.Series, min_cells: int) -> pd.DataFrame:
    """Means of the columns of `values` in each group that has cells, NaN for fewer than `min_cells` values."""
    labels = pd.Categorical(groups).remove_unused_categories()
    grouped = pd.DataFrame(values).groupby(labels, observed=False)
    return grouped.mean().where(grouped.count() >= min_cells).T


def _draw(
    ax: Axes, means: pd.DataFrame, labels: list[str], *, cmap: str | Colormap | None, signed: bool, few: str
) -> None:
    shown = np.ma.masked_invalid(means.to_numpy())
    low, high = symmetric(np.abs(shown).max() if shown.count() else 0.0, signed=signed)
    cmap = cmap or (DIVERGING if signed else SEQUENTIAL)
    ax.pcolormesh(shown, cmap=cmap, vmin=low, vmax=high, edgecolors="white", linewidth=0.5)
    ax.set_xticks(np.arange(means.shape[1]) + 0.5, [str(group) for group in means.columns])
    ax.set_yticks(np.arange(len(labels)) + 0.5, labels)
    ax.tick_params(length=0, labelsize=8)
    ax.tick_params(axis="x", rotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", va="top", rotation_mode="anchor")
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    if np.ma.is_masked(shown):
        ax.patch.set(facecolor="0.94", edgecolor="0.75", hatch="////", linewidth=0)
        legend_above(ax, [ax.patch], [few])
