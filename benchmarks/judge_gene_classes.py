"""Five tasks of classes of genes (Theodoris et al. 2023), each on cells in which its genes matter, beside what tells genes apart without a model.

    python benchmarks/judge_gene_classes.py [--model default] [--repeats 5] [--run auto|plain] [--cells 300] [--tasks centrality] [--out TABLE.md]

Dosage-sensitive against insensitive transcription factors, in blood, pancreas and differentiating cells; bivalent against Lys4-only promoters, in H1
embryonic stem cells; long- against short-range factors, in cells on the way from induced pluripotent to cardiac cells; central against peripheral genes
of the NOTCH1 network and NOTCH1's targets against other genes, in endothelial cells of the pancreas; and targets of the factor with most ChIP and
knock-down targets in embryonic stem cells against as many other genes that are expressed there, in H1 cells. The bundled model was trained on none
of these cells.

Five folds over genes; each gene is tested once in each repeat, and scored by its mean over cells. Intervals are a bootstrap over genes of all folds together.
"probe" is a regression on a gene's mean state, "untrained probe" the same on an encoder with new weights. Beside: "expression level", a regression on
the number of cells, mean rank and corpus median of a gene; "expression profile", on principal components of its expression across cells; and
"interactions", on its number of partners in a list of protein interactions, which is how well studied a gene is. With --run a network is trained as well, by
the default recipe ("auto") or always ("plain"): an hour or so for all.

The lists are those of `sg.datasets.gene_classes`, read from the data folder.
"""

from __future__ import annotations

import argparse
import logging
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

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
MIXED = (
    ("kang_ifnb_scgen/kang_ifnb_valid.h5ad", None),
    ("pbmc_garnett800/pbmc_garnett800.h5ad", None),
    ("pancreas_baron_h1/pancreas_baron_h1.h5ad", None),
    ("ipsc_cardiac_scgps/ipsc_cardiac_day2_day5.h5ad", None),
)
H1 = (("celllines_li_h1esc/hesc_h1_imr90_k562.h5ad", ("cell_line", "H1")),)
ENDOTHELIUM = (("pancreas_baron_h1/pancreas_baron_h1.h5ad", ("cell_type", "endothelial")),)
TASKS = {  # cells: files, and a column with the value to choose
    "dosage_sensitivity": MIXED,
    "bivalent_promoters": H1,
    "regulatory_range": MIXED[3:],
    "notch1_centrality": ENDOTHELIUM,
    "notch1_targets": ENDOTHELIUM,
    "factor_targets": H1,
}
# AUC of Theodoris 2023 on its own cells and model, per occurrence of a gene; those with a question mark are from memory, unverified
PUBLISHED = {
    "dosage_sensitivity": "0.91",
    "bivalent_promoters": "0.88 (?)",
    "regulatory_range": "0.74 (?)",
    "notch1_centrality": "0.81",
}
ROWS = {
    "interactions": "interactions",
    "expression level": "expression level",
    "expression profile": "expression profile",
    "linear probe": "probe",
}


