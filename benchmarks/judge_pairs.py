"""How well vectors of genes predict pairs of genes, by kind of split and of negatives, compared with baselines without a model.

    python benchmarks/judge_pairs.py [--model default] [--seeds 3] [--folds 3] [--pairs 2000] [--classifiers logistic] [--out TABLE.md]
    python benchmarks/judge_pairs.py --lists "protein interactions" --classifiers logistic fine-tuned --splits both_unseen --negatives degree \
        --pairs 800 --cells 300 --length 512 --batch-size 8 --folds 2 --seeds 2

Lists: "protein interactions" of CellChat; "TF -> target" of TRRUST, directed; "activation or repression", the pairs of
TRRUST with exactly one of the two. Pairs of a gene with itself are removed. Detection and co-expression are measured in 2,638 blood cells
(PBMC 3k), and both genes of a pair must be in the vocabulary of the model. Classifiers are trained on `--pairs` positives and the same number of negatives
in each fold; degrees are those of all training pairs. Values are means over folds, and ± is the standard deviation over seeds, each of which
draws new folds, negatives and random vectors. With `--classifiers logistic boosting`, both classifiers are trained on the model's vectors and on random vectors, which
takes six times as long.

The second command fine-tunes the encoder ("fine-tuned" among `--classifiers`) in some cells, truncated to some tokens. It prints what was
kept in each fold, and warns of the number of pairs that share no cell.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import scanpy as sc

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
CELLS = "pbmc3k_clustifyr/pbmc3k.h5ad"
MODEL, RANDOM, PROBE = "model", "random vectors", "probe"
TUNED = "fine-tuned"
CORNERS = {("both_unseen", "degree"), ("random", "uniform"), ("both_unseen", "label"), ("random", "label")}
SHOWN = ["auroc", "auroc_sd", "average_precision", "base_rate", "ap_ratio", "accuracy", "majority", "n_test"]


def read_lists(folder: Path) -> dict[str, tuple[pd.DataFrame, bool]]:
    """Lists of pairs, and whether they are directed."""
    ppi = pd.read_csv(folder / "cellchat_ppi_human.csv.gz").rename(columns={"a": "source", "b": "target"})
    trrust = pd.read_csv(folder / "trrust_rawdata.human.tsv", sep="\t")
    trrust = trrust.rename(columns={"Gene1": "source", "Gene2": "target", "Mode_of_Regulation": "label"})
    ends = ["source", "target"]
    ppi, trrust = (table[table["source"] != table["target"]] for table in (ppi, trrust))
    signed = trrust[trrust["label"] != "Unknown"].drop_duplicates([*ends, "label"])
    signed = signed[~signed.duplicated(ends, keep=False)]
    return {
        "protein interactions": (ppi[ends], False),
        "TF -> target": (trrust[ends].drop_duplicates(), True),
        "activation or repression": (signed[[*ends, "label"]], True),
    }


def by_method(table: pd.DataFrame) -> pd.DataFrame:
    """AUROC, with its standard deviation over seeds, of each method (rows), by split and negatives (columns)."""
    cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(table["auroc"], table["auroc_sd"], strict=True)]
    series = pd.Series(cells, index=table.index)
    wide = series.unstack(["split", "negatives"])
    wide = wide[list(dict.fromkeys(table.index.droplevel("method")))]
    wide.columns = [", ".join(names).replace("_", " ") for names in wide.columns]
    return wide.loc[list(dict.fromkeys(table.index.get_level_values("method")))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--classifiers", nargs="+", default=["logistic"])
    parser.add_argument("--lists", nargs="+")
    parser.add_argument("--splits", nargs="+", default=["both_unseen", "one_unseen", "random"])
    parser.add_argument("--negatives", nargs="+")
    parser.add_argument("--cells", type=int, help="number of cells, drawn at random; default: all")
    parser.add_argument("--length", type=int, help="maximum number of tokens of a cell; default: that of the model")
    parser.add_argument("--batch-size", type=int, help="number of cells per training step of a fine-tuned encoder")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pretrained = sg.hub.load(args.model)
    cells = sc.read_h5ad(args.data / CELLS)
    if args.cells:
        cells = sc.pp.subsample(cells, n_obs=args.cells, copy=True, random_state=0)
    sg.pp.tokenize(cells, pretrained, max_length=args.length)
    text = []
    for name, (pairs, directed) in read_lists(args.data / "reference_tables").items():
        if args.lists and name not in args.lists:
            continue
        tables = []
        for number, classifier in enumerate(args.classifiers):
            start = time.perf_counter()
            kind = {"features": "contextual" if TUNED in args.classifiers else "token", "classifier": classifier}
            model = sg.model.PairClassifier(cells, pairs, pretrained, directed=directed, missing="drop", **kind)
            options = {
                "n_repeats": args.seeds,
                "splits": args.splits,
                "negatives": args.negatives,
                "max_pairs": args.pairs,
            }
            if classifier == TUNED:
                options |= {"batch_size": args.batch_size, "enable_progress_bar": False}
            cv = model.cross_validate(args.folds, **options)
            kept = f", kept {dict(Counter(cv.params['kept']))}" if classifier == TUNED else ""
            print(f"{name}, {classifier}: {time.perf_counter() - start:.0f} s{kept}", flush=True)
            table, shown = cv.table, [MODEL, RANDOM, PROBE]
            if number:  # the other baselines do not depend on the classifier
                table = table[table.index.get_level_values("method").isin(shown)]
            tables.append(table.rename({key: f"{key}, {classifier}" for key in shown}, level="method"))
        joined = pd.concat(tables)
        corners = joined[[key[:2] in CORNERS for key in joined.index]][SHOWN].round(3).astype({"n_test": int})
        n_genes = len(pd.unique(model.pairs[["source", "target"]].to_numpy().ravel()))
        text += [
            f"## {name}: {len(model.pairs):,} pairs of {n_genes:,} genes",
            "AUROC:",
            by_method(joined).to_markdown(),
            "The hardest test and the easiest:",
            corners.reset_index().to_markdown(index=False),
        ]
        print("\n\n".join(text[-5:]), flush=True)
    if args.out:
        args.out.write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
