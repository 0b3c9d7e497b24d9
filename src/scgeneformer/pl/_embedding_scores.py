from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys, get
from scgeneformer._arguments import checked

from ._figure import begin, caption_below, finish, no_figure_left

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mudata import MuData

LABELS = ("nmi", "ari", "isolated_labels", "silhouette_label", "clisi", "bio_conservation")
WORDS = {
    "nmi": "NMI",
    "ari": "ARI",
    "clisi": "cLISI",
    "bras": "BRAS",
    "ilisi": "iLISI",
    "kbet": "kBET",
    "pcr_comparison": "PCR comparison",
}


@checked
@no_figure_left
def embedding_scores(
    adata: AnnData | MuData,
    *,
    key: str = _keys.EMBEDDING_SCORES,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Table of the scores of embeddings: one row per embedding, scores of labels on the left, scores of batches on the right.

    Colours range from the lowest to the highest score of a column; the numbers are the scores, with the best in bold. The caption gives the
    number of cells and the median standard deviation of scores over random samples of cells, to judge small differences by.

    Parameters
    ----------
    adata
        Annotated data with a comparison, from :func:`~scgeneformer.tl.compare_embeddings`.
    key
        Slot of the comparison.
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
        If there is no comparison.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> sg.tl.compare_embeddings(adata, "disease", "cell_type", baselines=["pca"], metrics="sklearn")
    >>> ax = sg.pl.embedding_scores(adata, show=False)
    """
    scores = get.embedding_scores(adata, key=key, mod=mod)
    run = _keys.as_adata(adata, mod).uns[key]
    order = [name for name in scores if name in LABELS] + [name for name in scores if name not in LABELS]
    scores = scores[order]
    own_figure = ax is None
    width = 1.0 + 0.085 * max(map(len, scores.index)) + 0.52 * scores.shape[1]
    ax = begin(ax, width, 1.9 + 0.3 * len(scores))
    _draw(ax, scores)
    n_of_labels = sum(name in LABELS for name in order)
    ax.axvline(n_of_labels, color="white", linewidth=4)
    for start, end, words in ((0, n_of_labels, "labels kept together"), (n_of_labels, len(order), "batches mixed")):
        ax.text((start + end) / 2, -0.15, words, ha="center", va="bottom", fontsize="small")
    params = run["params"]
    typical = float(np.nanmedian(run["spread"].to_numpy())) if int(params["n_repeats"]) > 1 else np.nan
    noise = (
        f"; standard deviation over {params['n_repeats']} random samples, median {typical:.3f}"
        if np.isfinite(typical)
        else ""
    )
    caption_below(ax, f"{params['n_cells']} cells, {params['n_cells_of_a_batch']} of each batch{noise}")
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)


def _draw(ax: Axes, scores: pd.DataFrame) -> None:
    values = scores.to_numpy(dtype=np.float64)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    shade = np.divide(values - low, high - low, out=np.full(values.shape, 0.5), where=high > low)
    ax.pcolormesh(shade, cmap="Blues", vmin=-0.2, vmax=1.6, edgecolors="white", linewidth=1)
    for (row, column), value in np.ndenumerate(values):
        best = high[column] > low[column] and value == high[column]
        ax.text(
            column + 0.5,
            row + 0.5,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            weight="bold" if best else "normal",
        )
    ax.set_xticks(
        np.arange(values.shape[1]) + 0.5,
        [WORDS.get(name, name.replace("_", " ")) for name in scores],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    ax.set_yticks(np.arange(len(scores)) + 0.5, list(scores.index))
    ax.invert_yaxis()
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
