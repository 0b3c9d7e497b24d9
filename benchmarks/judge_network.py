"""How well gene networks of a model agree with known edges, compared with scores that need no model.

    python benchmarks/judge_network.py [--model default] [--cells 500] [--few-cells 150] [--tasks TRRUST,...] [--out TABLE.md]
    python benchmarks/judge_network.py --memory 1000  # peak memory of attention among 2,000 genes in this number of cells

The first command takes about ten minutes on a core with other load.

Tasks: targets of transcription factors in TRRUST, and in DoRothEA (confidence A and B, which are curated or supported by several kinds of evidence; lower levels
include edges from co-expression), and pairs of interacting proteins (the list of CellChat), all in Kang's PBMC (control and interferon); targets
in human embryonic stem cells (ChIP and knock-down), in SNARE-seq cells of H1. Factors: those of each list. Genes: those that most cells
express, and the factors. The bundled model has seen neither data set, and only blood cells.

Attention and contextual states use `--cells` cells. Gradients and deletions, which run the model once for every factor of every cell, use
`--few-cells` cells and only one list, with attention in the same cells for comparison. All rows of a table use the same pairs: those scored by every
network, in at least `--min-cells` of its cells. Tree ensembles use `--trees` targets, with two networks on the same targets for comparison.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
KANG, HESC = "kang_ifnb_scgen/kang_ifnb_valid.h5ad", "hesc_benGRN/hesc_snareseq_chen.h5ad"


def trrust(data: Path) -> pd.DataFrame:
    table = pd.read_csv(data / "reference_tables/trrust_rawdata.human.tsv", sep="\t")
    return table.rename(columns={"Gene1": "source", "Gene2": "target"})


def dorothea(data: Path) -> pd.DataFrame:
    table = pd.read_csv(data / "reference_tables/dorothea_hs.csv.gz").rename(columns={"tf": "source"})
    return table[table["confidence"].isin(["A", "B"])]


def proteins(data: Path) -> pd.DataFrame:
    return pd.read_csv(data / "reference_tables/cellchat_ppi_human.csv.gz").rename(
        columns={"a": "source", "b": "target"}
    )


def stem_cells(data: Path) -> pd.DataFrame:
    path = data / "hesc_networks/hESC_chipunion_KDUnion_intersect.txt.gz"
    return pd.read_csv(path, sep="\t", names=["source", "target"])


# cells, known edges, whether they are directed, number of genes, and whether to compute gradients and deletions
TASKS: dict[str, tuple[str, Callable[[Path], pd.DataFrame], bool, int, bool]] = {
    "TRRUST": (KANG, trrust, True, 2000, False),
    "DoRothEA A, B": (KANG, dorothea, True, 2000, True),
    "hESC": (HESC, stem_cells, True, 2000, False),
    "proteins": (KANG, proteins, False, 600, False),
}
COLUMNS = {
    "auroc": "AUROC (95 %)",
    "null_auroc": "rewired",
    "p_auroc": "p",
    "source_auroc": "median of factors",
    "average_precision": "AP",
    "ap_ratio": "AP / base rate (95 %)",
    "epr": "EPR",
    "odds_ratio": "odds ratio",
}


def make_networks(
    adata: sc.AnnData,
    pretrained: sg.hub.Pretrained,
    genes: list[str],
    factors: list[str] | None,
    args: argparse.Namespace,
) -> list[str]:
    """Networks from scores that need one pass per cell, by their names in the table."""
    runs = {
        "attention": {"score": "attention"},
        "attention, ranks left in": {"score": "attention", "rank_corrected": False},
        "contextual cosine": {"score": "contextual"},
        "contextual cosine, ranks out": {"score": "contextual", "rank_corrected": True},
    }
    for name, run in runs.items():
        shared = {"genes": genes, "tfs": factors, "min_cells": args.min_cells, "max_cells": args.cells}
        with timed(name):
            sg.tl.network(adata, pretrained, key_added=name, **shared, **run)
    return list(runs)


def make_slow_networks(
    adata: sc.AnnData, pretrained: sg.hub.Pretrained, genes: list[str], factors: list[str], args: argparse.Namespace
) -> list[str]:
    """Networks from scores that need one pass per factor and cell, and attention in the same cells."""
    shared = {"genes": genes, "tfs": factors, "min_cells": args.min_cells}
    for score in ("attention", "gradient"):
        with timed(score):
            sg.tl.network(
                adata, pretrained, score=score, max_cells=args.few_cells, key_added=f"{score}, few cells", **shared
            )
    few = adata.obs["gradient, few cells_cells"].to_numpy()
    listed = sorted(set(factors) & set(expressed(adata[few], adata.n_vars, args.min_cells)))
    with timed("deletions"):
        options = {"effects": True, "n_reference": 0, "untrained": False}
        sg.tl.perturb(adata, pretrained, listed, cells=few, key_added="deletions", **options)
        sg.tl.network(adata, score="effects", effects_key="deletions", key_added="effects of deletions", **shared)
    return ["attention, few cells", "gradient, few cells", "effects of deletions"]


def measure_memory(data: Path, pretrained: sg.hub.Pretrained, n_cells: int) -> None:
    """Print the peak memory of the process before and after one network."""
    adata = sc.read_h5ad(data / KANG)
    sg.pp.tokenize(adata, pretrained)
    sg.tl.embed(adata[:50].copy(), pretrained)  # loads libraries and weights
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    sg.tl.network(adata, pretrained, genes=expressed(adata, 2000, 1), max_cells=n_cells)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{n_cells} cells x 2000 genes: peak {before:.2f} GB before, {after:.2f} GB after, {seconds:.0f} s")


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Print the duration."""
    start = time.perf_counter()
    yield
    print(f"    {name}: {time.perf_counter() - start:.0f} s", flush=True)


