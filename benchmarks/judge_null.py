"""Do the tests of shifts hold their level without an effect, and what do they find with one?

    python benchmarks/judge_null.py [--model default] [--labelings 20] [--cells 100] [--only type types sets permuted real] [--out TABLE.md]

Nulls, in PBMC of Kang et al.: random states among untreated T cells; the treatment shuffled within each cell type, in one run over all
types, whose genes then differ by type; and random sets of 20 genes. For every applicable test: share of p < 0.05 (expected 0.05),
mean and maximum number of discoveries at a false discovery rate of 0.05 (expected 0), and inflation (median of the chi-squares of the
p-values over 0.455; expected 1). "Plain" uses shifts as they are, "centred" uses the shift beyond that of other genes of the cell.

In addition the real treatment in CD14+ monocytes: the area under the ROC curve for known interferon genes, and how many of them are among
the first 20, by each column of the ranking. Deletions under the nulls are estimated by the screen, except for permuted labels; sets and the
real treatment are measured exactly.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import chi2
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
INTERFERON = """ISG15 ISG20 IFI6 IFI27 IFI35 IFI44 IFI44L IFIT1 IFIT2 IFIT3 IFIT5 IFITM1 IFITM2 IFITM3 MX1 MX2 OAS1 OAS2 OAS3 OASL
STAT1 STAT2 IRF1 IRF7 IRF9 USP18 RSAD2 HERC5 SAMD9L EPSTI1 CXCL10 CXCL11 LY6E BST2 XAF1 DDX58 IFIH1 PARP9 TRIM22 UBE2L6""".split()
PARTS = ("type", "types", "sets", "permuted", "real")
N_DONORS = 6  # not real donors: cells are assigned to them at random
TESTS = {
    "cells (rank sum), plain": {"test": "rank_sum"},
    "cells (rank sum), centred": {"test": "rank_sum", "centered": True},
    "cells, official": {"test": "rank_sum", "compat": "official"},
    "donors, plain": {"test": "donors", "donor": "dealt"},
    "donors, centred": {"test": "donors", "donor": "dealt", "centered": True},
    "random genes, plain": {"test": "random_genes"},
    "random genes, centred": {"test": "random_genes", "centered": True},
}


def p_values(adata: ad.AnnData, key: str = "shift", **options: str | bool) -> np.ndarray:
    """P-values of the tested genes or sets."""
    sg.tl.rank_shifts(adata, key=key, **options)
    return sg.get.shifts(adata, key=key)["pvals"].dropna().to_numpy()


def add(table: dict[tuple[str, str], list[np.ndarray]], null: str, adata: ad.AnnData) -> None:
    """Append the p-values of all tests."""
    for name, options in TESTS.items():
        table.setdefault((null, name), []).append(p_values(adata, **options))


def of_types(cells: ad.AnnData, rng: np.random.Generator, n_cells: int, table: dict) -> None:
    """Add the null of the treatment shuffled within each type."""
    shuffled = cells.obs["condition"].astype(str).to_numpy()
    for rows in cells.obs.groupby("cell_type", observed=True).indices.values():
        shuffled[rows] = rng.permutation(shuffled[rows])
    cells.obs["shuffled"] = shuffled
    sg.tl.screen(
        cells, groupby="shuffled", source="stimulated", target="control", max_cells=n_cells, rng=rng, n_reference=0
    )
    add(table, "all types, treatment shuffled within type", cells)


def of_one_type(cells: ad.AnnData, rng: np.random.Generator, n_cells: int, table: dict) -> None:
    """Add the null of random states."""
    cells.obs["drawn"] = rng.permutation(np.arange(cells.n_obs) % 2).astype(str)
    sg.tl.screen(cells, groupby="drawn", source="0", target="1", max_cells=n_cells, rng=rng)
    add(table, "one type, states drawn", cells)


def of_sets(cells: ad.AnnData, rng: np.random.Generator, table: dict) -> None:
    """Add the null of random sets, towards a random state."""
    cells.obs["drawn"] = rng.permutation(np.arange(cells.n_obs) % 2).astype(str)
    genes = cells.var_names[(cells.var["token_id"] >= 0) & (np.asarray((cells.X > 0).mean(axis=0)).ravel() > 0.02)]
    sets = {f"set {i}": rng.choice(genes, 20, replace=False).tolist() for i in range(20)}
    sg.tl.perturb_sets(cells, sets=sets, groupby="drawn", source="0", target="1", max_cells=25, rng=rng)
    for name in ("cells (rank sum), plain", "donors, plain"):
        p = p_values(cells, "shift_sets", **TESTS[name])
        table.setdefault(("random sets of 20 genes", f"random sets; {name.split()[0].strip(',')}"), []).append(p)


def of_permuted_labels(
    cells: ad.AnnData, rng: np.random.Generator, n_cells: int, n_labelings: int, table: dict
) -> None:
    """Add the null of random states for unperturbed cells; movements are measured once, exactly."""
    cells.obs["drawn"] = rng.permutation(np.arange(cells.n_obs) % 2).astype(str)
    states = {"groupby": "drawn", "source": "0", "target": "1"}
    sg.tl.perturb(cells, max_cells=n_cells, rng=rng, directions=True, key_added="moved", **states)
    left = np.flatnonzero(np.diff(cells.layers["moved"].indptr) == 0)
    drawn = cells.obs["drawn"].to_numpy(dtype=object)
    for _ in range(n_labelings):
        drawn[left] = rng.permutation(drawn[left])
        cells.obs["drawn"] = drawn
        for donor, centered in product((None, "dealt"), (False, True)):
            sg.tl.rank_shifts(cells, key="moved", test="permuted_labels", donor=donor, centered=centered, rng=rng)
            frame = sg.get.shifts(cells, key="moved")
            within = ("" if donor is None else ", within donors") + (", centred" if centered else ", plain")
            for name, column in (("shift", "pvals"), ("contrast", "contrast_pvals")):
                p = frame[column].dropna().to_numpy()
                table.setdefault(("one type, states drawn", f"permuted labels{within}, {name}"), []).append(p)


def summary(table: dict[tuple[str, str], list[np.ndarray]]) -> pd.DataFrame:
    """One row for each null and test."""
    rows = {}
    for name, runs in table.items():
        p = np.concatenate(runs)
        found = [int((sg.stats.benjamini_hochberg(run) < 0.05).sum()) for run in runs]
        inflation = np.median(chi2.isf(p, 1)) / chi2.ppf(0.5, 1)
        rows[name] = {
            "tested": int(np.mean([len(run) for run in runs])),
            "p < 0.05": f"{np.mean(p < 0.05):.3f}",
            "discoveries, mean (max)": f"{np.mean(found):.2f} ({max(found)})",
            "inflation": f"{inflation:.2f}",
        }
    return pd.DataFrame(rows).T.rename_axis(["null", "test"]).reset_index()


def real(cells: ad.AnnData, n_cells: int) -> pd.DataFrame:
    """Known interferon genes by each column. Their deletion should move treated cells back, so signs of expression are reversed."""
    states = {"groupby": "condition", "source": "stimulated", "target": "control"}
    sg.tl.perturb(cells, max_cells=n_cells, decompose=True, directions=True, key_added="treated", **states)
    sg.tl.rank_shifts(cells, key="treated")
    scores = sg.get.shifts(cells, key="treated").set_index("names")["scores"]
    sg.tl.rank_shifts(cells, key="treated", test="permuted_labels", centered=True)
    centred = sg.get.shifts(cells, key="treated").set_index("names")
    sg.tl.rank_shifts(cells, key="treated", test="permuted_labels")
    frame = sg.get.shifts(cells, key="treated").set_index("names")
    frame = frame[frame["pvals"].notna()]
    known = frame.index.isin(INTERFERON)
    columns = {
        "shift": frame["effect"],
        "score of the shift, rank sum": scores.loc[frame.index],
        "score of the shift, permuted labels": frame["scores"],
        "centred shift": frame["centered_effect"],
        "score of the centred shift, permuted labels": centred["scores"].loc[frame.index],
        "score of the centred contrast, permuted labels": centred["contrast_scores"].loc[frame.index],
        "contrast (target less source)": frame["contrast"],
        "score of the contrast, permuted labels": frame["contrast_scores"],
        "own vector": frame["own"],
        "network": frame["network"],
        "renumbering": frame["renumbering"],
        "log2 fold change": -frame["log2fc"],
        "AUROC of expression": -frame["auroc"],
        "linear shift": frame["linear_shift"],
        "mean rank (top first)": -frame["mean_rank"],
    }
    rows = {
        name: {
            "AUC": f"{roc_auc_score(known, x):.2f}",
            "of the first 20": int(known[np.argsort(-x.to_numpy())[:20]].sum()),
        }
        for name, x in columns.items()
    }
    print(f"{known.sum()} known genes of {len(frame)}; agreement: {cells.uns['treated']['rank']['agreement']}")
    untrained = []
    for centered in (False, True):
        sg.tl.rank_shifts(cells, key="treated", centered=centered)
        untrained.append(cells.uns["treated"]["rank"]["agreement"]["untrained"])
    print("Spearman with an untrained encoder: {:.2f}, centred {:.2f}".format(*untrained))
    return pd.DataFrame(rows).T.rename_axis("column").reset_index()


def main() -> None:
    """Run the nulls and the real treatment, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--labelings", type=int, default=20)
    parser.add_argument("--cells", type=int, default=100, help="maximum number of cells to perturb in each run")
    parser.add_argument(
        "--only", nargs="+", default=PARTS, choices=PARTS, help="nulls to run, and whether to run the real treatment"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sg.settings.progress, sc.settings.verbosity = False, 0

    adata = ad.read_h5ad(DATA / "kang_ifnb_scgen/kang_ifnb_valid.h5ad")
    sg.pp.tokenize(adata, args.model)
    rng = np.random.default_rng(0)
    adata.obs["dealt"] = rng.integers(0, N_DONORS, adata.n_obs).astype(str)
    untreated = adata[(adata.obs["condition"] == "control") & (adata.obs["cell_type"] == "CD4T")].copy()
    table: dict[tuple[str, str], list[np.ndarray]] = {}
    start = time.perf_counter()
    for labeling in range(args.labelings):
        if "type" in args.only:
            of_one_type(untreated, rng, args.cells, table)
        if "types" in args.only:
            of_types(adata, rng, args.cells, table)
        if "sets" in args.only and labeling % 4 == 0:
            of_sets(untreated, rng, table)
    if "permuted" in args.only:
        of_permuted_labels(untreated, rng, args.cells, args.labelings, table)
    parts = [summary(table).to_markdown(index=False)] if table else []
    print(*parts, flush=True)
    if "real" in args.only:
        treated = real(adata[adata.obs["cell_type"] == "CD14+Mono"].copy(), args.cells)
        parts.append(treated.to_markdown(index=False))
        print(parts[-1])
    seconds = time.perf_counter() - start
    parts.append(f"{args.labelings} labelings, {seconds:.0f} s, {platform.machine()}")
    print(parts[-1])
    text = "\n\n".join(parts) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
