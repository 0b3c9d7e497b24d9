"""Reference atlases: labels and novelty for cells of another study, and the cost of a million reference cells.

    python benchmarks/judge_reference.py [--data ../shared/data] [--cells 2000] [--seed 0] [--out TABLE.md]
    python benchmarks/judge_reference.py --synthetic 1000000 [--width 128] [--donors 0] [--queries 10000] [--exact]

The first command makes two comparisons. A reference of sorted PBMC (Zheng et al. 2017, types merged into five) labels cells of 10x PBMC 3k, whose dendritic cells and
platelets the reference lacks; and control cells of Kang et al. (2018) label those stimulated with interferon beta. Each has a maximum of `--cells` random
cells. Embeddings of the bundled model are compared with 30 principal components of the log-normalised expression of the 2,000 most variable genes, of
reference and query together.

Accuracy: of query cells whose type is in the reference. False unknowns: share of these that `unknown=0.05` calls unknown. Novelty AUROC: 1 - novelty of query
cells of a type against all others, with the type removed from the reference; mean over types, and for types that the reference never had. Left out: the
same accuracy, AUROC, and calibration error (before and after isotonic regression) within the reference by `Reference.report`. Intervals: 95 %, bootstrap over
cells, because neither data set has donors. The bundled model has seen cells of Zheng et al., without labels, in its own training.

The second command uses normal clusters in `--width` dimensions. It prints, for each step, seconds, processor seconds, and the peak memory of the process so far. A
second process, which has only the folder, runs the queries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

import scgeneformer as sg
from scgeneformer import evaluation, stats

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
ALPHA, N_BOOTSTRAP, N_CLUSTERS = 0.05, 1000, 30
SORTED = {
    "CD19+ B": "B",
    "CD14+ Monocyte": "monocyte",
    "CD56+ NK": "NK",
    "CD34+": "progenitor",
}  # the others are T cells
CLUSTERED = {
    "B": "B",
    "CD14+ Mono": "monocyte",
    "FCGR3A+ Mono": "monocyte",
    "NK": "NK",
    "DC": "dendritic",
    "Platelet": "platelet",
}


def read_sets(args: argparse.Namespace) -> dict[str, tuple[ad.AnnData, ad.AnnData]]:
    """Reference and query of each comparison, with `obs["type"]`."""
    rng = np.random.default_rng(args.seed)

    def some(cells: ad.AnnData, types: pd.Series) -> ad.AnnData:
        cells.obs["type"] = pd.Categorical(types.astype(str))
        return cells[np.sort(rng.permutation(cells.n_obs)[: args.cells])].copy()

    zheng = sc.read_h5ad(args.data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad")
    pbmc = sc.read_h5ad(args.data / "pbmc3k_clustifyr" / "pbmc3k.h5ad")
    kang = sc.read_h5ad(args.data / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")
    for cells in (zheng, pbmc, kang):
        cells.obs_names_make_unique()
    control = (kang.obs["condition"].astype(str).str.lower().str.startswith("c")).to_numpy()
    return {
        "sorted PBMC -> PBMC 3k": (
            some(zheng, zheng.obs["celltype"].astype(str).map(SORTED).fillna("T")),
            some(pbmc, pbmc.obs["celltype"].astype(str).map(CLUSTERED).fillna("T")),
        ),
        "Kang, control -> stimulated": tuple(
            some(part, part.obs["cell_type"]) for part in (kang[control].copy(), kang[~control].copy())
        ),
    }


def represent(reference: ad.AnnData, query: ad.AnnData, n_comps: int = 30) -> None:
    """Write `obsm["X_geneformer"]` and `obsm["X_pca"]` of both."""
    for cells in (reference, query):
        sg.pp.tokenize(cells, "default")
        sg.tl.embed(cells)
    genes = reference.var_names.intersection(query.var_names)
    both = ad.AnnData(sparse.vstack([sparse.csr_matrix(x[:, genes].X) for x in (reference, query)]).astype(np.float32))
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    sc.pp.highly_variable_genes(both, n_top_genes=min(2000, both.n_vars))
    sc.pp.pca(both, n_comps=n_comps, random_state=0)
    parts = np.split(both.obsm["X_pca"].astype(np.float32), [reference.n_obs])
    reference.obsm["X_pca"], query.obsm["X_pca"] = parts


def interval(values: dict[str, float], ends: pd.DataFrame) -> dict[str, str]:
    return {
        name: "" if np.isnan(value) else f"{value:.2f} ({ends.loc[name, 'low']:.2f}-{ends.loc[name, 'high']:.2f})"
        for name, value in values.items()
    }


def auroc(strange: np.ndarray, positive: np.ndarray) -> float:
    return float(stats.auroc(sparse.csc_array(strange[:, None]), positive)[0])


def judge(cells: ad.AnnData, query: ad.AnnData, use_rep: str, seed: int) -> dict[str, str]:
    """One row of the table."""
    truth = query.obs["type"].astype(str).to_numpy()
    reference = sg.Reference.from_adata(cells, "type", use_rep=use_rep)
    done = reference.query(query, unknown=ALPHA, copy=True).obs
    labels = done["type_transferred_nearest"].astype(str).to_numpy()
    known = np.isin(truth, reference.categories)
    unknown = (done["type_transferred"] == "unknown").to_numpy()
    strange = {"never in the reference": 1 - done["type_transferred_novelty"].to_numpy()}
    positive = {"never in the reference": ~known}
    for name in sorted(set(truth[known])):
        rest = sg.Reference.from_adata(cells[(cells.obs["type"] != name).to_numpy()].copy(), "type", use_rep=use_rep)
        strange[name] = 1 - rest.query(query, copy=True).obs["type_transferred_novelty"].to_numpy()
        positive[name] = truth == name
    taken_out = [name for name in strange if name != "never in the reference"]

    def scores(rows: np.ndarray) -> pd.Series:
        inside = rows[known[rows]]
        of_each = {name: auroc(x[rows], positive[name][rows]) for name, x in strange.items() if positive[name].any()}
        return pd.Series(
            {
                "accuracy": (labels[inside] == truth[inside]).mean(),
                "false unknowns": unknown[inside].mean(),
                "novelty AUROC, taken out": np.nanmean([of_each[name] for name in taken_out]),
                "novelty AUROC, never there": of_each.get("never in the reference", np.nan),
            }
        )

    ends = evaluation.bootstrap(scores, len(truth), n_bootstrap=N_BOOTSTRAP, rng=seed)
    row = interval(dict(scores(np.arange(len(truth)))), ends)
    tables = reference.report(n_bootstrap=N_BOOTSTRAP, rng=seed)
    overall, of_labels = tables["overall"], tables["labels"]
    row |= {f"left out: {name}": text for name, text in interval(dict(overall["value"]), overall).items()}
    row["left out: novelty AUROC, mean"] = f"{of_labels['novelty_auroc'].mean():.2f}"
    print(of_labels.round(2).to_string(), flush=True)
    return row


def synthetic(args: argparse.Namespace) -> None:
    """Build and save a reference of normal clusters, and query it in another process."""
    rng = np.random.default_rng(args.seed)
    centres = rng.normal(size=(N_CLUSTERS, args.width)).astype(np.float32)

    def clusters(n: int) -> ad.AnnData:
        code = rng.integers(0, N_CLUSTERS, n)
        points = centres[code] + rng.standard_normal((n, args.width), dtype=np.float32)
        obs = pd.DataFrame({"type": pd.Categorical.from_codes(code, [f"type {i}" for i in range(N_CLUSTERS)])})
        obs["donor"] = pd.Categorical([f"donor {i % max(args.donors, 1)}" for i in range(n)])
        return ad.AnnData(obs=obs.set_index(np.arange(n).astype(str)), obsm={"X_geneformer": points})

    step = Steps()
    cells = clusters(args.synthetic)
    step("cells made")
    donor = "donor" if args.donors else None
    reference = sg.Reference.from_adata(cells, "type", donor=donor, exact=args.exact or None)
    del cells
    step("reference made")
    reference.index.nearest(reference.points[:1], reference.n_neighbors)
    step("index built")
    reference.left_out  # noqa: B018 - computes it
    step("cells left out")
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name) / "reference", Path(name) / "queries.h5ad"
        reference.save(folder)
        step("saved")
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        print(f"folder: {size:.2f} GB", flush=True)
        clusters(args.queries).write_h5ad(path)
        del reference
        subprocess.run([sys.executable, __file__, "--load", folder, "--query", path], check=True)


def load_and_query(args: argparse.Namespace) -> None:
    """Label cells of a file by a saved reference."""
    query = sc.read_h5ad(args.query)
    step = Steps()
    reference = sg.Reference.load(args.load)
    step("loaded, checksums compared")
    reference.index.nearest(reference.points[:1], reference.n_neighbors)
    step("index built")
    reference.query(query, unknown=ALPHA)
    step(f"{query.n_obs} cells labelled")
    reference.query(query, unknown=ALPHA)
    step("the same again")
    wrong = (query.obs["type_transferred_nearest"].astype(str) != query.obs["type"].astype(str)).mean()
    new = (query.obs["type_transferred"] == "unknown").mean()
    print(json.dumps({"wrong": round(wrong, 4), "unknown": round(new, 4)}), flush=True)


class Steps:
    """Prints the seconds and processor seconds since the last step, and the peak memory of the process (Linux)."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def __call__(self, name: str) -> None:
        wall, cpu = (
            now - start for now, start in zip((time.perf_counter(), time.process_time()), self.start, strict=True)
        )
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6
        print(f"{name}: {wall:.1f} s, {cpu:.1f} processor seconds, peak {peak:.2f} GB", flush=True)
        self.start = time.perf_counter(), time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--synthetic", type=int, help="number of synthetic reference cells")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--donors", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="compare with every cell, without an index")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--query", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sc.settings.verbosity, sg.settings.progress = 0, False
    if args.load:
        return load_and_query(args)
    if args.synthetic:
        return synthetic(args)
    rows = []
    for name, (cells, query) in read_sets(args).items():
        represent(cells, query)
        known = query.obs["type"].isin(cells.obs["type"].cat.categories)
        frequent = (query.obs["type"][known] == cells.obs["type"].value_counts().idxmax()).mean()
        print(
            f"{name}: {cells.n_obs} reference cells, {query.n_obs} query cells, {np.sum(~known)} of other types",
            flush=True,
        )
        for method, use_rep in {"bundled model": "X_geneformer", "PCA, 30": "X_pca"}.items():
            rows.append(
                {
                    "set": name,
                    "by": method,
                    **judge(cells, query, use_rep, args.seed),
                    "most frequent label": f"{frequent:.2f}",
                }
            )
    table = pd.DataFrame(rows).set_index(["set", "by"]).T
    header = ["", *(f"{name}: {method}" for name, method in table)]
    lines = [
        header,
        ["---"] * len(header),
        *([name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)),
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    print(text, flush=True)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
