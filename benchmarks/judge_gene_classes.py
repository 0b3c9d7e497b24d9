"""How well classes of genes are told from the cells that express them, beside an untrained encoder and two simple models.

    python benchmarks/judge_gene_classes.py [--model default] [--cells 200] [--seeds 2] [--epochs 2] [--tasks dosage,range] [--out TABLE.md]

Tasks: dosage-sensitive against insensitive transcription factors; bivalent against Lys4-only and against unmethylated promoters;
long-range against short-range factors; targets of two factors in TRRUST against as many other genes of the same cells. Cells: half of
them Kang PBMC (control and interferon), half FACS-labelled PBMC of the Garnett tests; the bundled model was trained on neither.

Five folds over genes for each seed; a gene is scored once, by its mean over cells. "fine-tuned" is a plain run with the head of BERT, "auto" the
default recipe, which keeps the linear probe unless a run is better on validation genes, a fifth of those that it is given. Means and standard deviations are over all folds of all
seeds. "expression level" is a logistic regression on number of cells, mean rank and corpus median of a gene: what the classes can
be told by without any model. Published values are of V1 (30 million cells; 10,000 cells to fine-tune on), and count each gene as often
as it occurs: beside ours they are a landmark, not a comparison.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import torch

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
SETS = ("kang_ifnb_scgen/kang_ifnb_valid.h5ad", "pbmc_garnett800/pbmc_garnett800.h5ad")
FACTORS = ("NFKB1", "SP1")  # the two with most targets in TRRUST that are no partners of each other
KEY = "geneformer_tokens"
# AUC of Theodoris 2023 as others report it; the last three from memory, unverified
PUBLISHED = {
    "dosage": "0.91 ± 0.02",
    "bivalent/Lys4": "0.88 (?)",
    "bivalent/unmethylated": "0.93 (?)",
    "range": "0.74 (?)",
}


def read_cells(data: Path, pretrained: sg.hub.Pretrained, n_cells: int) -> sc.AnnData:
    """Tokens of cells of both sets, as data without expression."""
    parts = []
    for name in SETS:
        adata = sc.read_h5ad(data / name)
        some = np.random.default_rng(0).choice(adata.n_obs, n_cells // len(SETS), replace=False)
        adata = adata[np.sort(some)].copy()
        sg.pp.tokenize(adata, pretrained)
        parts.append(adata)
    width = max(part.obsm[KEY].shape[1] for part in parts)
    tokens = [np.pad(part.obsm[KEY], ((0, 0), (0, width - part.obsm[KEY].shape[1]))) for part in parts]
    names = [f"cell{i}" for i in range(sum(map(len, tokens)))]
    cells = sc.AnnData(obs=pd.DataFrame(index=names), obsm={KEY: np.concatenate(tokens)})
    cells.uns[KEY] = {"params": dict(parts[0].uns[KEY]["params"])}
    return cells


def read_tasks(data: Path, cells: sc.AnnData, vocabulary: sg.Vocabulary, seed: int) -> dict[str, dict[str, list[str]]]:
    """Lists of genes; the class that scores are of comes second."""
    folder = data / "gene_class_labels"
    dosage = pd.read_csv(folder / "dosage_sensitive_tfs.csv")
    promoters = {
        name: set((folder / f"{name}.txt").read_text().split()) for name in ("bivalent", "lys4_only", "no_methylation")
    }
    ranges = pd.read_csv(folder / "is_longrange_tf.csv").set_index("ensembl_id")["is_longrange"]
    tasks = {
        "dosage": {
            "insensitive": dosage["dosage_insensitive"].dropna().tolist(),
            "sensitive": dosage["dosage_sensitive"].dropna().tolist(),
        },
        "bivalent/Lys4": distinct(promoters, "lys4_only", "bivalent"),
        "bivalent/unmethylated": distinct(promoters, "no_methylation", "bivalent"),
        "range": {"short": ranges.index[~ranges].tolist(), "long": ranges.index[ranges].tolist()},
    }
    pairs = pd.read_csv(data / "reference_tables/trrust_rawdata.human.tsv", sep="\t")
    occurring = np.unique(cells.obsm[KEY])
    occurring = occurring[occurring >= vocabulary.n_special]
    rng = np.random.default_rng(seed)
    for factor in FACTORS:
        targets = np.unique(vocabulary.tokens_of(pairs.loc[pairs["Gene1"] == factor, "Gene2"].tolist()))
        inside = np.intersect1d(targets, occurring)
        others = rng.choice(np.setdiff1d(occurring, targets), len(inside), replace=False)
        tasks[f"{factor} targets"] = {
            "others": vocabulary.ids[others].tolist(),
            "targets": vocabulary.ids[inside].tolist(),
        }
    return tasks


def distinct(sets: dict[str, set[str]], first: str, second: str) -> dict[str, list[str]]:
    """Two classes without the genes that are in both."""
    both = sets[first] & sets[second]
    return {name: sorted(sets[name] - both) for name in (first, second)}


def untrained(pretrained: sg.hub.Pretrained, seed: int) -> sg.hub.Pretrained:
    """The same shape and vocabulary with the weights that training starts from without data."""
    torch.manual_seed(seed)
    encoder = sg.nn.Encoder(pretrained.encoder.config).eval()
    return sg.hub.Pretrained("untrained", pretrained.vocabulary, model=encoder)


def judge(cells: sc.AnnData, classes: dict, pretrained: sg.hub.Pretrained, seed: int, epochs: int) -> tuple[dict, str]:
    """Scores by fold of each row of the table, and how many genes of each class were tested."""
    model_cls = sg.model.GeneClassifier
    options = {"rng": seed, "enable_progress_bar": False}
    model_cls.setup_anndata(cells)
    plain = {"recipe": "plain", "max_epochs": epochs, "learning_rate": 1e-3}
    cv = model_cls(cells, classes, pretrained, head="bert").cross_validate(5, **plain, **options)
    nothing = model_cls(cells, classes, untrained(pretrained, seed), head="bert")
    tuned = {
        "fine-tuned": cv,
        "fine-tuned from nothing": nothing.cross_validate(5, baselines=(), **plain, **options),
        "auto": model_cls(cells, classes, pretrained).cross_validate(5, baselines=(), **options),
    }
    rows = {
        row: of_row.scores.loc["classifier"].assign(per_occurrence=of_row.per_occurrence["auc"])
        for row, of_row in tuned.items()
    } | {
        "linear probe": cv.scores.loc["linear probe"],
        "expression level": cv.scores.loc["expression level"],
    }
    tested = cv.table.loc[cv.table["fold"] >= 0, "class"].value_counts()
    return rows, " / ".join(f"{tested[name]} {name}" for name in cv.classes)


def main() -> None:
    """Judge and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--tasks", help="those whose names begin so, separated by commas; all by default")
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sc.settings.verbosity = 0
    pretrained = sg.hub.load(args.model)
    cells = read_cells(args.data, pretrained, args.cells)
    wanted = tuple(args.tasks.split(",")) if args.tasks else ("",)
    names = [name for name in read_tasks(args.data, cells, pretrained.vocabulary, 0) if name.startswith(wanted)]
    lines = [
        "| task | genes | model | AUC | average precision | macro F1 | AUC per occurrence | published AUC |",
        "|" + "---|" * 8,
    ]
    for name in names:
        start, folds = time.perf_counter(), {}
        try:
            for seed in range(args.seeds):
                classes = read_tasks(args.data, cells, pretrained.vocabulary, seed)[name]
                rows, genes = judge(cells, classes, pretrained, seed, args.epochs)
                for row, scores in rows.items():
                    folds.setdefault(row, []).append(scores)
        except ValueError as error:  # too few cells to have five genes of each class
            print(f"{name}: {error}", flush=True)
            continue
        for row, frames in folds.items():
            table = pd.concat(frames)
            shown = [
                f"{table[score].mean():.3f} ± {table[score].std():.3f}" if score in table else ""
                for score in ("auc", "average_precision", "macro_f1", "per_occurrence")
            ]
            lines.append("| " + " | ".join([name, genes, row, *shown, PUBLISHED.get(name, "")]) + " |")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    text = "\n".join(lines)
    print(f"\n{text}\n\n{cells.n_obs} cells, 5 folds x {args.seeds} seeds, {args.epochs} epochs, mean ± sd over folds.")
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
