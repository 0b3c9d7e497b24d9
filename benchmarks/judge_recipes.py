"""Which classifier of cells is best: a linear probe, fine-tuning by several recipes, or a regression on genes?

    python benchmarks/judge_recipes.py [--data ../shared/data] [--cells 100 400 0] [--seeds 5] [--only NAME ...] [--out TABLE.md]

- "FACS": ten sorted types of PBMC, tested on 300 cells of the same file.
- "Kang": control against interferon-beta, all types together, trained on one of two donors and tested on 400 cells of the other; the donors
  change places with the seed. 1,267 genes only.

`--cells` are training and validation cells together, a fifth validates; 0 for all. Every seed draws its own cells and split. Cells are cut to
their first `--tokens` tokens.

Rows: the linear probe; a plain run with the head of BERT; the ends of runs A and B of the default recipe, whichever is kept (B is left
out by the recipe where there are many small classes); what the recipe keeps; and logistic regression on the 2,000 most variable genes. All
on the same cells; probabilities of classifiers are calibrated on the validation cells. Seconds are of `train`, with everything in it.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc
import torch

import scgeneformer as sg
from scgeneformer import evaluation
from scgeneformer.model.recipes import _portfolio as portfolio

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "NLL", "calibration_error": "ECE"}
ROWS = {
    "probe": "linear probe",
    "bert": "plain, head of BERT",
    "A": "run A",
    "B": "run B",
    "auto": "auto",
    "hvg": "regression on HVGs",
}


def drawn(cells: ad.AnnData, test: np.ndarray, n: int, n_test: int, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """At most `n` of the other cells and `n_test` of the test cells, and which are the latter."""
    rng = np.random.default_rng(seed)
    others = rng.permutation(np.setdiff1d(np.arange(cells.n_obs), test))[: n or None]
    test = rng.permutation(test)[:n_test]
    return cells[np.concatenate([others, test])].copy(), np.arange(len(others), len(others) + len(test))


def facs(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Types, tested on other cells of the same file."""
    cells = sc.read_h5ad(data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad")
    test = np.random.default_rng([seed, 1]).permutation(cells.n_obs)[:300]
    cells, test = drawn(cells, test, n, 300, seed)
    return cells, "celltype", test


def kang(data: Path, n: int, seed: int) -> tuple[ad.AnnData, str, np.ndarray]:
    """Condition, tested on the other donor."""
    cells = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    donor = cells.obs["sample_id"].astype(str).str[-3:].to_numpy()
    test = np.flatnonzero(donor == sorted(set(donor))[seed % 2])
    cells, test = drawn(cells, test, n, 400, seed)
    return cells, "group_id", test


SETS: dict[str, Callable[[Path, int, int], tuple[ad.AnnData, str, np.ndarray]]] = {"FACS": facs, "Kang": kang}


class Watched(portfolio._Contest):
    """Asks each classifier, kept or not, for the test cells too."""

    test: np.ndarray
    answers: dict[str, np.ndarray]
    seconds: float

    def enter(self, name: str, scores: np.ndarray, **row: float) -> None:
        super().enter(name, scores, **row)
        start = time.perf_counter()
        labels = self.cells.labels[self.held_out, 0].astype(int)
        asked = self.model._classify(self.cells.tokens[self.test]).scores / evaluation.temperature(scores, labels)
        self.answers[name] = self.model.tasks[0].answer(asked)
        Watched.seconds += time.perf_counter() - start


def judge(name: str, n: int, seed: int, args: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """Scores of all rows for one seed, and what was kept."""
    cells, labels, test = SETS[name](args.data, n, seed)
    sg.pp.tokenize(cells, "default", max_length=args.tokens)
    codes = pd.Categorical(cells.obs[labels]).codes.astype(np.int64)
    codes[test] = -1
    inner = evaluation.split(codes, train_size=0.8, validation_size=0.2, test_size=0.0, rng=seed)
    split = evaluation.Split(inner.train, inner.validation, test)
    sg.model.CellClassifier.setup_anndata(cells, labels)
    answers: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    Watched.test, Watched.answers = test, answers
    portfolio._Contest = Watched
    for row, head in (("bert", "bert"), ("auto", "linear")):
        torch.manual_seed(seed)
        model = sg.model.CellClassifier(cells, "default", head=head)
        Watched.seconds, start = 0.0, time.perf_counter()
        model.train(split=split, rng=seed, enable_progress_bar=False, enable_model_summary=False)
        seconds[row] = time.perf_counter() - start - Watched.seconds
        answers[row] = model.predict(indices=test, soft=True).to_numpy()
    sg.tl.evaluate(cells, model, baselines=["hvg"], rng=seed)
    answers["hvg"] = cells.obsm["evaluation_hvg_proba"].to_numpy()[test]
    truth = pd.Categorical(cells.obs[labels], categories=model.tasks[0].classes).codes[test].astype(np.int64)
    found = {}
    for row in ROWS:
        if row in answers:
            known = np.isfinite(answers[row][:, 0])
            scores = evaluation.classification(truth[known], answers[row][known], model.tasks[0].classes).scores
            found[row] = scores[list(SCORES)]
    table = pd.DataFrame(found).T.rename(columns=SCORES)
    table["seconds"] = pd.Series(seconds)
    return table, f"{model.selected.kept} ({model.selected.reason})"


def main() -> None:
    """Print the table after each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 400, 0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", nargs="*", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    columns = [*SCORES.values(), "seconds"]
    lines = [f"| data | cells | classifier | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for name in args.only:
        for n in args.cells:
            tables = []
            for seed in range(args.seeds):
                table, kept = judge(name, n, seed, args)
                tables.append(table)
                print(
                    f"    {name}, {n or 'all'} cells, seed {seed}: kept {kept}\n{table.round(3).to_string()}",
                    flush=True,
                )
            by_row = pd.concat(tables).groupby(level=0, sort=False)
            mean, sd = by_row.mean(), by_row.std(ddof=1)
            for row in [row for row in ROWS if row in mean.index]:
                shown = [f"{mean.loc[row, c]:.3f} ± {sd.loc[row, c]:.3f}" for c in SCORES.values()]
                shown.append("" if np.isnan(mean.loc[row, "seconds"]) else f"{mean.loc[row, 'seconds']:.0f}")
                lines.append(f"| {name} | {n or 'all'} | {ROWS[row]} | {' | '.join(shown)} |")
            text = "\n".join(lines) + "\n"
            print(text, flush=True)
            if args.out:
                args.out.write_text(text)


if __name__ == "__main__":
    main()