def expressed(adata: sc.AnnData, n: int, min_cells: int) -> list[str]:
    """The `n` genes with a token that are expressed in most cells."""
    n_cells = pd.Series(np.asarray((adata.X > 0).sum(axis=0)).ravel(), adata.var_names)
    n_cells = n_cells[(adata.var["token_id"] >= 0).to_numpy()]
    n_cells = n_cells[n_cells >= min_cells]
    return list(n_cells.sort_values(ascending=False, kind="stable").index[:n])


def main() -> None:
    """Evaluate and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--few-cells", type=int, default=150)
    parser.add_argument("--min-cells", type=int, default=5)
    parser.add_argument("--trees", type=int, default=100, help="number of targets for tree ensembles")
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--permutations", type=int, default=100)
    parser.add_argument("--tasks", help="tasks by the start of their names, separated by commas; all by default")
    parser.add_argument("--memory", type=int, metavar="CELLS", help="measure memory with this number of cells instead")
    parser.add_argument("--out", type=Path, help="write the tables as Markdown")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sc.settings.verbosity = 0
    pretrained = sg.hub.load(args.model)
    if args.memory:
        measure_memory(args.data, pretrained, args.memory)
        return
    wanted = tuple(args.tasks.split(",")) if args.tasks else ("",)
    lines = []
    for task, (file, read_truth, directed, n_genes, slow) in TASKS.items():
        if not task.startswith(wanted):
            continue
        print(task, flush=True)
        adata = sc.read_h5ad(args.data / file)
        sg.pp.tokenize(adata, pretrained)
        truth = read_truth(args.data)
        genes = expressed(adata, n_genes, args.min_cells)
        factors = None
        if directed:
            factors = sorted(set(truth["source"]) & set(expressed(adata, adata.n_vars, args.min_cells)))
            genes = list(dict.fromkeys([*genes, *factors]))
        sets = [(task, make_networks(adata, pretrained, genes, factors, args))]
        if slow and factors is not None:
            sets.append(
                (f"{task}, {args.few_cells} cells", make_slow_networks(adata, pretrained, genes, factors, args))
            )
        for title, names in sets:
            with timed(f"evaluation of {title}"):
                sg.tl.evaluate_network(
                    adata,
                    truth,
                    pretrained,
                    key=names,
                    directed=directed,
                    max_targets=args.trees,
                    n_bootstrap=args.bootstrap,
                    n_permutations=args.permutations,
                )
            run = adata.uns["network_evaluation"]["params"]
            lines += table_of(title, sg.get.evaluation(adata, key="network_evaluation"), run)
    text = "\n".join(lines)
    print(f"\n{text}")
    if args.out:
        args.out.write_text(text + "\n")


def table_of(task: str, table: pd.DataFrame, run: dict) -> list[str]:
    """Lines of Markdown."""
    rows = [
        "",
        f"{task}: {run['n_pairs']:,} pairs of {run['n_sources']} sources and {run['n_targets']} targets, {run['n_edges']:,} edges, base rate "
        f"{run['base_rate']:.4f}; {int(table['n_sources'].iloc[0])} with ten edges or more",
        "",
        f"| score | {' | '.join(COLUMNS.values())} |",
        "|" + "---|" * (len(COLUMNS) + 1),
    ]
    for name, row in table.iterrows():
        if str(name).endswith("targets of trees") and not str(name).startswith(
            ("attention, t", "attention, few", "contextual cosine, t")
        ):
            continue
        shown = []
        for column in COLUMNS:
            digits = {
                "p_auroc": ".2f",
                "average_precision": ".4f",
                "ap_ratio": ".2f",
                "epr": ".2f",
                "odds_ratio": ".2f",
            }.get(column, ".3f")
            interval = (
                f" ({row[f'{column}_low']:{digits}}-{row[f'{column}_high']:{digits}})"
                if column in ("auroc", "ap_ratio")
                else ""
            )
            shown.append(f"{row[column]:{digits}}{interval}")
        shown_name = str(name).replace("|", "\\|")
        rows.append(f"| {shown_name} | {' | '.join(shown)} |")
    return rows


if __name__ == "__main__":
    main()
