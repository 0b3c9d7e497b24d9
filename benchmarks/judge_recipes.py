"""Which classifier of cells is best: a linear probe, fine-tuning by several recipes, or a regression on genes?

    python benchmarks/judge_recipes.py [--data ../shared/data] [--cells 100 400 0] [--seeds 5] [--only NAME ...] [--lora] [--both] [--out TABLE.md]

- "FACS": ten sorted types of PBMC, tested on 300 cells of the same file.
- "Kang", "Kang types": control against interferon-beta, all types together, or five types, trained on one of two donors and tested on 400 cells of
  the other; the donors change places with the seed. 1,267 genes only.
- "lines": five cell lines, tested on a batch that is not trained on, which changes with the seed (four of CEL-seq2, one of Drop-seq).
- "COVID": severe COVID-19 or healthy, trained on three patients and one healthy donor, tested on 400 cells of one patient and the other healthy
  donor. Easier than it looks: patients and healthy donors differ in their types of cells and in ambient RNA as well.
- "iPSC": day 2 or day 5 on the way to cardiomyocytes, tested on 300 cells of the same file.
- "pancreas": islet cells of 14 types, some of a handful of cells, tested on 300 cells of the same donor.

Types with fewer than five cells among those drawn for training and validation are left out.

`--cells` are training and validation cells together, a fifth validates; 0 for all. Every seed draws its own cells and split. Cells are cut to
their first `--tokens` tokens.

Rows: the linear probe; a plain run with the head of BERT; the end of the run of the default recipe, kept or not (A starts from the probe, B from
a shrunk one, with larger steps; the recipe runs B where there are at most three classes, and with `--both` the other one is run as well); what
the recipe keeps; with `--lora` what it keeps of the probe and runs of low-rank
adapters; and logistic regression on the 2,000 most variable genes. All on the same cells; probabilities of classifiers are calibrated on the
validation cells. Seconds are of `train`, with everything in it. A second table has what the recipe gains over other rows, with 95 % intervals:
bootstrap over test cells, the same for both rows, averaged over seeds. It says nothing of other donors.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch

import scgeneformer as sg
from scgeneformer import evaluation
from scgeneformer.model.recipes import _portfolio as portfolio

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
N_BOOTSTRAP = 500
FEW = portfolio.FEW_CLASSES
LEAST = 5  # cells of a class to train and validate with
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "NLL", "calibration_error": "ECE"}
ROWS = {
    "probe": "linear probe",
    "bert": "plain, head of BERT",
    "A": "run A",
    "B": "run B",
    "auto": "auto",
    "lora": "auto, adapters",
    "hvg": "regression on HVGs",
}


def drawn(cells: ad.AnnData, test: np.ndarray, n: int, n_test: int, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """At most `n` of the other cells and `n_test` of the test cells, and which are the latter."""
    rng = np.random.default_rng(seed)
    others = rng.permutation(np.setdiff1d(np.arange(cells.n_obs), test))[: n or None]
    test = rng.permutation(test)[:n_test]
    return cells[np.concatenate([others, test])].copy(), np.arange(len(others), len(others) + len(test))


def within_file(cells: ad.AnnData, labels: str, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Tested on 300 other cells of the same file."""
    test = np.random.default_rng([seed, 1]).permutation(cells.n_obs)[:300]
    cells, test = drawn(cells, test, n, 300, seed)
    return cells, labels, test


