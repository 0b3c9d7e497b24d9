"""How well surface proteins are predicted from RNA, and how deletion of a gene changes the predicted protein that it encodes.

    python benchmarks/judge_proteins.py [--model default] [--seeds 5] [--only predictions|deletions] [--out TABLE.md]

Cells: 500 PBMC of an ECCITE-seq run with 49 antibodies, and 200 PBMC of the 10x data set with 29; the bundled model was trained on neither. Proteins
are log1p of counts per cell, centred over the antibodies of the cell (CLR). Each seed draws five folds of cells. R2 is that of the cells of all folds
together, relative to the mean, and is averaged over the proteins that at least one predictor explains (R2 above 0.1); intervals are a
bootstrap over these proteins. Rows are ridge regressions on the total counts of the cell, on fifty principal components of its 2,000 most variable
genes, on its embedding by an untrained encoder of the same shape, on its embedding, and on embedding and components together.

Then genes are deleted in the cells that express them, of 120 cells. The change of the predicted protein that the gene encodes is ranked among the changes by 60
random genes, and its Spearman correlation with the protein among theirs. The lowest percentile is the strongest decrease.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from scipy.stats import rankdata, spearmanr

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
SETS = {
    "ECCITE-seq, 500 cells": "pbmc_eccite_citefuse/pbmc_eccite500.h5ad",
    "10x, 200 cells": "pbmc5k_citeseq/pbmc_5k_protein_v3.h5ad",
}
CONTROLS = ("IgG", "B220")  # antibodies that bind no human protein
N_CELLS, N_RANDOM = 120, 60
ENCODED = {  # protein of the ECCITE-seq data: its gene
    "CD8": "CD8A",
    "CD4": "CD4",
    "CD3": "CD3E",
    "CD2": "CD2",
    "CD5": "CD5",
    "CD7": "CD7",
    "CD14": "CD14",
    "CD19": "CD19",
    "CD27": "CD27",
    "CD16": "FCGR3A",
    "MHCII (HLA-DR)": "HLA-DRA",
    "CD11c": "ITGAX",
}


def read_cells(path: Path, pretrained: sg.hub.Pretrained) -> md.MuData:
    """RNA and centred log proteins."""
    rna = sc.read_h5ad(path)
    counts = rna.obsm["protein_expression"]
    names = list(counts.columns) if isinstance(counts, pd.DataFrame) else list(map(str, rna.uns["protein_names"]))
    logged = np.log1p(np.asarray(counts, dtype=np.float64))
    prot = ad.AnnData(logged - logged.mean(1, keepdims=True), obs=rna.obs[[]], var=pd.DataFrame(index=names))
    prot = prot[:, [not name.startswith(CONTROLS) for name in names]].copy()
    rna = ad.AnnData(rna.X, obs=rna.obs[[]], var=rna.var)
    mdata = md.MuData({"rna": rna, "prot": prot})
    sg.pp.tokenize(mdata, pretrained)
    return mdata


def untrained(pretrained: sg.hub.Pretrained) -> sg.hub.Pretrained:
    """The same shape and vocabulary with initial weights."""
    torch.manual_seed(0)
    encoder = sg.nn.Encoder(pretrained.encoder.config).eval()
    return sg.hub.Pretrained("untrained", pretrained.vocabulary, model=encoder)


def features_of(mdata: md.MuData, pretrained: sg.hub.Pretrained) -> dict[str, np.ndarray]:
    """Features to predict proteins from, by row of the table."""
    rna = mdata["rna"]
    total = np.asarray(rna.X.sum(1)).ravel()
    cells = ad.AnnData(rna.X.copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=2000)
    sc.pp.pca(cells, n_comps=50, random_state=0)
    sg.tl.embed(mdata, untrained(pretrained), key_added="untrained")
    sg.tl.embed(mdata, pretrained)
    components, embedded = cells.obsm["X_pca"], rna.obsm["X_geneformer"]
    return {
        "total counts": np.log(total)[:, None],
        "50 components of expression": components,
        "untrained encoder": rna.obsm["X_untrained"],
        "embedding": embedded,
        "embedding and components": np.hstack([embedded / embedded.std(), components / components.std()]),
    }


def explained(values: np.ndarray, features: np.ndarray, seed: int) -> np.ndarray:
    """Out-of-fold R2 of each protein, (n_proteins,)."""
    n_cells = len(values)
    fold = np.random.default_rng(seed).permutation(n_cells) % 5
    predicted = np.full(values.shape, np.nan)
    for number in range(5):
        train, test = fold != number, fold == number
        for j in range(values.shape[1]):
            predicted[test, j] = sg.evaluation.ridge(features[train], values[train, j], features[test])
    rest = ((values - predicted) ** 2).sum(0)
    return 1 - rest / ((values - values.mean(0)) ** 2).sum(0)


def table_of_prediction(mdata: md.MuData, features: dict[str, np.ndarray], seeds: int) -> list[str]:
    """One line for each kind of features."""
    values = np.asarray(mdata["prot"].X)
    scores = {row: np.mean([explained(values, x, seed) for seed in range(seeds)], 0) for row, x in features.items()}
    told = np.max(list(scores.values()), axis=0) > 0.1
    best = np.argmax([s[told] for s in scores.values()], axis=0)
    lines = []
    for i, (row, of_row) in enumerate(scores.items()):
        drawn = np.random.default_rng(0).integers(0, told.sum(), (2000, told.sum()))
        low, high = np.quantile(of_row[told][drawn].mean(1), [0.025, 0.975])
        lines.append(f"{row} | {of_row[told].mean():.2f} ({low:.2f}-{high:.2f}) | {(best == i).sum()} of {told.sum()}")
    return lines


def table_of_deletions(mdata: md.MuData, pretrained: sg.hub.Pretrained) -> list[str]:
    """One line for each protein with its gene."""
    proteins = [name for name in ENCODED if name in mdata["prot"].var_names]
    mdata["prot"].obs[proteins] = np.asarray(mdata["prot"][:, proteins].X)
    sg.model.CellClassifier.setup_mudata(mdata, proteins, modalities={"labels_key": "prot"})
    model = sg.model.CellClassifier(mdata, pretrained)
    model.train(recipe="probe", enable_progress_bar=False)
    rna, rng = mdata["rna"], np.random.default_rng(0)
    some = np.sort(rng.choice(rna.n_obs, N_CELLS, replace=False))
    n_cells = np.bincount(rna.obsm["geneformer_tokens"][some].ravel(), minlength=rna.var["token_id"].max() + 1)
    read = np.where(
        rna.var["token_id"] >= 0, n_cells[rna.var["token_id"]], 0
    )  # number of cells in which the model reads a gene
    pool = np.flatnonzero((read >= N_CELLS / 4) & ~rna.var_names.isin(list(ENCODED.values())))
    random = rna.var_names[rng.choice(pool, N_RANDOM, replace=False)].tolist()
    tested = [name for name in proteins if read[rna.var_names.get_loc(ENCODED[name])] >= 3]
    genes = [ENCODED[name] for name in tested]
    sg.tl.perturb(mdata, model, [*genes, *random], outputs=tested, n_reference=0, cells=list(rna.obs_names[some]))
    logged = sc.pp.log1p(
        sc.pp.normalize_total(ad.AnnData(rna.X.astype(np.float32)), target_sum=1e4, copy=True), copy=True
    )
    lines = []
    for i, name in enumerate(tested):
        layer = rna.layers["shift" if i == 0 else f"shift_{name}"].tocsc()
        changes = np.array([layer[:, rna.var_names.get_loc(gene)].data.mean() for gene in [ENCODED[name], *random]])
        level = np.asarray(mdata["prot"][:, name].X).ravel()
        columns = [rna.var_names.get_loc(gene) for gene in [ENCODED[name], *random]]
        correlation = np.array([spearmanr(logged.X[:, [j]].toarray().ravel(), level).statistic for j in columns])
        place = 100 * (rankdata(changes)[0] - 1) / len(random)
        by_expression = 100 * (rankdata(-correlation)[0] - 1) / len(random)
        lines.append(
            f"{name} | {ENCODED[name]} | {layer[:, columns[0]].nnz} | {changes[0]:+.3f} | {changes[1:].std():.3f} | {place:.0f} | {by_expression:.0f}"
        )
    return lines


def main() -> None:
    """Evaluate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("predictions", "deletions"))
    parser.add_argument("--out", type=Path, help="write the tables as Markdown")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sc.settings.verbosity, sg.settings.progress = 0, False
    pretrained = sg.hub.load(args.model)
    lines = ["| cells | predicted from | mean R2 (95 %) | best for |", "|" + "---|" * 4]
    for title, path in SETS.items() if args.only != "deletions" else ():
        mdata = read_cells(args.data / path, pretrained)
        rows = table_of_prediction(mdata, features_of(mdata, pretrained), args.seeds)
        lines += [f"| {title} | {row} |" for row in rows]
        print("\n".join(lines[-len(rows) :]), flush=True)
    if args.only == "predictions":
        return
    mdata = read_cells(args.data / SETS["ECCITE-seq, 500 cells"], pretrained)
    head = "protein | its gene | cells | change when deleted | sd of random genes | percentile | by correlation"
    lines += ["", f"| {head} |", "|" + "---|" * 7]
    lines += [f"| {row} |" for row in table_of_deletions(mdata, pretrained)]
    text = "\n".join(lines)
    print(f"\n{text}\n\n{args.model}, five folds, {args.seeds} seeds.")
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
