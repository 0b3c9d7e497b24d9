"""Do shifts predict the results of a CRISPR screen? Knock-outs in Jurkat cells with and without stimulation of the T cell receptor (Datlinger 2017).

    python benchmarks/judge_experiment.py [--model default] [--cells 3859] [--out TABLE.md]

Truth: for each knocked-out gene, the position of its stimulated cells on the line from the mean log expression of stimulated control
cells to that of unstimulated ones (guides of a gene together). Prediction: deletion of the gene in stimulated cells, towards unstimulated
ones. The data have 2,000 genes, a median of 15 of them in a cell, and few knocked-out genes among them: this shows the form of such a comparison.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import scgeneformer as sg

DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"


def observed(cells: ad.AnnData) -> pd.Series:
    """Movement of stimulated cells towards unstimulated ones by each knock-out, in units of their distance."""
    profile = cells.copy()
    sc.pp.normalize_total(profile, target_sum=1e4)
    sc.pp.log1p(profile)
    gene, stimulated = profile.obs["gene"], profile.obs["state"] == "stimulated"
    mean = lambda rows: np.asarray(profile.X[np.flatnonzero(rows)].mean(axis=0)).ravel()
    start, end = mean(stimulated & (gene == "control")), mean(~stimulated & (gene == "control"))
    axis = (end - start) / np.sum((end - start) ** 2)
    effects = {
        name: float((mean(stimulated & (gene == name)) - start) @ axis) for name in sorted(set(gene) - {"control"})
    }
    return pd.Series(effects)


def main() -> None:
    """Perturb, rank, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--cells", type=int, default=3859, help="maximum number of stimulated cells to perturb")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sg.settings.progress = False

    adata = ad.read_h5ad(DATA / "datlinger_scperturb/datlinger_cropseq_2000genes.h5ad")
    adata.obs["gene"] = adata.obs["perturbation"].astype(str).str.rsplit("_", n=1).str[0]
    adata.obs["state"] = adata.obs["perturbation_2"].astype(str)
    truth = observed(adata)
    sg.pp.tokenize(adata, args.model)
    sg.tl.perturb(adata, groupby="state", source="stimulated", target="unstimulated", max_cells=args.cells)
    sg.tl.rank_shifts(adata)
    present = truth[truth.index.isin(adata.var_names)]
    ranked = adata.varm["shift"].loc[present.index, "n_cells"] >= 5
    print(
        f"{len(truth)} knocked-out genes, {len(present)} among the {adata.n_vars} measured, {int(ranked.sum())} in 5 perturbed cells or more"
    )
    print(f"states: {adata.uns['shift']['separation']}; agreement: {adata.uns['shift']['rank']['agreement']}")
    beside = adata.varm["shift"].loc[
        present.index[ranked], ["n_cells", "effect", "plain_effect", "contrast", "log2fc", "linear_shift"]
    ]
    text = beside.assign(observed=present[ranked]).round(4).to_markdown()
    if ranked.sum() >= 3:
        sg.tl.evaluate_shifts(adata, truth)
        text += "\n\n" + sg.get.evaluation(adata, key="shift_evaluation").round(2).to_markdown()
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
