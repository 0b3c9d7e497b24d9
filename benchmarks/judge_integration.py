"""Does integration of embeddings mix batches, and what does it do to cell types?

    python benchmarks/judge_integration.py [--data ../shared/data] [--only lines kang] [--scvi] [--metrics scib] [--tokens 128] [--out TABLE.md]

- "lines": five cell lines in five batches of two technologies (CEL-seq2, Drop-seq), with the genes of all batches. Types are known for certain, and every
  line is in every batch but one.
- "kang": blood cells of two donors, control or interferon, types by the authors. A batch is a donor in one condition, so the condition is
  confounded with the batch, and mixing batches removes the effect of interferon. 1,267 genes only.

Rows: the embedding of the bundled model as it is; centred by batch; centred by batch and type, which uses the types and is biased in its favour; corrected by
Harmony; the embedding of a classifier fine-tuned on the types of all batches (for "lines" without the last batch, whose cells are then scored like all
others), which uses types as well; principal components of the 2,000 most variable genes, centred and by Harmony; these genes; with `--scvi` an scVI. Scores by
scib-metrics: mean over three draws of cells, with the same number of each batch, and standard deviation. "interferon" is the AUROC of a logistic regression that
separates control from interferon in the other donor: what is left of the condition. Cells are truncated to their first `--tokens` tokens.
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
from sklearn.metrics import roc_auc_score

import scgeneformer as sg
from scgeneformer import evaluation

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
SHOWN = ("nmi", "silhouette_label", "clisi", "bio_conservation", "bras", "ilisi", "kbet", "batch_correction", "total")


def lines(data: Path) -> tuple[sc.AnnData, str, str]:
    """Cell lines by technology and replicate."""
    cells = sc.read_h5ad(data / "mixology_celllines" / "mixology.h5ad")
    batch = cells.obs["batch"].astype(str).to_numpy()
    measured = [np.asarray((cells.X[batch == b] > 0).sum(0)).ravel() > 0 for b in sorted(set(batch))]
    return cells[:, np.all(measured, axis=0)].copy(), "batch", "cell_line"


def kang(data: Path) -> tuple[sc.AnnData, str, str]:
    """Types of blood cells by donor and condition."""
    cells = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    cells.obs["donor"] = cells.obs["sample_id"].astype(str).str[-3:]
    return cells, "sample_id", "cluster_id"


SETS = {"lines": lines, "kang": kang}


def fine_tuned(cells: sc.AnnData, labels: str, batch: str) -> np.ndarray:
    """States of all cells in a classifier of types, trained on all batches except the last."""
    batches = cells.obs[batch].astype(str)
    codes = pd.Categorical(cells.obs[labels]).codes.astype(np.int64)
    codes[(batches == max(batches)).to_numpy()] = -1
    split = evaluation.split(codes, train_size=0.8, validation_size=0.2, test_size=0.0)
    sg.model.CellClassifier.setup_anndata(cells, labels)
    torch.manual_seed(0)
    model = sg.model.CellClassifier(cells, "default")
    model.train(split=split, enable_progress_bar=False, enable_model_summary=False)
    print(f"    classifier: kept {model.selected.kept} ({model.selected.reason})", flush=True)
    return model.get_latent_representation()


def condition_auc(points: np.ndarray, condition: np.ndarray, donor: np.ndarray) -> float:
    """AUROC of the condition in one donor by a regression on the other, averaged over both directions."""
    codes, scores = pd.Categorical(condition).codes.astype(np.int64), []
    for held_out in np.unique(donor):
        test = donor == held_out
        answer = evaluation.logistic(points[~test].astype(np.float64), codes[~test], points[test].astype(np.float64))
        scores.append(roc_auc_score(codes[test], answer[:, 1]))
    return float(np.mean(scores))


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--only", nargs="*", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--scvi", action="store_true")
    parser.add_argument("--metrics", choices=("scib", "sklearn"))
    parser.add_argument("--tokens", type=int, default=128, help="maximum number of tokens of a cell")
    parser.add_argument("--max-cells", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    texts = []
    for name in args.only:
        cells, batch, labels = SETS[name](args.data)
        cells = cells[cells.obs[labels].notna()].copy()
        sg.pp.tokenize(cells, "default", max_length=args.tokens)
        sg.tl.embed(cells)
        sg.tl.integrate(cells, batch, method="center", label_key=labels)
        cells.obsm["X_fine_tuned"] = fine_tuned(cells, labels, batch)
        baselines = ["pca", "hvg", "center", "harmony", *(["scvi"] if args.scvi else [])]
        sg.tl.compare_embeddings(
            cells,
            batch,
            labels,
            use_reps=["X_geneformer", "X_geneformer_center", "X_fine_tuned"],
            baselines=baselines,
            metrics=args.metrics,
            max_cells=args.max_cells,
        )
        run = cells.uns["embedding_scores"]
        shown = [score for score in SHOWN if score in run["scores"]] or list(run["scores"])
        table = run["scores"][shown].map("{:.3f}".format) + " ± " + run["spread"][shown].map("{:.3f}".format)
        if name == "kang":
            group, donor = (cells.obs[column].astype(str).to_numpy() for column in ("group_id", "donor"))
            of_rep = {rep: cells.obsm[rep] for rep in table.index if rep in cells.obsm}
            table["interferon"] = [
                f"{condition_auc(of_rep[rep], group, donor):.3f}" if rep in of_rep else "" for rep in table.index
            ]
        params = run["params"]
        texts.append(
            f"{name}: {params['n_cells']} cells at a time, {params['n_cells_of_a_batch']} of each batch, "
            f"by {params['metrics']}\n\n{table.to_markdown()}\n\n{run['composition'].round(2).to_markdown()}\n"
        )
        print(texts[-1], flush=True)
        if args.out:
            args.out.write_text("\n".join(texts))


if __name__ == "__main__":
    main()
