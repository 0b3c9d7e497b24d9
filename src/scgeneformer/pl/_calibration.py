from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys, evaluation
from scgeneformer._arguments import checked

from ._evaluations import STYLES, read_evaluation
from ._figure import begin, finish, legend_above, no_figure_left

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mudata import MuData


@checked
@no_figure_left
def calibration(
    adata: AnnData | MuData,
    *,
    key: str = _keys.EVALUATION,
    n_bins: int = 15,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Reliability diagram of a model and its baselines: accuracy against confidence.

    Calibrated predictions lie on the diagonal, overconfident ones below it. The area of a dot grows with its share of the cells. The
    legend gives the expected calibration error, the mean distance from the diagonal.

    Parameters
    ----------
    adata
        Annotated data with an evaluation, from :func:`~scgeneformer.tl.evaluate`.
    key
        Slot of the evaluation.
    n_bins
        Number of bins of equal width for the probability of the predicted class.
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
        If the evaluated labels are continuous.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.evaluate(adata, model)
    >>> ax = sg.pl.calibration(adata, n_bins=5, show=False)
    """
    evaluated = read_evaluation(adata, key, mod)
    own_figure = ax is None
    ax = begin(ax, 4.4, 4.8)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    handles, labels = [], []
    for i, (name, proba) in enumerate(evaluated.proba.items()):
        colour, dashes = STYLES[i]
        bins = evaluation.reliability(evaluated.truth, proba, n_bins=n_bins)
        some = bins.n > 0
        x, y, share = bins.confidence[some], bins.accuracy[some], bins.n[some] / bins.n.sum()
        handles.append(ax.plot(x, y, color=colour, linestyle=dashes, linewidth=1.2, zorder=4 - i)[0])
        ax.scatter(x, y, s=8 + 160 * share, color=colour, alpha=0.8, linewidths=0, zorder=5 - i)
        labels.append(f"{name}, {bins.error:.3f}")
    least = np.floor(10 / len(evaluated.classes)) / 10  # no prediction is less sure
    ax.set(xlim=(least - 0.02, 1.03), ylim=(-0.03, 1.03))
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("probability of the predicted class")
    ax.set_ylabel("fraction of correct predictions")
    legend_above(ax, handles, labels, title="expected calibration error")
    return finish(ax, own_figure=own_figure, show=show, return_fig=return_fig)
