from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from scgeneformer import _keys
from scgeneformer._arguments import checked
from scgeneformer.pl._figure import begin, caption_below, exponent_of, finish, legend_above, name_axis, no_figure_left
from scgeneformer.pl._ranking import read_ranking

from ._listing import ON_STATE, draw_further_states, draw_listing, strongest
from ._plane import draw_plane, label_plane, read_alternative
from ._volcano import draw_volcano, label_volcano

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mudata import MuData

    from scgeneformer.pl._ranking import Ranking


@checked
@no_figure_left
def shift(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    kind: Literal["volcano", "rank", "plane"] = "volcano",
    state: str | None = None,
    group: str | None = None,
    sets: bool | None = None,
    n_top: int = 20,
    max_fdr: float = 0.05,
    gene_symbols: str | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Plot a ranking of perturbed genes by their effects on cells, from :func:`~scgeneformer.tl.rank_shifts`.

    The caption shows, if known, how well the states are separated, how much of the ranking is explained by expression and rank, and how well an
    untrained encoder agrees with it.

    Parameters
    ----------
    adata
        Annotated data with a ranking in ``.varm[key]``.
    key
        Slot of the ranking.
    kind
        ``"volcano"``: mean effect against -log10 p for all tested genes, with labels for the most significant genes. After a test of the states
        (the default of :func:`~scgeneformer.tl.rank_shifts` for exact shifts) the effect is the contrast, the shift towards the target less that towards
        the source, here and for ``"rank"``.
        ``"rank"``: the genes with the highest and lowest scores (effects, if the test has no scores), one per line, ordered by effect,
        with 95 % confidence intervals if the ranking has them; the area of a dot grows with the number of cells. With goal states both
        directions are shown, and open diamonds mark the effects on further end states.
        ``"plane"``: the shift towards the target (x axis) against the shift towards another end state (y axis) for all tested
        genes. Genes at the lower right move cells towards the target and away from the alternative.
    state
        End state. Defaults to the target. For ``"plane"`` the alternative on the second axis; defaults to the first of `others` of
        :func:`~scgeneformer.tl.perturb`, or else to the source.
    group
        Group of cells, if they were perturbed within groups.
    sets
        Plot sets of genes, from ``.uns[key]["sets"]``. By default only if no genes were ranked.
    n_top
        Number of genes to label or list. With two directions, half of them for each, or more if the other has fewer; in the
        plane, the genes farthest from the origin are labelled.
    max_fdr
        False discovery rate up to which genes are coloured. A ranking by ``test="aggregate"`` has no such rate: with goal states,
        genes whose interval excludes 0 are coloured.
    gene_symbols
        Column of ``.var`` with the names to show. Defaults to that of :func:`~scgeneformer.get.shifts`, or else to ``var_names``.
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
        If there is no ranking.
    ValueError
        If `kind` is unknown, no gene was tested, the ranking has p-values without scores, a volcano plot needs p-values that it does not have, or a plane
        is requested from a perturbation with fewer than two end states or without `state`.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.perturb(adata, genes=["STAT1", "STAT2", "IRF9"], groupby="disease", source="dcm", target="nf")
    >>> sg.tl.rank_shifts(adata)
    >>> ax = sg.pl.shift(adata, show=False)
    >>> ax = sg.pl.shift(adata, kind="rank", n_top=10, show=False)
    """
    data = _keys.as_adata(adata, mod)
    of_state = None if kind == "plane" else state
    ranking = read_ranking(
        data, key=key, state=of_state, max_fdr=max_fdr, group=group, sets=sets, gene_symbols=gene_symbols
    )
    ranking = replace(ranking, as_contrast=ranking.tests_states and kind != "plane")
    if kind == "volcano" and "pvals" not in ranking.frame:
        why = (
            "sets need `n_random` sets to be compared with"
            if ranking.of_sets
            else f"it was made with test={ranking.rank['test']!r}"
        )
        msg = f"The ranking of {key!r} has no p-values: {why}. Use kind='rank'."
        raise ValueError(msg)
    if "pvals" in ranking.frame and "scores" not in ranking.frame:
        msg = (
            f"The ranking of {key!r} has p-values but no scores to tell on which side of other genes a gene lies, as "
            "in tables of the official tool. Read it with `sg.get.shifts(adata)`, or rank the shifts again with "
            "`sg.tl.rank_shifts`."
        )
        raise ValueError(msg)
    own_figure = ax is None
    if kind == "volcano":
        ax = begin(ax, 5.6, 4.8)
        draw_volcano(ax, ranking)
        _finish_axes(ax, ranking)
        label_volcano(ax, ranking, n_top)
    elif kind == "rank":
        rows = strongest(ranking, n_top)
        ax = begin(ax, 4.8, max(2.2, 1.2 + 0.22 * len(rows)))
        draw_listing(ax, ranking, rows)
        draw_further_states(ax, data, key, ranking, rows)
        _finish_axes(ax, ranking)
    else:
        other = read_alternative(data, ranking, key=key, state=state)
        ax = begin(ax, 5.6, 4.8)
        draw_plane(ax, ranking, other)
        _finish_axes(ax, ranking, other)
        label_plane(ax, ranking, other, n_top)
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _finish_axes(ax: Axes, x: Ranking, y: Ranking | None = None) -> None:
    """Add the legend and name the axes of effects, in units of one power of ten."""
    ax.spines[["top", "right"]].set_visible(False)
    handles, texts = ax.get_legend_handles_labels()
    order = sorted(range(len(texts) - 1, -1, -1), key=lambda i: texts[i].startswith(ON_STATE))  # states come last
    legend_above(ax, [handles[i] for i in order], [texts[i] for i in order])
    exponent = max(exponent_of(ranking.effect) for ranking in (x, y) if ranking is not None)
    name_axis(ax.xaxis, *x.quantity(), exponent)
    if y is not None:
        name_axis(ax.yaxis, *y.quantity(), exponent)
    if x.caption:
        caption_below(ax, x.caption)
