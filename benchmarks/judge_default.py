"""How well the bundled model separates cell types in unseen data, compared with three baselines.

    python benchmarks/judge_default.py [--model FOLDER] [--beside FOLDER] [--data ../shared/data] [--out TABLE.md]

Zero-shot: only the nearest neighbours and clusters below are fitted to these data. Baselines: 2,000 highly variable genes, 50 principal components of
them, and an untrained encoder of the same shape with the same vocabulary. Measures: accuracy of 15 nearest neighbours in five stratified
folds, ARI and NMI of Leiden clusters (resolution 1) against the labels, and silhouette of the labels. Data: Kang control and interferon
PBMC, FACS-labelled PBMC of the Garnett tests, scanpy's `pbmc68k_reduced`, islets of the pancreas, and five cell lines in five batches; none was
used in training. Types with fewer than ten cells are left out. ``--beside`` is a second model, to be compared with the first.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"


LEAST = 10  # cells of a type


def sets(data: Path) -> dict[str, tuple[sc.AnnData, str, str]]:
    """Each held-out data set, with the column of its labels and the kind of its values."""
    reduced = sc.datasets.pbmc68k_reduced()
    lines = sc.read_h5ad(data / "mixology_celllines/mixology.h5ad")
    batches = lines.obs["batch"].astype(str).to_numpy()
    measured = [np.asarray((lines.X[batches == batch] > 0).sum(0)).ravel() > 0 for batch in np.unique(batches)]
    return {
        "kang_ifnb_scgen": (sc.read_h5ad(data / "kang_ifnb_scgen/kang_ifnb_valid.h5ad"), "cell_type", "raw"),
        "pbmc_garnett800": (sc.read_h5ad(data / "pbmc_garnett800/pbmc_garnett800.h5ad"), "FACS_type", "raw"),
        "pbmc68k_reduced": (sc.AnnData(reduced.raw.X, obs=reduced.obs, var=reduced.raw.var), "bulk_labels", "log1p"),
        "pancreas_baron_h1": (sc.read_h5ad(data / "pancreas_baron_h1/pancreas_baron_h1.h5ad"), "cell_type", "raw"),
        "mixology_celllines": (lines[:, np.all(measured, axis=0)].copy(), "cell_line", "raw"),
    }


def of_genes(adata: sc.AnnData, counts: str) -> dict[str, np.ndarray]:
    """Log-normalised highly variable genes, and 50 principal components of them."""
    adata = adata.copy()
    if counts == "raw":
        sc.pp.filter_genes(adata, min_cells=3)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars))
    sc.pp.pca(adata, n_comps=50, random_state=0)
    genes = adata[:, adata.var["highly_variable"]].X
    return {
        "HVGs": genes.toarray() if sparse.issparse(genes) else np.asarray(genes),
        "PCA of HVGs": adata.obsm["X_pca"],
    }


def judge(embedding: np.ndarray, labels: pd.Series) -> dict[str, float]:
    """The four measures."""
    labels = labels.astype(str).to_numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    accuracy = cross_val_score(KNeighborsClassifier(15), embedding, labels, cv=folds)
    cells = sc.AnnData(obsm={"X": embedding}, obs=pd.DataFrame(index=[str(i) for i in range(len(labels))]))
    sc.pp.neighbors(cells, n_neighbors=15, use_rep="X", random_state=0)
    sc.tl.leiden(cells, resolution=1, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    return {
        "kNN accuracy": accuracy.mean(),
        "sd of folds": accuracy.std(),
        "ARI": adjusted_rand_score(labels, cells.obs["leiden"]),
        "NMI": normalized_mutual_info_score(labels, cells.obs["leiden"]),
        "silhouette": silhouette_score(embedding, labels),
    }


def untrained(pretrained: sg.hub.Pretrained) -> sg.hub.Pretrained:
    """The same shape and vocabulary with initial weights."""
    torch.manual_seed(0)
    encoder = sg.nn.Encoder(pretrained.encoder.config).eval()
    return sg.hub.Pretrained("untrained", pretrained.vocabulary, model=encoder)


def main() -> None:
    """Evaluate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--beside", help="a second model")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    parser.add_argument("--all-readouts", action="store_true", help="use every pooling and the last two layers")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    pretrained = sg.hub.load(args.model)
    models = {"bundled model": pretrained, "untrained encoder": untrained(pretrained)}
    if args.beside:
        models["second model"] = sg.hub.load(args.beside)
    readouts = [{}]
    if args.all_readouts:
        readouts = [{"pooling": pooling, "emb_layer": layer} for pooling in ("mean", "cls") for layer in (0, -1)]
    rows = []
    for name, (cells, label, counts) in sets(args.data).items():
        print(f"{name}: {cells.n_obs} cells, labels .obs[{label!r}]", flush=True)
        sizes = cells.obs[label].value_counts()
        adata = cells[cells.obs[label].isin(sizes.index[sizes >= LEAST])].copy()
        labels = adata.obs[label]
        for title, features in of_genes(adata, counts).items():
            rows.append({"data": name, "representation": title, **judge(features, labels)})
        for model, weights in models.items():
            sg.pp.tokenize(adata, weights, counts=counts)
            for readout in readouts:
                sg.tl.embed(adata, weights, **readout)
                title = " ".join([model, *map(str, readout.values())])
                rows.append({"data": name, "representation": title, **judge(adata.obsm["X_geneformer"], labels)})
    table = pd.DataFrame(rows).set_index(["data", "representation"]).round(3)
    print(table.to_string())
    if args.out:
        columns = ["data", "representation", *table.columns]
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.reset_index().itertuples(index=False)]
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
