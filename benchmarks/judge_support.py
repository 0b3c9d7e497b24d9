"""How the number of cells behind an edge affects its rank, and its reproducibility in other cells.

    python benchmarks/judge_support.py [--cells 600] [--model default]

Cells: Kang's PBMC with and without interferon. Edges: attention to twenty transcription factors. Prints the median number of cells behind the first 200
edges by `min_cells`, and the correlation (Spearman) of the scores of the same pairs in two halves of the cells, by the number of cells per half.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import scanpy as sc

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
FACTORS = (
    "STAT1 STAT2 IRF1 IRF7 IRF8 IRF9 JUN FOS SPI1 NFKB1 CEBPB MYC KLF6 KLF4 RUNX3 TCF7 LEF1 EGR1 ATF3 MAFB".split()
)
LEAST, BINS = (10, 20, 40, 80), (2, 5, 10, 20, 40, 80, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--model", default="default")
    parser.add_argument("--cells", type=int, default=600)
    args = parser.parse_args()
    sg.settings.progress = False
    adata = sc.read_h5ad(args.data / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")
    chosen = np.random.default_rng(0).choice(adata.n_obs, min(args.cells, adata.n_obs), replace=False)
    adata = adata[np.sort(chosen)].copy()
    sg.pp.tokenize(adata, args.model)
    factors = [name for name in FACTORS if name in adata.var_names]
    sg.tl.network(adata, args.model, tfs=factors)
    for least in LEAST:
        edges = sg.get.edges(adata, min_cells=least)
        print(f"min_cells={least}: {len(edges):,} edges, first 200 by {edges['n_cells'][:200].median():.0f} cells")
    halves = []
    for half in (adata[::2].copy(), adata[1::2].copy()):
        sg.tl.network(half, args.model, tfs=factors, min_cells=BINS[0])
        halves.append(sg.get.edges(half).set_index(["source", "target"]))
    pairs = halves[0].join(halves[1], lsuffix="", rsuffix="_other", how="inner")
    for low, high in zip(BINS, BINS[1:], strict=False):
        some = pairs[(pairs["n_cells"] >= low) & (pairs["n_cells"] < high)]
        rho = some["weight"].corr(some["weight_other"], method="spearman")
        print(f"pairs in {low} to {high - 1} cells of a half: {len(some):,}, correlation of the halves {rho:.2f}")


if __name__ == "__main__":
    main()