def facs(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Types, tested on other cells of the same file."""
    return within_file(sc.read_h5ad(data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad"), "celltype", n, seed)


def kang(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Condition, tested on the other donor."""
    cells = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    donor = cells.obs["sample_id"].astype(str).str[-3:].to_numpy()
    test = np.flatnonzero(donor == sorted(set(donor))[seed % 2])
    cells, test = drawn(cells, test, n, 400, seed)
    return cells, "group_id", test


def kang_types(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Types, tested on the other donor."""
    cells, _, test = kang(data, n, seed)
    return cells, "cluster_id", test


def lines(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Cell lines, tested on another batch, by the genes of all batches."""
    cells = sc.read_h5ad(data / "mixology_celllines" / "mixology.h5ad")
    batch = cells.obs["batch"].astype(str).to_numpy()
    batches = sorted(set(batch))
    measured = [np.asarray((cells.X[batch == b] > 0).sum(0)).ravel() > 0 for b in batches]
    test = np.flatnonzero(batch == batches[seed % len(batches)])
    cells, test = drawn(cells[:, np.all(measured, axis=0)], test, n, 300, seed)
    return cells, "cell_line", test


def covid(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Disease, tested on a patient and a healthy donor that are not trained on."""
    folder = data / "covid_pbmc_gse149689"
    cells = ad.concat([sc.read_h5ad(path) for path in sorted(folder.glob("*.h5ad"))], merge="first", index_unique="-")
    healthy = "normal_14" if seed % 2 == 0 else "normal_5"
    patient = ("covid_15", "covid_16", "covid_1", "covid_17")[seed % 4]
    test = np.flatnonzero(cells.obs["donor"].isin([healthy, patient]).to_numpy())
    cells, test = drawn(cells, test, n, 400, seed)
    return cells, "disease", test


def ipsc(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Day of differentiation, tested on other cells of the same file."""
    return within_file(sc.read_h5ad(data / "ipsc_cardiac_scgps" / "ipsc_cardiac_day2_day5.h5ad"), "day", n, seed)


def pancreas(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Types, tested on other cells of the same donor."""
    cells = sc.read_h5ad(data / "pancreas_baron_h1" / "pancreas_baron_h1.h5ad")
    return within_file(cells, "cell_type", n, seed)


def without_few(cells: ad.AnnData, labels: str, test: np.ndarray) -> tuple[ad.AnnData, str, np.ndarray]:
    """The same without classes that have fewer than `LEAST` cells to train and validate with."""
    is_test = np.isin(np.arange(cells.n_obs), test)
    sizes = cells.obs.loc[~is_test, labels].value_counts()
    enough = cells.obs[labels].isin(sizes.index[sizes >= LEAST]).to_numpy()
    return cells[enough].copy(), labels, np.flatnonzero(is_test[enough])


SETS: dict[str, Callable[[Path, int, int], tuple[ad.AnnData, str, np.ndarray]]] = {
    "FACS": facs,
    "Kang": kang,
    "Kang types": kang_types,
    "lines": lines,
    "COVID": covid,
    "iPSC": ipsc,
    "pancreas": pancreas,
}


class Watched(portfolio._Contest):
    """Asks each classifier, kept or not, for the test cells too."""

    test: np.ndarray
    answers: dict[str, np.ndarray]
    seconds: float

    def enter(self, name: str, scores: np.ndarray, **row: float) -> None:
        super().enter(name, scores, **row)
        start = time.perf_counter()
        labels = self.items.labels[self.held_out, 0].astype(int)
        asked = self.items.scores(self.test) / evaluation.temperature(scores, labels)
        self.answers[name] = self.items.tasks[0].answer(asked)
        Watched.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Judged:
    """Answers for the test cells of one seed: truth, probabilities by row, seconds, and what was kept."""

    truth: np.ndarray
    answers: dict[str, np.ndarray]
    classes: tuple[str, ...]
    seconds: dict[str, float]
    kept: str

    def scores(self, row: str, cells: np.ndarray | slice = slice(None)) -> pd.Series:
        """Of some test cells, if the row has answers for them."""
        answers, truth = self.answers[row][cells], self.truth[cells]
        known = np.isfinite(answers[:, 0])
        return evaluation.classification(truth[known], answers[known], self.classes).scores[list(SCORES)]


def judge(name: str, n: int, seed: int, args: argparse.Namespace) -> Judged:
    """All rows for one seed."""
    cells, labels, test = without_few(*SETS[name](args.data, n, seed))
    sg.pp.tokenize(cells, "default", max_length=args.tokens)
    codes = pd.Categorical(cells.obs[labels]).codes.astype(np.int64)
    codes[test] = -1
    inner = evaluation.split(codes, train_size=0.8, validation_size=0.2, test_size=0.0, rng=seed)
    split = evaluation.Split(inner.train, inner.validation, test)
    sg.model.CellClassifier.setup_anndata(cells, labels)
    answers: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    portfolio._Contest = Watched
    n_classes = len(np.unique(codes[inner.train]))
    for row, options in {"lora": {"lora": 8}, "other": {}, "bert": {"head": "bert"}, "auto": {}}.items():
        if (row == "lora" and not args.lora) or (row == "other" and not args.both):
            continue
        portfolio.FEW_CLASSES = FEW if row != "other" else 0 if n_classes <= FEW else n_classes
        Watched.test, Watched.answers = test, {} if row == "lora" else answers
        torch.manual_seed(seed)
        model = sg.model.CellClassifier(cells, "default", **options)
        Watched.seconds, start = 0.0, time.perf_counter()
        model.train(split=split, rng=seed, enable_progress_bar=False, enable_model_summary=False)
        if row != "other":
            seconds[row] = time.perf_counter() - start - Watched.seconds
            answers[row] = model.predict(indices=test, soft=True).to_numpy()
    sg.tl.evaluate(cells, model, baselines=["hvg"], n_bootstrap=0, rng=seed)
    answers["hvg"] = cells.obsm["evaluation_hvg_proba"].to_numpy()[test]
    classes = model.tasks[0].classes
    truth = pd.Categorical(cells.obs[labels], categories=classes).codes[test].astype(np.int64)
    return Judged(truth, answers, classes, seconds, f"{model.selected.kept} ({model.selected.reason})")


def gains(judged: list[Judged], over: str) -> dict[str, str]:
    """Scores of the recipe less those of another row, with intervals."""
    rng, drawn_gains = np.random.default_rng(0), []
    for number in range(N_BOOTSTRAP + 1):
        of_seeds = []
        for one in judged:
            n = len(one.truth)
            cells = np.arange(n) if number == 0 else rng.integers(0, n, n)
            of_seeds.append(one.scores("auto", cells) - one.scores(over, cells))
        drawn_gains.append(pd.concat(of_seeds, axis=1).mean(axis=1))
    table = pd.concat(drawn_gains, axis=1)
    low, high = table.iloc[:, 1:].quantile(0.025, axis=1), table.iloc[:, 1:].quantile(0.975, axis=1)
    return {
        title: f"{table.loc[score, 0]:+.3f} ({low[score]:+.3f} to {high[score]:+.3f})"
        for score, title in SCORES.items()
        if score != "calibration_error"
    }


def main() -> None:
    """Print both tables after each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 400, 0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", nargs="*", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--lora", action="store_true", help="adapters as well")
    parser.add_argument("--both", action="store_true", help="run A and run B")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    rows: list[dict[str, str]] = []
    gained: list[dict[str, str]] = []
    for name in args.only:
        for n in args.cells:
            judged = []
            for seed in range(args.seeds):
                one = judge(name, n, seed, args)
                judged.append(one)
                macro = {row: round(float(one.scores(row)["macro_f1"]), 3) for row in ROWS if row in one.answers}
                print(f"    {name}, {n or 'all'} cells, seed {seed}: kept {one.kept}; macro F1 {macro}", flush=True)
            where = {"data": name, "cells": str(n or "all")}
            for row, title in ROWS.items():
                seeds = [one for one in judged if row in one.answers]
                if not seeds:
                    continue
                scores = pd.concat([one.scores(row) for one in seeds], axis=1)
                shown = {
                    SCORES[s]: f"{of.mean():.3f}" + (f" ± {of.std(ddof=1):.3f}" if len(of) > 1 else "")
                    for s, of in scores.iterrows()
                }
                seconds = [one.seconds[row] for one in seeds if row in one.seconds]
                shown["seconds"] = f"{np.mean(seconds):.0f}" if seconds else ""
                rows.append(where | {"classifier": title, "seeds": str(len(seeds))} | shown)
            for over in ("probe", "bert", "hvg"):
                seeds = [one for one in judged if over in one.answers]
                if seeds:
                    gained.append(where | {"auto less": ROWS[over]} | gains(seeds, over))
            text = "\n\n".join(pd.DataFrame(table).to_markdown(index=False) for table in (rows, gained)) + "\n"
            print(text, flush=True)
            if args.out:
                args.out.write_text(text)


if __name__ == "__main__":
    main()