def read_cells(data: Path, files: tuple, pretrained: sg.hub.Pretrained, n_cells: int) -> ad.AnnData:
    """Up to `n_cells` cells of the files together, tokenized, over all their genes by Ensembl id."""
    parts = []
    for name, chosen in files:
        adata = sc.read_h5ad(data / name)
        if chosen is not None:
            adata = adata[adata.obs[chosen[0]] == chosen[1]]
        some = np.random.default_rng(0).permutation(adata.n_obs)[: n_cells // len(files)]
        adata = adata[np.sort(some), (adata.var["ensembl_id"] != "").to_numpy()].copy()
        adata = ad.AnnData(adata.X, obs=adata.obs[[]], var=pd.DataFrame(index=adata.var["ensembl_id"].to_numpy()))
        parts.append(adata[:, ~adata.var_names.duplicated()])
    cells = ad.concat(parts, join="outer", index_unique="-", fill_value=0)
    sg.pp.tokenize(cells, pretrained)
    return cells


def read_classes(data: Path, task: str, cells: ad.AnnData, vocabulary: sg.Vocabulary) -> dict[str, list[str]]:
    """Genes of both classes; scores are those of the second."""
    if task == "dosage_sensitivity":  # the lists of the official example, which the file that is downloaded repeats
        lists = pd.read_csv(data / "gene_class_labels" / "dosage_sensitive_tfs.csv")
        return {name: lists[f"dosage_{name}"].dropna().tolist() for name in ("insensitive", "sensitive")}
    if task != "factor_targets":
        return sg.datasets.gene_classes(task)
    path = data / "hesc_networks" / "hESC_chipunion_KDUnion_intersect.txt.gz"
    edges = pd.read_csv(path, sep="\t", header=None, names=["source", "target"])
    factor = edges["source"].value_counts().index[0]
    targets = np.unique(vocabulary.tokens_of(edges.loc[edges["source"] == factor, "target"].tolist()))
    expressed = np.unique(cells.obsm["geneformer_tokens"])
    expressed = expressed[expressed >= vocabulary.n_special]
    targets = np.intersect1d(targets, expressed)
    others = np.random.default_rng(0).choice(np.setdiff1d(expressed, targets), len(targets), replace=False)
    ids = vocabulary.ids
    return {"other": ids[others].tolist(), f"target of {factor}": ids[targets].tolist()}


def read_genes(cells: ad.AnnData, classes: dict[str, list[str]], vocabulary: sg.Vocabulary) -> dict[str, int]:
    """How many genes of each class are among the tokens of any cell; a model reads no more than the highest ranks."""
    tokens = np.unique(cells.obsm["geneformer_tokens"])
    return {name: int(np.isin(vocabulary.tokens_of(genes), tokens).sum()) for name, genes in classes.items()}


def add_interactions(data: Path, cells: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    """Logarithm of the number of partners of each gene in a list of protein interactions, in `var`."""
    pairs = pd.read_csv(data / "reference_tables" / "cellchat_ppi_human.csv.gz")
    tokens = vocabulary.tokens_of(pairs.iloc[:, :2].to_numpy().astype(str).ravel().tolist())
    partners = np.bincount(tokens[tokens >= 0], minlength=len(vocabulary))
    token_id = cells.var["token_id"].to_numpy()
    cells.var["interactions"] = np.where(token_id >= 0, np.log1p(partners[np.maximum(token_id, 0)]), 0.0)


def untrained(pretrained: sg.hub.Pretrained) -> sg.hub.Pretrained:
    """The same shape and vocabulary with the weights that training starts from without data."""
    torch.manual_seed(0)
    encoder = sg.nn.Encoder(pretrained.encoder.config).eval()
    return sg.hub.Pretrained("untrained", pretrained.vocabulary, model=encoder)


def judge(
    cells: ad.AnnData, classes: dict, pretrained: sg.hub.Pretrained, repeats: int, run: str | None
) -> tuple[pd.DataFrame, str]:
    """Scores of all genes together by row, with intervals, and how many genes of each class were tested."""
    model_cls, options = sg.model.GeneClassifier, {"n_repeats": repeats, "rng": 0, "enable_progress_bar": False}
    model_cls.setup_anndata(cells)
    probe = {"recipe": "probe", "baselines": ["probe"]}
    columns = ["interactions", "expression", "profiles"]
    trained = model_cls(cells, classes, pretrained, freeze="all")
    cv = trained.cross_validate(5, **probe | {"baselines": [*columns, "probe"]}, **options)
    new = model_cls(cells, classes, untrained(pretrained), freeze="all").cross_validate(5, **probe, **options)
    table = pd.concat([new.pooled.loc[["linear probe"]].rename(index={"linear probe": "untrained probe"}), cv.pooled])
    table = table.drop(index="classifier").rename(index=ROWS)
    if run is not None:
        epochs = {"max_epochs": 2, "learning_rate": 1e-3} if run == "plain" else {}
        ran = model_cls(cells, classes, pretrained).cross_validate(5, baselines=(), recipe=run, **epochs, **options)
        kept = "" if ran.kept is None else f", kept {(ran.kept['kept'] != 'probe').sum()} of {len(ran.kept)} runs"
        table.loc[f"recipe {run}{kept}"] = ran.pooled.loc["classifier"]
    tested = cv.table.loc[cv.predictions.notna().all(axis=1), "class"].value_counts()
    return table, " / ".join(f"{tested[name]} {name}" for name in cv.classes)


def main() -> None:
    """Judge and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run", choices=("auto", "plain"))
    parser.add_argument(
        "--tasks", help="those whose names hold one of these words, separated by commas; all by default"
    )
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sc.settings.verbosity = 0
    sg.settings.data, sg.settings.progress = args.data, False
    pretrained = sg.hub.load(args.model)
    lines = ["| task | genes tested | row | AUC (95 %) | average precision (95 %) | published AUC |", "|" + "---|" * 6]
    for task, files in TASKS.items():
        if args.tasks and not any(word in task for word in args.tasks.split(",")):
            continue
        start = time.perf_counter()
        cells = read_cells(args.data, files, pretrained, args.cells)
        add_interactions(args.data, cells, pretrained.vocabulary)
        classes = read_classes(args.data, task, cells, pretrained.vocabulary)
        read = read_genes(cells, classes, pretrained.vocabulary)
        if min(read.values()) < 5:
            expressed = (cells.X > 0).sum(0).A1 > 0
            n_expressed = {name: cells.var_names[expressed].isin(of).sum() for name, of in classes.items()}
            genes = " / ".join(f"{read[name]} of {n_expressed[name]} expressed {name}" for name in classes)
            lines.append(f"| {task} | {genes} | too few of a class are read | | | {PUBLISHED.get(task, '')} |")
            continue
        table, genes = judge(cells, classes, pretrained, args.repeats, args.run)
        for row, scores in table.iterrows():
            shown = [
                f"{scores[name]:.2f} ({scores[f'{name}_low']:.2f}-{scores[f'{name}_high']:.2f})"
                for name in ("auc", "average_precision")
            ]
            lines.append("| " + " | ".join([task, genes, str(row), *shown, PUBLISHED.get(task, "")]) + " |")
        print(f"{task}: {cells.n_obs} cells, {time.perf_counter() - start:.0f} s", flush=True)
    text = "\n".join(lines)
    print(f"\n{text}\n\n{args.model}, 5 folds of genes, {args.repeats} repeats.")
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
