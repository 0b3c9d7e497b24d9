"""Cells of a type that the reference lacks: which column finds them, and how many cells of the other types are taken for unknown.

    python benchmarks/judge_novelty.py [--data ../shared/data] [--cells 1200] [--seed 0] [--classifier] [--only LABEL ...] [--out TABLE.md]

Ten sorted types of PBMC (Zheng et al. 2017). 60 % of `--cells` cells, drawn at random, are the reference, and the others the query. Each type is
taken out of the reference in turn, and the query labelled by what is left (`sg.tl.transfer`): by embeddings of the bundled model, and by 30
principal components of the log-normalised expression of the 2,000 most variable genes of reference and query. With `--classifier` also by a
classifier that the default recipe trains on what is left (`sg.tl.annotate`); a fifth of it validates.

AUROC: the query cells of the missing type against all others, by 1 - score, by 1 - novelty, and by the relative distance.
False unknowns: share of the other query cells with a novelty below 0.05. Unknown: share of the cells of the missing type. Intervals: 95 %, bootstrap
over query cells within the two groups; there are no donors in this set, so they say nothing of other donors. The bundled model has seen cells of
this set, without labels, in its own training.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from scipy import sparse
from scipy.stats import rankdata

import scgeneformer as sg
from scgeneformer import evaluation

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
LABELS, ALPHA, N_BOOTSTRAP = "celltype", 0.05, 1000
DISTINCT = ("CD14+ Monocyte", "CD19+ B", "CD34+", "CD56+ NK")  # the others are T cells
RULES = {"1 - score": "score", "1 - novelty": "novelty", "distance": "distance"}


def auroc(missing: np.ndarray, others: np.ndarray) -> float:
    """Probability that a cell of the missing type has the larger value; ties count half."""
    ranks = rankdata(np.concatenate([missing, others]))[: len(missing)]
    return float((ranks.sum() - len(missing) * (len(missing) + 1) / 2) / (len(missing) * len(others)))


def components(reference: ad.AnnData, query: ad.AnnData, n: int = 30) -> list[np.ndarray]:
    """Principal components of both together: those of the reference alone fit it more closely than the query, which then looks nearer than it is."""
    both = ad.AnnData(sparse.vstack([reference.X, query.X]).tocsr().astype(np.float32))
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    sc.pp.highly_variable_genes(both, n_top_genes=2000)
    sc.pp.pca(both, n_comps=n, random_state=0)
    return np.split(both.obsm["X_pca"].astype(np.float32), [reference.n_obs])


def by_transfer(reference: ad.AnnData, query: ad.AnnData, use_rep: str) -> pd.DataFrame:
    """Score, novelty and distance of the query."""
    done = sg.tl.transfer(query, reference, LABELS, use_rep=use_rep, key_added="new", copy=True)
    return done.obs[[f"new_{name}" for name in RULES.values()]].set_axis(RULES.values(), axis=1)


def by_classifier(reference: ad.AnnData, query: ad.AnnData, args: argparse.Namespace) -> pd.DataFrame:
    """The same of a classifier that is trained on the reference."""
    sg.model.CellClassifier.setup_anndata(reference, LABELS)
    torch.manual_seed(args.seed)
    model = sg.model.CellClassifier(reference, "default")
    sizes = {"train_size": 0.8, "validation_size": 0.2, "test_size": 0.0}
    model.train(rng=args.seed, enable_progress_bar=False, enable_model_summary=False, **sizes)
    done = sg.tl.annotate(query, model, key_added="new", copy=True)
    return done.obs[[f"new_{name}" for name in RULES.values()]].set_axis(RULES.values(), axis=1)


def judge(told: pd.DataFrame, missing: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Each number in a row, with its bootstrap values in the other columns."""
    values = told.assign(score=1 - told["score"], new=(told["novelty"] < ALPHA), novelty=1 - told["novelty"])
    inside, outside = np.flatnonzero(missing), np.flatnonzero(~missing)
    draws = [(inside, outside)]
    draws += [(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(N_BOOTSTRAP)]
    rows = {}
    for name, column in RULES.items():
        x = values[column].to_numpy()
        rows[name] = [auroc(x[i], x[o]) for i, o in draws]
    new = values["new"].to_numpy()
    rows["false unknowns"] = [new[o].mean() for _, o in draws]
    rows["unknown"] = [new[i].mean() for i, _ in draws]
    return pd.DataFrame(rows).T


def shown(row: pd.Series) -> str:
    low, high = np.quantile(row.iloc[1:], [0.025, 0.975])
    return f"{row.iloc[0]:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--classifier", action="store_true", help="also train a classifier: five minutes per type on one core"
    )
    parser.add_argument("--only", nargs="*", help="types to take out; by default all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sc.settings.verbosity, sg.settings.progress = 0, False
    start, rng = time.perf_counter(), np.random.default_rng(args.seed)

    cells = sc.read_h5ad(args.data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad")
    cells = cells[rng.permutation(cells.n_obs)[: args.cells]].copy()
    codes = pd.Categorical(cells.obs[LABELS]).codes.astype(np.int64)
    split = evaluation.split(codes, train_size=0.6, validation_size=0.0, test_size=0.4, rng=args.seed)
    sg.pp.tokenize(cells, "default")
    sg.tl.embed(cells)
    whole, query = cells[split.train].copy(), cells[split.test].copy()
    print(f"{whole.n_obs} reference cells, {query.n_obs} query cells; {time.perf_counter() - start:.0f} s", flush=True)

    results: dict[tuple[str, str], pd.DataFrame] = {}
    names = args.only or sorted(cells.obs[LABELS].unique())
    for name in names:
        missing = (query.obs[LABELS] == name).to_numpy()
        reference = whole[(whole.obs[LABELS] != name).to_numpy()].copy()
        reference.obs[LABELS] = reference.obs[LABELS].astype("category").cat.remove_unused_categories()
        reference.obsm["X_pca"], query.obsm["X_pca"] = components(reference, query)
        told = {
            "bundled model": by_transfer(reference, query, "X_geneformer"),
            "PCA, 30": by_transfer(reference, query, "X_pca"),
        }
        if args.classifier:
            told["classifier"] = by_classifier(reference, query, args)
        for method, table in told.items():
            results[method, name] = judge(table, missing, rng)
        print(f"{name}: {missing.sum()} query cells; {time.perf_counter() - start:.0f} s", flush=True)

    columns = [*RULES, "false unknowns", "unknown"]
    lines = [f"| missing type (query cells) | by | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    groups = {
        "mean of distinct lineages": [name for name in names if name in DISTINCT],
        "mean of T cells": [name for name in names if name not in DISTINCT],
        "mean of all": names,
    }
    rows = {f"{name} ({(query.obs[LABELS] == name).sum()})": [name] for name in names} | groups
    for title, members in rows.items():
        for method in dict.fromkeys(method for method, _ in results):
            tables = [results[method, name] for name in members]
            if tables:
                mean = sum(tables) / len(tables)
                lines.append(f"| {title} | {method} | {' | '.join(shown(mean.loc[c]) for c in columns)} |")
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
