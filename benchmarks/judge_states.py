"""Does the axis between two states predict the states of other donors, in the embedding and in expression?

    python benchmarks/judge_states.py [--data ../shared/data] [--out TABLE.md]

`sg.tl.state_score` with the bundled model: each cell is scored on the axis of all other donors, and the AUROC measures how well its position predicts its
state. Rows: the embedding, the embedding centred by donor, and log-normalised expression of all genes.

- "interferon": control against interferon-beta in blood cells of two donors, all types together and each of the two most frequent types
  (Kang et al., 1,267 genes). Both donors have both states. Intervals: bootstrap over cells, because two donors cannot be resampled.
- "COVID": four severe patients against two healthy donors. Each donor has only one state, so centring by donor also removes the states,
  and disease cannot be separated from other differences between these donors. Intervals: bootstrap over six donors.
- "days": day 2 against day 5 of differentiation of iPSC to cardiomyocytes, one experiment; cells are held out, not donors.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"


def interferon(data: Path) -> list[tuple[str, ad.AnnData, dict[str, str]]]:
    """All cells, and those of the two most frequent types."""
    cells = sc.read_h5ad(data / "kang_ifnb_muscat" / "kang_ifnb_muscat.h5ad")
    cells.obs["donor"] = cells.obs["sample_id"].astype(str).str[-3:]
    axis = {"groupby": "group_id", "source": "ctrl", "target": "stim", "donor": "donor"}
    frequent = cells.obs["cluster_id"].value_counts().index[:2]
    of_types = [(f"interferon, {name}", cells[cells.obs["cluster_id"] == name].copy(), axis) for name in frequent]
    return [("interferon, all types", cells, axis), *of_types]


def covid(data: Path) -> list[tuple[str, ad.AnnData, dict[str, str]]]:
    """400 cells of each donor."""
    files = sorted((data / "covid_pbmc_gse149689").glob("*.h5ad"))
    cells = ad.concat([sc.read_h5ad(path) for path in files], merge="first", index_unique="-")
    rng = np.random.default_rng(0)
    of_donor = cells.obs.groupby("donor", observed=True).indices.values()
    cells = cells[np.sort(np.concatenate([rng.choice(rows, 400, replace=False) for rows in of_donor]))].copy()
    source, target = sorted(cells.obs["disease"].astype(str).unique(), key=lambda state: "normal" not in state.lower())
    return [("COVID", cells, {"groupby": "disease", "source": source, "target": target, "donor": "donor"})]


def days(data: Path) -> list[tuple[str, ad.AnnData, dict[str, str]]]:
    """Two days, without donors."""
    cells = sc.read_h5ad(data / "ipsc_cardiac_scgps" / "ipsc_cardiac_day2_day5.h5ad")
    source, target = sorted(cells.obs["day"].astype(str).unique())
    return [("days", cells, {"groupby": "day", "source": source, "target": target})]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    rows = []
    for name, cells, axis in [*interferon(args.data), *covid(args.data), *days(args.data)]:
        sg.pp.tokenize(cells, "default")
        sg.tl.embed(cells)
        sg.tl.state_score(cells, **axis)
        run = cells.uns["state_score"]
        n = {
            "cells": f"{run['params']['n_source']} / {run['params']['n_target']}",
            "resampled": run["params"]["resampled"],
        }
        for row, scores in run["scores"].iterrows():
            interval = f"{scores['auroc']:.3f} ({scores['auroc_low']:.3f}-{scores['auroc_high']:.3f})"
            rows.append({"states": name, **n, "axis in": row, "AUROC": interval})
        text = pd.DataFrame(rows).to_markdown(index=False) + "\n"
        print(text, flush=True)
        if args.out:
            args.out.write_text(text)


if __name__ == "__main__":
    main()
