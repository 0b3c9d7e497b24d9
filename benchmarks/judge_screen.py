"""Does a screen test the states as exact runs do, and what do the axes of its movements cost?

    python benchmarks/judge_screen.py [--cells 60] [--tokens 512] [--axes 4 8 16] [--only monocytes beta donors] [--out TABLE.md]

All genes of `--cells` cells, cut to their first tokens, are deleted exactly and by screens that keep movements along the states and 4, 8 or 16
further axes; `tl.rank_shifts` then tests both, by default. Compared are the scores (Spearman) and the widths of the intervals (estimated over exact:
median, 5 and 95 %), genes in at least five cells; the number of genes at a false discovery rate of 0.05; and the seconds of a screen.

- "monocytes": treated and untreated CD14+ monocytes (Kang et al.); cells are the replicates.
- "beta": random states among beta cells (Baron et al.).
- "donors": monocytes (CD14 and LYZ) of four patients with severe COVID-19 and two healthy donors (GSE149689); donors are the replicates.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from bench_tokenize import SHARED, processor

import scgeneformer as sg
from scgeneformer.tl._perturbation import _screen

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = SHARED / "data"


def monocytes() -> tuple[ad.AnnData, dict[str, str], dict[str, str]]:
    """Treated to untreated."""
    cells = ad.read_h5ad(DATA / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")
    cells = cells[(cells.obs["cell_type"] == "CD14+Mono").to_numpy()].copy()
    return cells, {"groupby": "condition", "source": "stimulated", "target": "control"}, {}


def beta() -> tuple[ad.AnnData, dict[str, str], dict[str, str]]:
    """Random states."""
    cells = ad.read_h5ad(DATA / "pancreas_baron_h1" / "pancreas_baron_h1.h5ad")
    cells = cells[(cells.obs["cell_type"] == "beta").to_numpy()].copy()
    cells.obs["drawn"] = np.random.default_rng(0).permutation(np.arange(cells.n_obs) % 2).astype(str)
    return cells, {"groupby": "drawn", "source": "0", "target": "1"}, {}


def donors() -> tuple[ad.AnnData, dict[str, str], dict[str, str]]:
    """Severe COVID-19 to healthy."""
    files = sorted((DATA / "covid_pbmc_gse149689").glob("*.h5ad"))
    cells = ad.concat([ad.read_h5ad(file) for file in files], merge="first", index_unique="-")
    counts = cells[:, ["CD14", "LYZ"]].X.toarray()
    cells = cells[(counts[:, 0] > 0) & (counts[:, 1] > 5)].copy()
    return cells, {"groupby": "disease", "source": "severe COVID-19", "target": "normal"}, {"donor": "donor"}


SETS: dict[str, Callable[[], tuple[ad.AnnData, dict[str, str], dict[str, str]]]] = {
    "monocytes": monocytes,
    "beta": beta,
    "donors": donors,
}


def timed(perturb: Callable, cells: ad.AnnData, **options: object) -> tuple[ad.AnnData, float]:
    """A perturbed copy, and seconds."""
    start = time.perf_counter()
    return perturb(cells, copy=True, untrained=False, **options), time.perf_counter() - start


def ranked(cells: ad.AnnData, of_donors: dict[str, str]) -> pd.DataFrame:
    """Ranking by the default test."""
    sg.tl.rank_shifts(cells, **of_donors)
    assert cells.uns["shift"]["rank"]["test"] == "states"
    return sg.get.shifts(cells).set_index("names").dropna(subset="pvals")


def judge(name: str, args: argparse.Namespace) -> list[dict[str, str]]:
    """One row for exact deletions, and one for each number of axes."""
    cells, states, of_donors = SETS[name]()
    sg.pp.tokenize(cells, "default", max_length=args.tokens)
    options = states | {"max_cells": args.cells}
    exact, seconds = timed(sg.tl.perturb, cells, **options)
    truth = ranked(exact, of_donors)
    row = {"cells": name, "genes": f"{len(truth)}", "movements": "exact"}
    rows = [row | {"found": f"{(truth['pvals_adj'] < 0.05).sum()}", "seconds": f"{seconds:.0f}"}]
    timed(sg.tl.screen, cells, directions=False, **options)  # the first call compiles
    seconds = np.median([timed(sg.tl.screen, cells, directions=False, **options)[1] for _ in range(3)])
    rows.append(row | {"movements": "none", "seconds": f"{seconds:.1f}"})
    for n_axes in args.axes:
        _screen.N_AXES = n_axes
        runs = [timed(sg.tl.screen, cells, **options) for _ in range(3)]
        table = ranked(runs[0][0], of_donors).loc[truth.index]
        widths = [of_run["contrast_high"] - of_run["contrast_low"] for of_run in (table, truth)]
        low, median, high = (widths[0] / widths[1]).quantile([0.05, 0.5, 0.95])
        is_found = [of_run["pvals_adj"] < 0.05 for of_run in (table, truth)]
        rows.append(
            row
            | {
                "movements": f"{n_axes} axes",
                "Spearman": f"{table['scores'].corr(truth['scores'], method='spearman'):.3f}",
                "width": f"{median:.2f} ({low:.2f} to {high:.2f})",
                "found": f"{is_found[0].sum()}, {(is_found[0] & is_found[1]).sum()} of them by exact runs",
                "seconds": f"{np.median([seconds for _, seconds in runs]):.1f}",
            }
        )
    return rows


def main() -> None:
    """Print a table after each set of cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60, help="maximum number of cells to perturb")
    parser.add_argument("--tokens", type=int, default=512, help="maximum number of tokens of a cell")
    parser.add_argument("--axes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--only", nargs="+", default=tuple(SETS), choices=tuple(SETS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sg.settings.progress = False
    rows: list[dict[str, str]] = []
    for name in args.only:
        rows += judge(name, args)
        text = pd.DataFrame(rows).fillna("").to_markdown(index=False) + f"\n\n{processor()}\n"
        print(text, flush=True)
        if args.out:
            args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
