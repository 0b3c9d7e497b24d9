"""What ``scgeneformer demo`` runs: the whole way from expression values to a ranked perturbation, on cells that scanpy ships."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import _keys, get, pl, pp, tl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.figure import Figure

LABELS = "bulk_labels"
SOURCE, TARGET, FURTHER = "CD14+ Monocyte", "Dendritic", "CD19+ B"
N_SPLITS = 5
REPRESENTATIONS = {"PCA (50 components)": "X_pca", "Geneformer": _keys.embedding_key(_keys.GENEFORMER)}


def run(folder: Path, *, model: str = "default", max_cells: int | None = 40, say: Callable[[str], None]) -> str:
    """Run the demonstration and write its results.

    Parameters
    ----------
    folder
        Where ``pbmc68k_reduced.h5ad``, ``umap.png``, ``shift.png``, ``transfer.csv`` and ``shifts.csv`` are written.
    model
        Model of the hub, or path.
    max_cells
        Monocytes to perturb; ``None`` takes all 129.
    say
        Receives a line of text at each step.

    Returns
    -------
    Tables of the results, as text.
    """
    started = time.perf_counter()

    def step(text: str) -> None:
        say(f"[{time.perf_counter() - started:5.1f} s] {text}")

    step("loading 700 blood cells (scanpy.datasets.pbmc68k_reduced) and the libraries")
    import scanpy as sc

    adata = load_cells()
    step(f"tokenizing {adata.n_obs} cells x {adata.n_vars} genes: each cell becomes its genes, ranked")
    pp.tokenize(adata, model, counts="log1p")
    step(f"embedding with model {model!r}, zero-shot; PCA beside it")
    tl.embed(adata, model)
    sc.pp.pca(adata, n_comps=50)
    step("neighbours and UMAP of both")
    for use_rep in REPRESENTATIONS.values():
        sc.pp.neighbors(adata, use_rep=use_rep, key_added=f"neighbors_{use_rep}")
        sc.tl.umap(adata, neighbors_key=f"neighbors_{use_rep}")
        adata.obsm[f"X_umap_{use_rep}"] = adata.obsm.pop("X_umap")
    step(f"label transfer: {N_SPLITS} random halves label the other half")
    accuracy = transfer_accuracy(adata)
    cells = "all" if max_cells is None else f"up to {max_cells}"
    step(f"deleting every gene of {cells} {SOURCE} cells, one at a time: does the cell move towards {TARGET}?")
    tl.perturb(adata, model, groupby=LABELS, source=SOURCE, target=TARGET, others=[FURTHER], max_cells=max_cells)
    tl.rank_shifts(adata)
    step("drawing and writing")
    folder.mkdir(parents=True, exist_ok=True)
    draw_umaps(adata).savefig(folder / "umap.png", dpi=150)
    draw_shifts(adata).savefig(folder / "shift.png", dpi=150)
    shifts = get.shifts(adata)
    accuracy.to_csv(folder / "transfer.csv")
    shifts.to_csv(folder / "shifts.csv", index=False)
    adata.write_h5ad(folder / "pbmc68k_reduced.h5ad")
    step(f"done; results are in {folder}/: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    tested = shifts[shifts["pvals"].notna()]  # by falling score
    extremes = pd.concat([tested.head(5), tested.tail(5)])[["names", "n_cells", "contrast", "pvals", "pvals_adj"]]
    n_types, n_significant = len(adata.obs[LABELS].cat.categories), (tested["pvals_adj"] < 0.05).sum()
    return f"""
Labels of held-out cells ({n_types} cell types, mean and sd of {N_SPLITS} halves)
{accuracy.to_string(float_format="{:.3f}".format)}

Deletions in {SOURCE} cells: genes that most reliably move cells towards {TARGET} and away from it (contrast: shift towards {TARGET} minus that towards {SOURCE})
{extremes.to_string(index=False, float_format="{:.2g}".format)}
The contrast of {n_significant} of {len(tested)} tested genes differs from 0 at FDR < 0.05.
"""


def load_cells() -> AnnData:
    """700 cells with log-normalised values of 765 genes, labelled by the sorted populations they resemble."""
    import scanpy as sc
    from anndata import AnnData

    scaled = sc.datasets.pbmc68k_reduced()
    adata = AnnData(scaled.raw.X.copy(), obs=scaled.obs[[LABELS]].copy(), var=pd.DataFrame(index=scaled.raw.var_names))
    adata.uns[f"{LABELS}_colors"] = scaled.uns[f"{LABELS}_colors"]
    return adata


def transfer_accuracy(adata: AnnData) -> pd.DataFrame:
    """Accuracy and macro F1 of labels transferred from a random half to the other, by representation.

    The labels of the first split are kept in ``.obs[LABELS + "_transferred"]``, missing where a cell was in the reference.
    """
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    scores = []
    for split in range(N_SPLITS):
        held_out = np.isin(np.arange(adata.n_obs), rng.permutation(adata.n_obs)[: adata.n_obs // 2])
        query, reference = adata[held_out].copy(), adata[~held_out].copy()
        truth = query.obs[LABELS].astype(str)
        answers = {"most frequent label": np.full(len(truth), reference.obs[LABELS].mode()[0])}
        for name, use_rep in REPRESENTATIONS.items():
            tl.transfer(query, reference, LABELS, use_rep=use_rep, key_added="transferred")
            answers[name] = query.obs["transferred"].astype(str)
        if split == 0:
            adata.obs[f"{LABELS}_transferred"] = query.obs["transferred"].reindex(adata.obs_names)
        for name, answer in answers.items():
            f1 = f1_score(truth, answer, average="macro", zero_division=0)
            scores.append({"representation": name, "accuracy": accuracy_score(truth, answer), "macro F1": f1})
    table = pd.DataFrame(scores).groupby("representation", sort=False).agg(["mean", "std"])
    table.columns = [f"{score} {'sd' if statistic == 'std' else ''}".strip() for score, statistic in table.columns]
    return table


def draw_umaps(adata: AnnData) -> Figure:
    """UMAPs of both representations beside each other, coloured by label."""
    import scanpy as sc
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, (name, use_rep) in zip(axes, REPRESENTATIONS.items(), strict=True):
        last = ax is axes[-1]
        legend = "right margin" if last else "none"
        sc.pl.embedding(
            adata,
            f"umap_{use_rep}",
            color=LABELS,
            ax=ax,
            show=False,
            title=name,
            legend_loc=legend,
            frameon=False,
            size=30,
        )
    return figure


def draw_shifts(adata: AnnData) -> Figure:
    """Volcano and ranking of the shifts beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    volcano, rank = figure.subplots(1, 2, width_ratios=[1.3, 1])
    figure.suptitle(f"Deleting each gene of {SOURCE} cells", fontsize="medium")
    pl.shift(adata, kind="rank", ax=rank, show=False)
    pl.shift(adata, ax=volcano, show=False)  # last, since its labels are laid out for the final size of the axes
    return figure
