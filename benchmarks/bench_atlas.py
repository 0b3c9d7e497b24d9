"""An atlas that does not fit into memory: rate and memory of each stage, and extrapolation to larger atlases.

    python benchmarks/bench_atlas.py --folder build/atlas [--cells 1000000] [--embedded 4000] [--screened 200] [--model default] [--out TABLE.md]

Generates `--cells` synthetic cells x 20,000 genes as in `bench_stream.py`, unless the folder contains them. Each stage then runs in its own process, on
a tenth of its cells and on all of them, to show whether memory grows with the number of cells:

- tokens: counts in zarr, read lazily, to tokens in zarr;
- embedding: counts in zarr to an embedding in zarr, of the first `--embedded` cells;
- screen: all deletions in `--screened` cells in memory, towards one of two states.

Seconds are wall-clock times. Hours for more cells are extrapolated from the rate by the number of cells alone, for machines like this one.
A reference of a million cells and its queries are measured by `judge_reference.py --synthetic 1000000`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from bench_stream import N_GENES, generate

import scgeneformer as sg

MORE = {"1 million": 10**6, "100 million": 10**8}
ROWS = 4096  # per chunk


def read(folder: Path, n_cells: int) -> ad.AnnData:
    """The first cells of the atlas, lazily."""
    atlas = ad.experimental.read_lazy(folder / "atlas.zarr")
    names = pd.RangeIndex(n_cells).astype(str)
    return ad.AnnData(
        atlas.X[:n_cells].rechunk((ROWS, -1)), pd.DataFrame(index=names), pd.DataFrame(index=atlas.var_names)
    )


def tokens(folder: Path, n_cells: int, model: str) -> None:
    """Write tokens to zarr."""
    atlas = read(folder, n_cells)
    sg.pp.tokenize(atlas, model)
    atlas.obsm["geneformer_tokens"].to_zarr(str(folder / "tokens.zarr"), overwrite=True)


def embedding(folder: Path, n_cells: int, model: str) -> None:
    """Write an embedding to zarr."""
    atlas = read(folder, n_cells)
    sg.pp.tokenize(atlas, model)
    sg.tl.embed(atlas, model)
    atlas.obsm["X_geneformer"].to_zarr(str(folder / "embedding.zarr"), overwrite=True)


def screen(folder: Path, n_cells: int, model: str) -> None:
    """Screen all deletions; both states are random halves."""
    cells = read(folder, n_cells).to_memory()
    cells.obs["state"] = np.where(np.arange(n_cells) % 2, "a", "b")
    sg.pp.tokenize(cells, model)
    sg.tl.screen(cells, model, groupby="state", source="a", target="b", allow_poor=True)


STAGES = {"tokens": tokens, "embedding": embedding, "screen": screen}


def measure(stage: str, args: argparse.Namespace, n_cells: int) -> tuple[float, float]:
    """Seconds (without start-up) and peak memory in GB of a stage in its own process."""
    command = [sys.executable, __file__, "--folder", args.folder, "--model", args.model]
    ran = subprocess.run(
        [*map(str, command), "--stage", stage, "--cells", str(n_cells)], stdout=subprocess.PIPE, check=True
    )
    return tuple(json.loads(ran.stdout.splitlines()[-1]))


def run(stage: str, args: argparse.Namespace) -> None:
    """Run a stage, first on a few cells as a warm-up, and print its time and peak memory."""
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    STAGES[stage](args.folder, 16, args.model)
    start = time.perf_counter()
    STAGES[stage](args.folder, args.cells, args.model)
    print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))


def main() -> None:
    """Measure all stages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--embedded", type=int, default=4000)
    parser.add_argument("--screened", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        return run(args.stage, args)
    atlas = args.folder / "atlas.zarr"
    if not atlas.exists() or len(ad.experimental.read_lazy(atlas)) < args.cells:
        args.folder.mkdir(parents=True, exist_ok=True)
        own = sg.hub.vocabulary(args.model)
        others = [f"ENSG9{i:010d}" for i in range(max(N_GENES - len(own) + own.n_special, 0))]
        ids = np.r_[own.ids, others]
        generate(atlas, args.cells, sg.Vocabulary("genes", ids, np.ones(len(ids)), own.max_length))
    lines = [
        f"| stage | cells | seconds | cells/s | peak memory for a tenth, for all | {' | '.join(f'{n}, hours' for n in MORE)} |"
    ]
    lines.append("|" + "---|" * (5 + len(MORE)))
    for stage, n_cells in zip(STAGES, (args.cells, args.embedded, args.screened), strict=True):
        _, tenth = measure(stage, args, n_cells // 10)
        seconds, peak = measure(stage, args, n_cells)
        hours = " | ".join(f"{seconds / n_cells * n / 3600:,.2g}" for n in MORE.values())
        lines.append(
            f"| {stage} | {n_cells:,} | {seconds:.1f} | {n_cells / seconds:,.4g} | {tenth:.2f}, {peak:.2f} GB | {hours} |"
        )
        print(lines[-1], f"load {os.getloadavg()[0]:.1f}", flush=True)
    text = "\n".join(lines)
    print(f"\n{text}\n\n{args.model}, {torch.get_num_threads()} threads")
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
