"""Do the tests of shifts hold their level without an effect, and what do they find with one?

    python benchmarks/judge_null.py [--model default] [--labelings 20] [--cells 60] [--only T beta types sets real] [--tests "states, centred"] [--screen]
                                    [--out TABLE.md]

Nulls: random states among untreated CD4 T cells (Kang et al.) and among beta cells (Baron et al.); the treatment shuffled within each cell type, in
one run over all types, whose genes then differ by type; and random sets of 20 genes. For every applicable test: share of p < 0.05 (expected 0.05)
with a 95 % interval over labelings, whose genes are not independent; number of labelings with a discovery at a false discovery rate of 0.05
(expected: at most 5 %, since all discoveries are false), mean and maximum number of discoveries, and inflation (median of the chi-squares of the
p values over 0.455; expected 1). "Uncentred" uses shifts as they are, "centred" uses the shift relative to other genes of the cell.

In addition the real treatment in CD14+ monocytes: the area under the ROC curve for known interferon genes, and how many of them are among
the first 20, by each column of the ranking.

All shifts are exact, or with `--screen` those of the first three nulls are estimates (then only these are run). Under the nulls, cells are cut to their first 128 tokens, and each labeling is a run of its own. Labelings
depend on their number only, so that runs with and without `--screen` can be compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import chi2
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
INTERFERON = """ISG15 ISG20 IFI6 IFI27 IFI35 IFI44 IFI44L IFIT1 IFIT2 IFIT3 IFIT5 IFITM1 IFITM2 IFITM3 MX1 MX2 OAS1 OAS2 OAS3 OASL
STAT1 STAT2 IRF1 IRF7 IRF9 USP18 RSAD2 HERC5 SAMD9L EPSTI1 CXCL10 CXCL11 LY6E BST2 XAF1 DDX58 IFIH1 PARP9 TRIM22 UBE2L6""".split()
PARTS = ("T", "beta", "types", "sets", "real")
N_TOKENS = 128  # of a cell, under the nulls
N_DONORS = 6  # not real donors: cells are assigned to them at random
TESTS = {
    f"{name}, {'centred' if centered else 'uncentred'}": {**options, "centered": centered}
    for name, options, both in (
        ("states", {"test": "states"}, True),
        ("states, donors", {"test": "states", "donor": "dealt"}, True),
        ("permuted labels", {"test": "permuted_labels"}, True),
        ("permuted labels, within donors", {"test": "permuted_labels", "donor": "dealt"}, True),
        ("random genes", {"test": "random_genes", "n_matched": 100}, True),
        ("rank sum", {"test": "rank_sum"}, False),
        ("donors", {"test": "donors", "donor": "dealt"}, False),
        ("rank sum, official", {"test": "rank_sum", "compat": "official"}, False),
    )
    for centered in ((False, True) if both else (False,))
}


def add(table: dict[tuple[str, str], list[np.ndarray]], null: str, adata: ad.AnnData, tests: list[str]) -> None:
    """Append the p values of tests of genes."""
    for name in tests:
        options = TESTS[name]
        sg.tl.rank_shifts(adata, **options)
        frame = sg.get.shifts(adata)
        for column in ("pvals", "contrast_pvals"):
            if column in frame:
                test = name if column == "pvals" else f"{name}, contrast"
                table.setdefault((null, test), []).append(frame[column].dropna().to_numpy())
    if "rank sum, uncentred" in tests:
        table.setdefault((null, "rank sum, centred (refused)"), []).append(centred_rank_sum(adata))


def centred_rank_sum(adata: ad.AnnData) -> np.ndarray:
    """P values of rank sums of centred shifts, which `tl.rank_shifts` refuses."""
    shifts = adata.layers["shift"].tocoo()
    common = np.bincount(shifts.row, shifts.data) / np.maximum(np.bincount(shifts.row), 1)
    test = sg.stats.rank_sum(shifts.data - common[shifts.row], shifts.col, adata.n_vars)
    return test.pvalue[np.bincount(shifts.col, minlength=adata.n_vars) >= 5]


def of_states(cells: ad.AnnData, rng: np.random.Generator, args: argparse.Namespace, table: dict, null: str) -> None:
    """Add the null of random states, drawn within the types of cells, and of random donors."""
    cells.obs["dealt"] = rng.integers(0, N_DONORS, cells.n_obs).astype(str)
    drawn = np.empty(cells.n_obs, dtype=object)
    for rows in cells.obs.groupby("cell_type", observed=True).indices.values():
        drawn[rows] = rng.permutation(np.resize(rng.permutation(["0", "1"]), len(rows)))
    cells.obs["drawn"] = drawn
    perturb = sg.tl.screen if args.screen else sg.tl.perturb
    states = {"groupby": "drawn", "source": "0", "target": "1"}
    perturb(cells, **states, max_cells=args.cells, rng=rng, n_reference=0, untrained=False)
    add(table, null, cells, args.tests)


def of_sets(cells: ad.AnnData, rng: np.random.Generator, table: dict) -> None:
    """Add the null of random sets, towards a random state."""
    cells.obs["drawn"] = rng.permutation(np.arange(cells.n_obs) % 2).astype(str)
    genes = cells.var_names[(cells.var["token_id"] >= 0) & (np.asarray((cells.X > 0).mean(axis=0)).ravel() > 0.02)]
    sets = {f"set {i}": rng.choice(genes, 20, replace=False).tolist() for i in range(20)}
    sg.tl.perturb_sets(cells, sets=sets, groupby="drawn", source="0", target="1", max_cells=25, rng=rng)
    sg.tl.rank_shifts(cells, key="shift_sets")
    p = sg.get.shifts(cells, key="shift_sets")["pvals"].dropna().to_numpy()
    table.setdefault(("random sets of 20 genes", "random sets"), []).append(p)


def summary(table: dict[tuple[str, str], list[np.ndarray]]) -> pd.DataFrame:
    """One row for each null and test."""
    rows = {}
    for name, runs in table.items():
        p = np.concatenate(runs)
        found = [int((sg.stats.benjamini_hochberg(run) < 0.05).sum()) for run in runs]
        shares = [np.mean(run < 0.05) for run in runs]
        margin = (
            student_t.ppf(0.975, len(runs) - 1) * np.std(shares, ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else np.nan
        )
        inflation = np.median(chi2.isf(p, 1)) / chi2.ppf(0.5, 1)
        rows[name] = {
            "tested": int(np.mean([len(run) for run in runs])),
            "p < 0.05": f"{np.mean(shares):.3f} ± {margin:.3f}",
            "labelings with a discovery": f"{np.count_nonzero(found)} of {len(runs)}",
            "discoveries, mean (max)": f"{np.mean(found):.2f} ({max(found)})",
            "inflation": f"{inflation:.2f}",
        }
    return pd.DataFrame(rows).T.rename_axis(["null", "test"]).reset_index()


def real(cells: ad.AnnData, n_cells: int) -> pd.DataFrame:
    """Known interferon genes by each column. Their deletion should move treated cells back, so signs of expression are reversed."""
    states = {"groupby": "condition", "source": "stimulated", "target": "control"}
    sg.tl.perturb(cells, max_cells=n_cells, decompose=True, key_added="treated", **states)
    frames = {}
    for name, options in {
        "rank sum": {"test": "rank_sum"},
        "states, uncentred": {"test": "states", "centered": False},
        "permuted labels, centred": {"test": "permuted_labels"},
        "permuted labels, uncentred": {"test": "permuted_labels", "centered": False},
        "states, centred": {},
    }.items():
        sg.tl.rank_shifts(cells, key="treated", **options)
        frames[name] = sg.get.shifts(cells, key="treated").set_index("names")
    frame = frames["states, centred"]
    frame = frame[frame["pvals"].notna()]
    known = frame.index.isin(INTERFERON)
    columns = {
        "shift": frame["plain_effect"],
        "centred shift": frame["effect"],
        "contrast": frames["states, uncentred"]["contrast"].loc[frame.index],
        "centred contrast": frame["contrast"],
        **{f"score, {name}": of_test["scores"].loc[frame.index] for name, of_test in frames.items()},
        "own vector": frame["own"],
        "network": frame["network"],
        "renumbering": frame["renumbering"],
        "log2 fold change": -frame["log2fc"],
        "AUROC of expression": -frame["auroc"],
        "linear shift": frame["linear_shift"],
        "mean rank (top first)": -frame["mean_rank"],
    }
    found = {name: (of_test["pvals_adj"] < 0.05).sum() for name, of_test in frames.items()}
    rows = {
        name: {
            "AUC": f"{roc_auc_score(known, x):.2f}",
            "of the first 20": int(known[np.argsort(-x.to_numpy())[:20]].sum()),
            "discoveries": found.get(name.removeprefix("score, "), ""),
        }
        for name, x in columns.items()
    }
    print(f"{known.sum()} known genes of {len(frame)}; agreement: {cells.uns['treated']['rank']['agreement']}")
    untrained = []
    for centered in (False, True):
        sg.tl.rank_shifts(cells, key="treated", test="aggregate", centered=centered)
        untrained.append(cells.uns["treated"]["rank"]["agreement"]["untrained"])
    print("Spearman with an untrained encoder: {:.2f}, centred {:.2f}".format(*untrained))
    return pd.DataFrame(rows).T.rename_axis("column").reset_index()


def main() -> None:
    """Run the nulls and the real treatment, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--labelings", type=int, default=20)
    parser.add_argument("--cells", type=int, default=60, help="maximum number of cells to perturb in each run")
    parser.add_argument(
        "--only", nargs="+", default=PARTS, choices=PARTS, help="nulls to run, and whether to run the real treatment"
    )
    parser.add_argument(
        "--tests", nargs="+", default=list(TESTS), choices=list(TESTS), help="tests to apply under the nulls"
    )
    parser.add_argument("--screen", action="store_true", help="estimate the shifts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.screen:
        args.only = [part for part in args.only if part in PARTS[:3]]
    sg.settings.progress, sc.settings.verbosity = False, 0

    kang = ad.read_h5ad(DATA / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")
    beta = ad.read_h5ad(DATA / "pancreas_baron_h1" / "pancreas_baron_h1.h5ad")
    nulls = {
        "T": kang[((kang.obs["condition"] == "control") & (kang.obs["cell_type"] == "CD4T")).to_numpy()].copy(),
        "beta": beta[(beta.obs["cell_type"] == "beta").to_numpy()].copy(),
        "types": kang.copy(),
    }
    for cells in nulls.values():
        sg.pp.tokenize(cells, args.model, max_length=N_TOKENS)
    named = {
        "T": "untreated CD4 T cells, random states",
        "beta": "beta cells, random states",
        "types": "all types, random states within type",
    }
    table: dict[tuple[str, str], list[np.ndarray]] = {}
    start = time.perf_counter()
    for labeling in range(args.labelings):
        for number, (name, cells) in enumerate(nulls.items()):
            if name in args.only:
                of_states(cells, np.random.default_rng([labeling, number]), args, table, named[name])
        if "sets" in args.only and labeling % 4 == 0:
            of_sets(nulls["T"], np.random.default_rng([labeling, len(nulls)]), table)
        print(f"{labeling + 1} of {args.labelings} labelings, {time.perf_counter() - start:.0f} s", flush=True)
    parts = [summary(table).to_markdown(index=False)] if table else []
    print(*parts, flush=True)
    if "real" in args.only:
        monocytes = kang[(kang.obs["cell_type"] == "CD14+Mono").to_numpy()].copy()
        sg.pp.tokenize(monocytes, args.model)
        treated = real(monocytes, args.cells)
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
