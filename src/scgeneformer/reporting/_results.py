"""One section of a page for each kind of result, from its slots alone: nothing is computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import get, pl
from scgeneformer.pl._ranking import read_ranking
from scgeneformer.tl._perturbation._agreement import FAIR
from scgeneformer.tl._perturbation._separation import LOW
from scgeneformer.tokens._genes import FEW_COUNTS, FEW_GENES

from ._section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

_MAX_FDR = 0.05
_ROWS = 20
_SCORES = ("accuracy", "macro_f1", "auc", "calibration_error", "mae", "r2", "spearman")
_RANKING_COLUMNS = (  # those of the rankings that are shown, where there are any
    *("symbol", "set", "names", "n_cells", "n_donors", "fraction_detected", "effect", "effect_low", "effect_high"),
    *("centered_effect", "plain_effect", "contrast", "contrast_low", "contrast_high", "pvals_adj", "null_percentile"),
    *("log2fc", "linear_shift", "untrained"),
)


def tokens(adata: AnnData, key: str) -> Section:
    """How much of the data a model reads."""
    run = adata.uns[key]
    params, coverage = run["params"], run.get("coverage", {})
    section = Section("Tokens")
    lengths = adata.obs.get(keys.lengths_key(key))
    if lengths is not None:
        full = float(np.mean(lengths.to_numpy() >= params["max_length"]))
        section.text.append(
            f"A cell has {lengths.median():,.0f} tokens (median; {lengths.min():,} to {lengths.max():,}); {full:.1%} "
            f"of the cells fill the {params['max_length']:,} tokens that are read, and lose their lowest-ranked genes."
        )
    if coverage:
        section.text.append(
            f"{coverage['n_mapped']:,} of {coverage['n_genes']:,} genes are in vocabulary {params['vocabulary']}, with "
            f"{coverage['fraction_counts']:.1%} of the counts. They are {coverage['fraction_vocabulary']:.1%} of the vocabulary."
        )
        if coverage["fraction_counts"] < FEW_COUNTS:
            section.warnings.append("Less than half of the counts are of genes that the model knows.")
        if coverage["fraction_vocabulary"] < FEW_GENES:
            section.warnings.append(
                "The data have fewer than a quarter of the genes that the model was trained on, as after a selection "
                "of genes or with a targeted panel. Ranks among few genes differ from ranks among all: compare "
                "results only between cells with these genes."
            )
        if coverage["n_empty_cells"]:
            section.warnings.append(f"{coverage['n_empty_cells']:,} cells have no gene that the model knows.")
    return section


def embedding(adata: AnnData, key: str, color: Sequence[str]) -> Section:
    """The cells in two dimensions, one plot for each column of `color`."""
    import matplotlib.pyplot as plt
    import scanpy as sc
    from anndata import AnnData

    slot, params = keys.embedding_key(key), adata.uns[key]["params"]
    section = Section("Embedding")
    width = adata.obsm[slot].shape[1]
    section.text.append(
        f"Cells as vectors of {width} numbers, read from layer {params['emb_layer']} by {params['pooling']}."
    )
    coordinates, what = _plane(adata, slot)
    colours = {name: adata.uns[name] for name in (f"{column}_colors" for column in color) if name in adata.uns}
    plotted = AnnData(obs=adata.obs[list(color)], obsm={"X_plane": coordinates}, uns=colours)
    n = len(color) or 1
    figure, axes = plt.subplots(1, n, figsize=(6 * n, 4.2), layout="constrained", squeeze=False)
    columns: list[str | None] = [*color] or [None]
    for ax, column in zip(axes[0], columns, strict=True):
        sc.pl.embedding(plotted, "plane", color=column, ax=ax, show=False, frameon=False, title=column or "")
    section.text.append(f"The plot shows {what}. Distances between its groups mean little.")
    by = f", coloured by {' and '.join(color)}" if color else ""
    section.add_figure(figure, f"Scatter plot of {adata.n_obs:,} cells, {what}{by}.")
    return section


def _plane(adata: AnnData, slot: str) -> tuple[np.ndarray, str]:
    """Two coordinates of each cell, (n, 2), and what they are: the UMAP that was made of this embedding, else its principal components."""
    used = adata.uns.get("neighbors", {}).get("params", {}).get("use_rep")
    if "X_umap" in adata.obsm and used == slot:
        return np.asarray(adata.obsm["X_umap"])[:, :2], "a UMAP of the embedding"
    from sklearn.decomposition import PCA

    values = np.asarray(adata.obsm[slot])
    coordinates = np.full((len(values), 2), np.nan)
    finite = np.isfinite(values).all(axis=1)
    coordinates[finite] = PCA(2, random_state=0).fit_transform(values[finite])
    return coordinates, "the first two principal components of the embedding"


def evaluation(adata: AnnData, key: str) -> Section:
    """A classifier and its baselines on held-out cells."""
    params = adata.uns[key]["params"]
    section = Section(f"Classifier of {params['labels']}")
    table = get.evaluation(adata, key=key)
    has_intervals = "intervals" in adata.uns[key]
    best = ", ".join(table.index[table["tied_with_best"].astype(bool)])
    section.text.append(
        f"{params['n_cells']:,} cells that the model was not trained on. Within one standard error of the best: {best}."
    )
    if table.index[0] not in table.index[table["tied_with_best"].astype(bool)]:
        section.warnings.append("A baseline is better than the model. Use the baseline, or say why not.")
    if params.get("resampled") == "cells":
        section.warnings.append(
            "Intervals are over cells. Cells of one donor are not independent: the error for a new donor can be larger."
        )
    scores = get.evaluation(adata, key=key, intervals=True) if has_intervals else table
    names = [name for name in _SCORES if name in scores]
    shown = pd.DataFrame({name: _with_interval(scores, name) for name in names})
    section.add_table(shown, "Scores and 95 % intervals" if has_intervals else "Scores")
    if params["kind"] != "continuous":
        section.add_plot(
            pl.confusion,
            f"Confusion matrix: true by predicted {params['labels']}, in percent of the true class.",
            adata,
            key=key,
        )
    return section


def _with_interval(scores: pd.DataFrame, name: str) -> pd.Series:
    """A score with its interval as text, where it has one."""
    if f"{name}_low" not in scores:
        return scores[name]
    rows = zip(scores[name], scores[f"{name}_low"], scores[f"{name}_high"], strict=True)
    return pd.Series([f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in rows], index=scores.index)


def labels(adata: AnnData, key: str) -> Section:
    """Labels of cells, and how many are unknown."""
    params = adata.uns[key]["params"]
    section = Section(f"Predicted labels: {key}")
    column = adata.obs[key]
    if column.dtype.kind == "f":
        section.text.append(
            f"Predicted numbers: median {column.median():.3g}, {column.min():.3g} to {column.max():.3g}."
        )
        return section
    counts = column.value_counts(dropna=False).rename("cells").to_frame().query("cells > 0")
    counts["share"] = [f"{n / max(1, adata.n_obs):.1%}" for n in counts["cells"]]
    score = adata.obs.get(keys.score_key(key))
    if score is not None:
        counts["median score"] = [score[(column == name).to_numpy()].median() for name in counts.index]
    counts.index = pd.Index([str(name) for name in counts.index], name="label")
    alpha = params.get("unknown")
    if alpha is None:
        section.warnings.append("Every cell got a label: cell types that the labelled cells lack were not looked for.")
    else:
        unknown = float((column == keys.UNKNOWN).mean())
        section.text.append(
            f"{unknown:.1%} of the cells are unknown; {alpha:.0%} are expected if all cells were like the labelled ones."
        )
        if unknown > 2 * alpha:
            section.warnings.append(
                "Far more cells are unknown than expected: they are of new types, or of another protocol or study than the labelled cells."
            )
    section.add_table(counts, "Cells by predicted label")
    return section


def perturbation(adata: AnnData, key: str) -> Section:
    """A ranking of genes or sets."""
    run = adata.uns[key]
    params = run["params"]
    what = {"delete": "Deletion", "overexpress": "Overexpression"}.get(params["kind"], params["kind"].capitalize())
    towards = f": {params['source']} towards {params['target']}" if params.get("target") is not None else ""
    section = Section(f"{what} in silico{towards}")
    if "rank" not in run:
        section.text.append("Shifts were measured, but not ranked yet.")
        return section
    rank = run["rank"]
    section.text.append(
        "A shift is how the perturbation of a gene changes what the model reads in a cell: a hypothesis, not an experiment."
    )
    of_genes, between = "n_tested" in rank, {"source", "target"} <= set(params)
    if of_genes and between and rank.get("test") in ("rank_sum", "donors"):
        section.warnings.append("P-values compare genes with each other; they do not test whether the states matter.")
    if rank.get("replicates") == "cells":
        section.warnings.append("P-values are over cells, and cells of one donor are not independent.")
    groups: list[str | None] = [str(group) for group in rank.get("groups", ())]
    for group in groups or [None]:
        part = section if group is None else Section(f"In {group}")
        _add_ranking(part, adata, key, group)
        section.parts += [part] if part is not section else []
    return section


def _add_ranking(section: Section, adata: AnnData, key: str, group: str | None) -> None:
    """Add a ranking, in a group of cells if they were perturbed within groups."""
    frame = get.shifts(adata, key=key, group=group)
    rank = adata.uns[key]["rank"]
    if "pvals" in frame and frame["pvals"].notna().any():
        ranking = read_ranking(adata, key=key, state=None, max_fdr=_MAX_FDR, group=group)
        frame, what = ranking.frame, "sets" if ranking.of_sets else "genes"
        apart = ranking.separation.get("embedding")
        if apart is not None and apart < LOW:
            section.warnings.append(
                f"The embedding hardly separates the two states (AUROC {apart:.2f}), so a shift between them means little."
            )
        if ranking.screen is not None and (ranking.screen["spearman"] < FAIR).any():
            section.warnings.append("Estimated shifts agree only partly with exact ones; see below the plot.")
        n_called = int((ranking.direction != 0).sum())
        section.text.append(f"{n_called:,} of {len(frame):,} tested {what} have an FDR of at most {_MAX_FDR:g}.")
        section.add_plot(
            pl.shift,
            f"Volcano plot of {len(frame):,} {what}, effect by significance. {ranking.caption}",
            adata,
            key=key,
            group=group,
        )
        order = (
            "that most reliably move cells towards the target" if rank.get("goal") else "with the most reliable effect"
        )
    else:
        section.warnings.append(
            "Effects could not be tested: each gene is in too few cells, or there are fewer than three donors."
        )
        frame = frame[frame["n_cells"] >= rank.get("min_cells", 1)].sort_values("effect", ascending=False)
        order = "of the largest effect"
    columns = [name for name in _RANKING_COLUMNS if name in frame]
    table = frame[columns].dropna(axis=1, how="all").head(_ROWS)
    section.add_table(table.set_index(table.columns[0]), f"The {len(table)} {order}")


def network(adata: AnnData, key: str) -> Section:
    """The strongest edges of a network."""
    params = adata.uns[key]["params"]
    section = Section(f"Gene network: {key}")
    section.text.append(
        f"Score: {params['score']}. It says which genes the model relates, not which regulate each other."
    )
    groups: list[str | None] = [str(name) for name in params.get("groups", ())]
    for group in groups or [None]:
        edges = get.edges(adata, key=key, group=group, n_top=_ROWS)
        section.add_table(
            edges.set_index("source"), f"The {len(edges)} strongest edges{'' if group is None else f' in {group}'}"
        )
    return section


def metrics(adata: AnnData, key: str) -> Section:
    """An evaluation that is a table: of a network, or of shifts against an experiment."""
    titles = {
        "tl.evaluate_network": "Network against known edges",
        "tl.evaluate_shifts": "Shifts against an experiment",
    }
    section = Section(titles[adata.uns[key]["params"]["verb"]])
    section.add_table(get.evaluation(adata, key=key), "Model and baselines")
    return section


def comparison(adata: AnnData, key: str) -> Section:
    """Scores of several embeddings."""
    section = Section("Embeddings compared")
    section.add_plot(
        pl.embedding_scores, "Table of embeddings and their scores of labels and of batches.", adata, key=key
    )
    return section


SECTIONS: dict[str, Callable[[AnnData, str], Section]] = {
    "pp.tokenize": tokens,
    "tl.evaluate": evaluation,
    "tl.annotate": labels,
    "tl.transfer": labels,
    "tl.perturb": perturbation,
    "tl.perturb_sets": perturbation,
    "tl.screen": perturbation,
    "tl.network": network,
    "tl.evaluate_network": metrics,
    "tl.evaluate_shifts": metrics,
    "tl.compare_embeddings": comparison,
}
