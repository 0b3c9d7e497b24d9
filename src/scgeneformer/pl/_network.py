from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys, get
from scgeneformer._arguments import checked
from scgeneformer.tl._networks._graph import as_graph, import_igraph

from ._cells import symbols_of
from ._figure import ABOVE, OTHER, add_colour_bar, begin, finish, no_figure_left
from ._labels import label_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from mudata import MuData

SYMMETRIC = ("contextual", "token")
BEND = 0.08  # of arrows, so that two between the same genes lie apart
MEASURES = {  # in words, by score
    "attention": "in units of even attention",
    "contextual": "cosine of states",
    "token": "cosine of token embeddings",
    "gradient": "length of the derivative",
    "effects": "1 − cosine similarity",
}


@checked
@no_figure_left
def network(
    adata: AnnData | MuData,
    genes: str | Sequence[str],
    *,
    key: str = _keys.NETWORK,
    group: str | None = None,
    n_top: int = 10,
    min_cells: int | None = None,
    gene_symbols: str | None = None,
    cmap: str | Colormap | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Plot the neighbourhood of selected genes in a network: the strongest edges from and to each gene.

    The width and the colour of an edge show its weight. Arrows point from source to target; edges of symmetric scores have no arrows.
    The layout is the algorithm of Kamada and Kawai in igraph and is the same in every run.

    Parameters
    ----------
    adata
        Annotated data with a network from :func:`~scgeneformer.tl.network`.
    genes
        Genes whose neighbourhood to plot, by names in ``var_names`` or symbols.
    key
        Slot of the network.
    group
        Group of cells, if there is a network for each.
    n_top
        Maximum number of edges of each of `genes`; edges of weight 0 or less are not drawn.
    min_cells
        Leave out edges with fewer cells, as in :func:`~scgeneformer.get.edges`. Defaults to `min_cells` of the network.
    gene_symbols
        Column of ``.var`` with the names to show. Defaults to that of :func:`~scgeneformer.get.shifts`, or else to ``var_names``.
    cmap
        Colour map of the weights.
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
    ImportError
        If igraph is not installed: ``pip install 'scgeneformer[network]'``.
    KeyError
        If there is no such network.
    ValueError
        If a gene is missing, no gene has an edge of positive weight with enough cells, or `min_cells` is given for a score that is not computed
        from cells.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.network(adata, score="contextual")
    >>> ax = sg.pl.network(adata, ["STAT1", "IRF9"], n_top=5, show=False)
    """
    from matplotlib.patheffects import withStroke

    import_igraph()
    data = _keys.as_adata(adata, mod)
    genes = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    columns = _keys.gene_columns(data, genes, gene_symbols)
    lost = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
    if lost:
        msg = f"Genes in `genes` that are not in .var: {', '.join(lost)}. Name genes by var_names or symbols."
        raise ValueError(msg)
    run = _keys.params(data, key, cure="sg.tl.network(adata)")
    score = str(run.get("score", ""))
    measure = MEASURES.get(score, score) + (", less that of ranks" if run.get("rank_corrected") else "")
    chosen = data.var_names[columns].astype(str)
    edges = get.edges(data, key=key, group=group, genes=list(chosen), min_cells=min_cells)
    edges = _neighbourhood(edges, list(chosen), n_top, directed=score not in SYMMETRIC)
    if edges.empty:
        msg = f"No edge from or to {', '.join(genes)} in .varp[{key!r}] has a weight above 0{'' if min_cells is None else f' and {min_cells} cells'}. Choose other genes, n_top above 0, or a lower min_cells."
        raise ValueError(msg)
    nodes = np.unique(edges[["source", "target"]])
    names = dict(zip(data.var_names.astype(str), symbols_of(data, gene_symbols), strict=True))

    own_figure = ax is None
    ax = begin(ax, 6.4, 5.2)
    places = _places(edges, nodes)
    _draw(ax, edges, nodes, places, chosen, cmap, arrows=score not in SYMMETRIC, measure=measure)
    first = np.argsort(~np.isin(nodes, chosen), kind="stable")  # chosen genes get the best places for their names
    x, y = places[first].T
    lines = _along(edges, nodes, places, BEND if score not in SYMMETRIC else 0)
    labels = label_points(ax, x, y, [names[node] for node in nodes[first]], fontsize=8, avoid=lines)
    for label, node in zip(labels, nodes[first], strict=True):
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])  # edges pass behind names
        if node in chosen:
            label.set_fontweight("bold")
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _neighbourhood(edges: pd.DataFrame, genes: list[str], n_top: int, *, directed: bool) -> pd.DataFrame:
    """The strongest edges of each gene, once each; without `directed` only one of the two between the same genes."""
    edges = edges[edges["weight"] > 0]
    if not directed:
        ends = np.sort(edges[["source", "target"]].to_numpy(str), axis=1)
        edges = edges[~edges.assign(a=ends[:, 0], b=ends[:, 1]).duplicated(["a", "b"]).to_numpy()]
    taken = np.zeros(len(edges), dtype=bool)
    for gene in genes:
        own = np.flatnonzero((edges["source"] == gene) | (edges["target"] == gene))
        taken[own[:n_top]] = True
    return edges[taken]


def _places(edges: pd.DataFrame, nodes: np.ndarray) -> np.ndarray:
    """Places of the genes, (n, 2), in a square from -1 to 1."""
    ends = [np.searchsorted(nodes, edges[name].to_numpy(str)) for name in ("source", "target")]
    graph = as_graph(len(nodes), *ends)
    places = np.array(graph.layout_kamada_kawai(seed=graph.layout_circle()).coords)
    places -= (places.max(axis=0) + places.min(axis=0)) / 2
    return places / np.maximum(np.abs(places).max(axis=0), np.finfo(float).eps)


def _along(edges: pd.DataFrame, nodes: np.ndarray, places: np.ndarray, bend: float) -> np.ndarray:
    """Points along the edges, without their ends, (n_edges * 18, 2): the curves that matplotlib calls arc3."""
    a, b = (places[np.searchsorted(nodes, edges[name].to_numpy(str))] for name in ("source", "target"))
    middle = (a + b) / 2 + bend * (b - a)[:, ::-1] * [1, -1]
    t = np.linspace(0, 1, 20)[1:-1, None, None]
    return ((1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t**2 * b).reshape(-1, 2)


def _draw(
    ax: Axes,
    edges: pd.DataFrame,
    nodes: np.ndarray,
    places: np.ndarray,
    chosen: Sequence[str],
    cmap: str | Colormap | None,
    *,
    arrows: bool,
    measure: str,
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import FancyArrowPatch

    # without the palest quarter, which does not show as a line on white
    colours = ListedColormap(colormaps["YlGnBu"](np.linspace(0.25, 1, 256))) if cmap is None else cmap
    weights = edges["weight"].to_numpy(np.float64)
    low, high = weights.min(), weights.max()
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1), colours)
    ax.set(xlim=(-1.25, 1.25), ylim=(-1.15, 1.15))
    ax.axis("off")
    place_of = dict(zip(nodes, places, strict=True))
    for source, target, weight in edges[["source", "target", "weight"]].iloc[::-1].itertuples(index=False):
        patch = FancyArrowPatch(
            tuple(place_of[source]),
            tuple(place_of[target]),
            arrowstyle="-|>" if arrows else "-",
            mutation_scale=9,
            shrinkA=4,
            shrinkB=5 if arrows else 4,
            connectionstyle=f"arc3,rad={BEND}" if arrows else "arc3",
            linewidth=0.6 + 2 * (weight - low) / max(high - low, np.finfo(float).tiny),
            color=scale.to_rgba(weight),
            zorder=1,
        )
        ax.add_patch(patch)
    is_chosen = np.isin(nodes, chosen)
    x, y = places.T
    sizes, faces = np.where(is_chosen, 80, 40), np.where(is_chosen, ABOVE, OTHER)
    ax.scatter(x, y, s=sizes, c=faces, edgecolors="0.3", linewidths=0.5, zorder=2)
    add_colour_bar(scale, ax, "weight", measure, shrink=0.7, aspect=25)
