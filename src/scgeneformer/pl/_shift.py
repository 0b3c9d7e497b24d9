from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scgeneformer import _keys, get

from ._labels import label_points

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mudata import MuData

# Okabe and Ito's vermillion and blue: told apart with every common colour vision deficiency, and in print by lightness.
ABOVE, BELOW, OTHER = "#D55E00", "#0072B2", "#BDBDBD"
ON_STATE = "on "


def shift(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    kind: Literal["volcano", "rank"] = "volcano",
    state: str | None = None,
    n_top: int = 20,
    max_fdr: float = 0.05,
    gene_symbols: str | None = None,
    mod: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Plot what perturbing each gene did to the cells, from :func:`~scgeneformer.tl.rank_shifts`.

    Parameters
    ----------
    adata
        Annotated data with a ranking in ``.varm[key]``.
    key
        Slot of the ranking.
    kind
        ``"volcano"``: mean effect against -log10 p for all tested genes, the most significant ones labelled.
        ``"rank"``: the genes with the strongest effects, one line each, ordered by effect; the area of a dot grows with the
        number of cells; with goal states both directions are shown, and the effects on further end states as open diamonds.
    state
        End state; the target if ``None``.
    n_top
        Number of genes labelled or listed. Where there are two directions each gets half, or what the other leaves.
    max_fdr
        False discovery rate up to which genes are coloured.
    gene_symbols
        Column of ``.var`` with the names to show; by default as in :func:`~scgeneformer.get.shifts`, else ``var_names``.
    mod
        Modality of a MuData.
    ax
        Axes to draw on.
    show
        Show the figure, and return ``None``; by default as scanpy's settings say, and not if `ax` is given.
    return_fig
        Return the Figure and do not show it.

    Returns
    -------
    Axes, or a Figure if `return_fig`, or ``None`` if shown.

    Raises
    ------
    KeyError
        If there is no ranking.
    ValueError
        If `kind` is unknown, no gene was tested, or a volcano is asked for from a ranking without p-values.
    """
    frame = get.shifts(adata, key=key, state=state, gene_symbols=gene_symbols, mod=mod)
    if kind not in ("volcano", "rank"):
        msg = f"kind={kind!r} is not one of ('volcano', 'rank')."
        raise ValueError(msg)
    if kind == "volcano" and "pval" not in frame:
        msg = f".varm[{key!r}] was ranked with test='mixture', which has no p-values. Use kind='rank'."
        raise ValueError(msg)
    frame = frame[frame["pval" if "pval" in frame else "impact"].notna()]
    if frame.empty:
        msg = f"No gene in .varm[{key!r}] was tested. Run `sg.tl.rank_shifts(adata, min_cells=...)` with fewer cells."
        raise ValueError(msg)
    import matplotlib.pyplot as plt
    from scanpy import settings

    own_figure = ax is None
    data = _keys.as_adata(adata, mod)
    name = "symbol" if "symbol" in frame else "gene"
    direction = _direction(frame, max_fdr)
    if kind == "volcano":
        if own_figure:
            _, ax = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
        _volcano(ax, frame, direction, max_fdr)
    else:
        rows = _strongest(frame, direction, n_top)
        if own_figure:
            _, ax = plt.subplots(figsize=(4.8, 1.2 + 0.22 * len(rows)), layout="constrained")
        _rank(ax, frame.iloc[rows], direction[rows], name, max_fdr)
        _other_states(ax, data, key, frame.iloc[rows])
    _label_effects(ax, frame)
    ax.spines[["top", "right"]].set_visible(False)
    handles, texts = ax.get_legend_handles_labels()
    order = sorted(range(len(texts) - 1, -1, -1), key=lambda i: texts[i].startswith(ON_STATE))  # states come last
    handles, texts = [handles[i] for i in order], [texts[i] for i in order]
    style = {"frameon": False, "fontsize": "small", "handletextpad": 0.2, "columnspacing": 1.2, "borderaxespad": 0.3}
    ax.legend(
        handles, texts, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(texts) if len(texts) < 4 else 2, **style
    )
    if kind == "volcano":
        _label_volcano(ax, frame, direction, name, n_top)
    if return_fig:
        return ax.figure
    if show is None:
        show = own_figure and settings.autoshow
    if show:
        plt.show()
        return None
    return ax


def _direction(frame: pd.DataFrame, max_fdr: float) -> np.ndarray:
    """1 and -1 for genes significantly above and below what they were compared with, 0 for the rest."""
    if "impact" in frame:
        return (frame["impact"] == 1).to_numpy().astype(int)
    significant = frame["fdr"].to_numpy() <= max_fdr
    return np.where(significant, np.sign(frame["score"].to_numpy()), 0).astype(int)


def _legend_labels(frame: pd.DataFrame, direction: np.ndarray, max_fdr: float) -> dict[int, str]:
    if "impact" in frame:
        names = {1: "impact", 0: "no impact"}
    else:
        reference = "in the null" if "null_effect" in frame else "other genes"
        names = {1: f"above {reference}", -1: f"below {reference}", 0: f"FDR > {max_fdr:g}"}
    return {d: f"{text} ({np.sum(direction == d):,})" for d, text in names.items() if np.any(direction == d)}


def _label_effects(ax: Axes, frame: pd.DataFrame) -> None:
    """Name the x axis and write its numbers in units of a power of ten, since effects are small."""
    exponent = int(np.floor(np.log10(max(frame["effect"].abs().max(), np.finfo(float).tiny))))
    exponent = exponent if exponent < -2 else 0
    ax.xaxis.set_major_formatter(lambda value, _: f"{value / 10.0**exponent:.3g}".replace("-", "−"))
    unit = f", 10$^{{{exponent}}}$" if exponent else ""
    if "state" in frame:
        ax.set_xlabel(f"mean shift towards {frame['state'].iloc[0]}  (Δ cosine similarity{unit})")
    else:
        ax.set_xlabel(f"mean effect  (1 − cosine similarity{unit})")


def _log_p(frame: pd.DataFrame) -> np.ndarray:
    p = frame["pval"].to_numpy()
    return -np.log10(np.maximum(p, np.finfo(float).tiny))


def _volcano(ax: Axes, frame: pd.DataFrame, direction: np.ndarray, max_fdr: float) -> None:
    x, y = frame["effect"].to_numpy(), _log_p(frame)
    labels = _legend_labels(frame, direction, max_fdr)
    for d, colour, size in ((0, OTHER, 9), (-1, BELOW, 16), (1, ABOVE, 16)):
        if d in labels:
            at = direction == d
            ax.scatter(x[at], y[at], s=size, c=colour, linewidths=0, label=labels[d], rasterized=at.sum() > 5000)
    if "state" in frame:
        ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    if np.any(direction):
        ax.axhline(y[direction != 0].min(), color="0.8", linewidth=0.8, linestyle="--", zorder=0)
    ax.margins(x=0.12, y=0.06)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("−log$_{10}$ p")


def _label_volcano(ax: Axes, frame: pd.DataFrame, direction: np.ndarray, name: str, n_top: int) -> None:
    y, score = _log_p(frame), frame["score"].to_numpy()
    eligible = direction != 0 if np.any(direction) else np.ones(len(frame), dtype=bool)
    by_p = np.lexsort((-np.abs(score), -y))
    up, down = (by_p[(eligible & side)[by_p]] for side in (score > 0, score <= 0))
    if not ("state" in frame or "null_effect" in frame):
        down = down[:0]  # less effect than other genes is nothing to point at
    n_up = min(len(up), max(n_top - n_top // 2, n_top - len(down)))
    rows = np.concatenate([up[:n_up], down[: n_top - n_up]])
    rows = rows[np.argsort(-y[rows], kind="stable")]
    label_points(ax, frame["effect"].to_numpy()[rows], y[rows], frame[name].to_numpy()[rows], fontsize=7.5)


def _strongest(frame: pd.DataFrame, direction: np.ndarray, n_top: int) -> np.ndarray:
    """Rows of the largest effects, significant ones first, in both directions with goal states; by falling effect."""
    effect = frame["effect"].to_numpy()
    up = np.lexsort((-effect, direction != 1))
    n_down = n_top // 2 if "state" in frame else 0
    down = np.lexsort((effect, direction != -1))[:n_down]
    rows = np.union1d(up[: n_top - n_down], down)
    return rows[np.argsort(-effect[rows], kind="stable")]


def _rank(ax: Axes, frame: pd.DataFrame, direction: np.ndarray, name: str, max_fdr: float) -> None:
    x, y = frame["effect"].to_numpy(), np.arange(len(frame))
    n = frame["n_cells"].to_numpy()
    labels = _legend_labels(frame, direction, max_fdr)
    colour = {1: ABOVE, -1: BELOW, 0: OTHER}
    if "state" in frame:
        ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    for d in (0, -1, 1):
        if d not in labels:
            continue
        at = direction == d
        ax.scatter(
            x[at],
            y[at],
            s=12 + 48 * n[at] / n.max(),
            c=colour[d],
            linewidths=0,
            label=labels[d].rsplit(" (", 1)[0],
            zorder=3,
        )
    ax.set_yticks(y, frame[name])
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(axis="y", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_ylim(len(frame) - 0.5, -0.5)
    ax.margins(x=0.08)


def _other_states(ax: Axes, data: AnnData, key: str, frame: pd.DataFrame) -> None:
    """The same genes' effects on the other end states, the source excepted."""
    if "state" not in frame:
        return
    rank, run = data.uns[key]["rank"], data.uns[key]["params"]
    shown = str(frame["state"].iloc[0])
    further = [str(s) for s in rank["states"] if str(s) not in (shown, run.get("source"))]
    for state, edge in zip(further, ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"), strict=False):
        effects = get.shifts(data, key=key, state=state).set_index("gene")["effect"]
        ax.scatter(
            effects.loc[frame["gene"]],
            np.arange(len(frame)),
            s=18,
            marker="D",
            facecolors="none",
            edgecolors=edge,
            linewidths=0.8,
            label=f"{ON_STATE}{state}",
            zorder=2,
        )
