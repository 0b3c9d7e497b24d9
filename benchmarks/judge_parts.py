"""What are the shifts of deletions made of, and which part ranks genes?

    python benchmarks/judge_parts.py [--model default] [--cells 60] [--out TABLE.md]

In treated CD14+ monocytes of Kang et al., every gene of every cell is deleted, and the shift towards the untreated cells is decomposed. Rows:
the ordinary shift; the shift with positions kept, which is own and network together; the three parts; and baselines that need no model.

- share: covariance with the shift over the variance of the shift; the shares of the parts add up to 1.
- between cells, between genes: share of the variance explained by the means of cells, and the additional share explained by genes (additive least squares).
- Spearman, over genes in at least 5 cells, of the means over cells: with the mean shift; with the log2 fold change, untreated against treated
  (negative if genes that are higher in treated cells rank high); and with the mean rank in a cell (negative if top genes rank high).
- AUC, first 20: how well a ranking by the mean finds known interferon genes.
- centred: the same with means of the effect of a gene beyond that of other genes of the same cell.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from judge_null import DATA, INTERFERON
from scipy import sparse
from scipy.sparse.linalg import lsqr
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

PARTS = ("own", "network", "renumbering")
MIN_CELLS = 5


def pairs(cells: ad.AnnData) -> pd.DataFrame:
    """Columns with the numbers of cells and genes, and one column for each kind of value."""
    layers = {name: cells.layers[f"shift__{name}" if name in PARTS else name].tocoo() for name in ("shift", *PARTS)}
    values = pd.DataFrame({name: layer.data for name, layer in layers.items()})
    values.insert(1, "positions kept", values["own"] + values["network"])
    return values.assign(cell=layers["shift"].row, gene=layers["shift"].col)


def between(values: np.ndarray, cell: np.ndarray, gene: np.ndarray) -> tuple[float, float]:
    """Share of the variance that cells explain, and the additional share that genes explain."""
    at = np.arange(len(values))
    of_cells, of_genes = (sparse.csr_array((np.ones(len(at)), (at, x))) for x in (cell, gene))
    rest = []
    for design in (of_cells, sparse.hstack([of_cells, of_genes]).tocsr()):
        fit = lsqr(design, values, atol=1e-12, btol=1e-12, iter_lim=5000)[0]
        rest.append(np.var(values - design @ fit) / np.var(values))
    return 1 - rest[0], rest[0] - rest[1]


def found(scores: pd.Series, known: np.ndarray) -> str:
    """Area under the ROC curve, and number among the first 20."""
    return f"{roc_auc_score(known, scores):.2f}, {known[np.argsort(-scores.to_numpy())[:20]].sum()}"


def judge(cells: ad.AnnData) -> pd.DataFrame:
    """The table, one row for each kind of value."""
    sg.tl.rank_shifts(cells, min_cells=MIN_CELLS)
    table, values = cells.varm["shift"], pairs(cells)
    names = [name for name in values if name not in ("cell", "gene")]
    centred = values[names] - values.groupby("cell")[names].transform("mean")
    means, centred_means = (x[names].groupby(values["gene"]).mean() for x in (values, centred))
    common = means.index[values.groupby("gene").size() >= MIN_CELLS]
    means, centred_means, table = means.loc[common], centred_means.loc[common], table.iloc[common]
    known = table.index.isin(INTERFERON)
    print(f"{len(values):,} pairs, {len(common):,} genes in {MIN_CELLS} cells or more, {known.sum()} of them known")
    of_rank = lambda scores: f"{spearmanr(scores, table['mean_rank']).statistic:.2f}"
    rows = {}
    for name in names:
        of_cells, of_genes = between(values[name].to_numpy(), values["cell"].to_numpy(), values["gene"].to_numpy())
        rows[name] = {
            "share": f"{np.cov(values[name], values['shift'])[0, 1] / values['shift'].var():.2f}",
            "between cells": f"{of_cells:.0%}",
            "between genes": f"{of_genes:.0%}",
            "Spearman with shift": f"{spearmanr(means[name], means['shift']).statistic:.2f}",
            "with log2fc": f"{spearmanr(means[name], table['log2fc']).statistic:.2f}",
            "with rank": of_rank(means[name]),
            "the same, centred": of_rank(centred_means[name]),
            "AUC, first 20": found(means[name], known),
            "AUC, first 20, centred": found(centred_means[name], known),
        }
    rows["mean rank alone (top first)"] = {"AUC, first 20": found(-table["mean_rank"], known)}
    rows["log2fc alone"] = {"AUC, first 20": found(-table["log2fc"], known)}
    return pd.DataFrame(rows).T.fillna("").rename_axis("value").reset_index()


def main() -> None:
    """Delete, decompose, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--cells", type=int, default=60, help="maximum number of treated cells to perturb")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sg.settings.progress, sc.settings.verbosity = False, 0

    adata = ad.read_h5ad(DATA / "kang_ifnb_scgen/kang_ifnb_valid.h5ad")
    monocytes = adata[adata.obs["cell_type"] == "CD14+Mono"].copy()
    sg.pp.tokenize(monocytes, args.model)
    start = time.perf_counter()
    sg.tl.perturb(
        monocytes,
        args.model,
        groupby="condition",
        source="stimulated",
        target="control",
        max_cells=args.cells,
        decompose=True,
    )
    seconds = time.perf_counter() - start
    text = f"{judge(monocytes).to_markdown(index=False)}\n\n{args.cells} cells, {seconds:.0f} s, {platform.machine()}\n"
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
