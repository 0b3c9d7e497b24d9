"""Fine-tuned cell classifiers compared with a linear probe and a logistic regression on genes, on the same splits.

    python benchmarks/judge_classifiers.py [--data ../shared/data] [--seeds 3] [--epochs 4] [--cells 600] [--only NAME ...] [--out TABLE.md]

Data and splits (each seed draws a new split, new heads and a new order of cells; the test cells are fixed if named):

- "FACS, 100 cells": ten sorted types of PBMC, tested on the 100 cells that the data set reserves, trained on `--cells` of the others.
  The bundled model has seen these 100 cells, without labels, in its own training.
- "FACS, a tenth": the same types, tested on a stratified tenth of the cells.
- "Kang, condition": control against interferon-beta, all types together, tested on a tenth of the cells. Donors are not known.
- "Kang, other donor": the same question with two donors known: trained on one, tested on the other. 1,267 genes only.
- "Cell lines, other batch": five lines, five batches of two technologies: trained on three batches, validated on a fourth, tested on the fifth.

Rows: one plain fine-tuning with the head of BERT, for the bundled model and for an untrained encoder of its shape; linear probe (logistic
regression on mean embeddings) of both; logistic regression on the 2,000 most variable genes of the training cells; and the most frequent class.
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

import scgeneformer as sg
from scgeneformer import evaluation

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
SCORES = ["accuracy", "macro_f1", "auc"]


def facs(data: Path, n: int, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """At most `n` cells of the training file, and which are the 100 test cells."""
    train = sc.read_h5ad(data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad")
    train = train[np.random.default_rng(seed).permutation(train.n_obs)[:n]]
    both = ad.concat(
        {"train": train, "test": sc.read_h5ad(data / "pbmc_facs_zheng" / "pbmc_facs_test.h5ad")},
        label="file",
        index_unique="-",
        merge="first",
    )
    return both, np.flatnonzero((both.obs["file"] == "test").to_numpy())


def facs_100(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, str | None, evaluation.Split | None]:
    """Tested on the reserved cells."""
    cells, test = facs(data, n, seed)
    codes = pd.Categorical(cells.obs["celltype"]).codes.astype(np.int64)
    codes[test] = -1
    inner = evaluation.split(codes, train_size=0.9, validation_size=0.1, test_size=0.0, rng=seed)
    return cells, "celltype", None, evaluation.Split(inner.train, inner.validation, test)


def facs_tenth(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, str | None, evaluation.Split | None]:
    """Tested on a tenth."""
    cells, test = facs(data, n, seed)
    return cells[np.delete(np.arange(cells.n_obs), test)].copy(), "celltype", None, None


def kang(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, str | None, evaluation.Split | None]:
    """Condition as a disease state."""
    cells = sc.read_h5ad(data / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")
    return cells[np.random.default_rng(seed).permutation(cells.n_obs)[:n]].copy(), "condition", None, None


def kang_donors(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, str | None, evaluation.Split | None]:
    """Trained on one donor, tested on the other; the seed decides which."""
    cells = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    donor = cells.obs["sample_id"].astype(str).str[-3:].to_numpy()
    test = np.flatnonzero(donor == sorted(set(donor))[seed % 2])
    codes = pd.Categorical(cells.obs["group_id"]).codes.astype(np.int64)
    codes[test] = -1
    inner = evaluation.split(codes, train_size=0.9, validation_size=0.1, test_size=0.0, rng=seed)
    return cells, "group_id", None, evaluation.Split(inner.train, inner.validation, test)


def lines(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, str | None, evaluation.Split | None]:
    """Split by batch; genes that a batch lacks are removed."""
    cells = sc.read_h5ad(data / "mixology_celllines" / "mixology.h5ad")
    batches = sorted(cells.obs["batch"].unique())
    there = [np.asarray((cells.X[(cells.obs["batch"] == b).to_numpy()] > 0).sum(0)).ravel() > 0 for b in batches]
    cells = cells[np.random.default_rng(seed).permutation(cells.n_obs)[:n], np.all(there, axis=0)].copy()
    sets = dict(
        zip(np.random.default_rng(seed).permutation(batches), ["test", "validation", *["train"] * 3], strict=True)
    )
    cells.obs["set"] = cells.obs["batch"].astype(str).map(sets)
    split = evaluation.Split(
        *(np.flatnonzero((cells.obs["set"] == s).to_numpy()) for s in ("train", "validation", "test"))
    )
    return cells, "cell_line", "batch", split


SETS = {
    "FACS, 100 cells": facs_100,
    "FACS, a tenth": facs_tenth,
    "Kang, condition": kang,
    "Kang, other donor": kang_donors,
    "Cell lines, other batch": lines,
}


def untrained(pretrained: sg.hub.Pretrained, seed: int) -> sg.hub.Pretrained:
    """The same shape and vocabulary with initial weights."""
    torch.manual_seed(seed)
    return sg.hub.Pretrained("untrained", pretrained.vocabulary, model=sg.nn.Encoder(pretrained.encoder.config).eval())


def judge(make, data: Path, seed: int, args: argparse.Namespace) -> pd.DataFrame:
    """Scores of all rows on one split."""
    cells, labels, sample, split = make(data, args.cells, seed)
    sg.pp.tokenize(cells, "default")
    bundled = sg.hub.load("default")
    found = {}
    for name, start in {"bundled model": bundled, "untrained encoder": untrained(bundled, seed)}.items():
        sg.model.CellClassifier.setup_anndata(cells, labels, sample_key=sample)
        torch.manual_seed(seed)
        model = sg.model.CellClassifier(cells, start, head="bert")
        model.train(
            args.epochs,
            split=split,
            rng=seed,
            learning_rate=args.learning_rate,
            token_budget=args.token_budget,
            enable_progress_bar=False,
        )
        split = model.split  # both models on the same cells
        sg.tl.evaluate(cells, model, rng=seed, baselines=["probe", "hvg"] if name == "bundled model" else ["probe"])
        metrics = sg.get.evaluation(cells)
        found[f"fine-tuned, {name}"] = metrics.iloc[0]
        found[f"linear probe, {name}"] = metrics.loc["linear probe"]
        if name == "bundled model":
            found["logistic regression on HVGs"] = metrics.loc["regression on HVGs"]
            found["most frequent class"] = metrics.loc["most frequent class"]
        best = int(model.history["validation_loss"]["validation_loss"].to_numpy().argmin()) + 1
        print(f"    {name}: best epoch {best} of {len(model.history['validation_loss'])}", flush=True)
    return pd.DataFrame(found).T[SCORES].astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--cells",
        type=int,
        default=600,
        help="maximum number of cells per data set, drawn again for each seed; not for Kang's two donors",
    )
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--only", nargs="*", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    lines_ = [f"| data | model | {' | '.join(SCORES)} |", "|---|---|" + "---|" * len(SCORES)]
    for name in args.only:
        start = time.perf_counter()
        runs = [judge(SETS[name], args.data, seed, args) for seed in range(args.seeds)]
        stacked = pd.concat(runs, keys=range(args.seeds))
        mean, sd = (stacked.groupby(level=1, sort=False).agg(how) for how in ("mean", "std"))
        for row in mean.index:
            cells = [f"{mean.loc[row, s]:.3f} ± {sd.loc[row, s]:.3f}" for s in SCORES]
            lines_.append(f"| {name} | {row} | {' | '.join(cells)} |")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        text = "\n".join(lines_) + "\n"
        print(text, flush=True)
        if args.out:
            args.out.write_text(text)


if __name__ == "__main__":
    main()
