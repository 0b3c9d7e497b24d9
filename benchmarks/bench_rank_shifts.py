"""Seconds to rank genes by their shifts, for each test: ``python benchmarks/bench_rank_shifts.py``.

5,000 synthetic cells, 20,000 genes, 1,000 genes tested in each cell, three end states: 5 million shifts per state. Official Geneformer took 98 s
for 1,500 genes x 2 states on one core (its ``goal_state_shift``), mostly for sorting the pool again for each gene. Processor time is the
sum over all threads.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import numpy as np
import pandas as pd
from anndata import AnnData
from bench_tokenize import processor
from scipy import sparse

import scgeneformer as sg


def shifts(n_obs: int, n_vars: int, tested: int, states: list[str]) -> AnnData:
    """Genes differ in their frequency, and tokens are ordered by it; `pair` has pairs with gene 0, which every cell expresses."""
    rng = np.random.default_rng(0)
    frequency = np.cumsum(rng.lognormal(0, 1.5, n_vars))
    rows = []
    for _ in range(n_obs):
        drawn = np.unique(np.searchsorted(frequency, rng.random(4 * tested) * frequency[-1]))
        rows.append(np.sort(np.r_[0, rng.permutation(drawn[drawn > 0])[: tested - 1]]))
    indptr = np.r_[0, np.cumsum([len(row) for row in rows])].astype(np.int32)
    indices = np.concatenate(rows).astype(np.int32)
    adata = AnnData(
        sparse.csr_matrix((n_obs, n_vars), dtype=np.float32),
        obs=pd.DataFrame(
            {"donor": rng.choice([f"d{i}" for i in range(20)], n_obs)}, index=np.arange(n_obs).astype(str)
        ),
        var=pd.DataFrame({"token_id": 4 + np.arange(n_vars)}, index=[f"gene{i}" for i in range(n_vars)]),
    )
    adata.obsm["geneformer_tokens"] = np.stack(
        [np.pad(4 + rng.permutation(row), (0, tested - len(row))) for row in rows]
    ).astype(np.uint16)
    adata.uns["geneformer_tokens"] = {"params": {}}
    run = {"kind": "delete", **({"target": states[0], "source": states[1], "others": states[2:]} if states else {})}
    for key in ("shift", "null", "pair"):
        for i, state in enumerate(states or [""]):
            values = rng.normal(0, 1e-3, len(indices))
            values = values if states else 1 - np.abs(values)
            layer = sparse.csr_matrix((values, indices, indptr), adata.shape)
            adata.layers[key if i == 0 else f"{key}_{state}"] = layer
        slots = {"slots": np.array([f"layers/{key}"], dtype=object)}
        adata.uns[key] = {"params": run | slots | ({"anchor": "gene0"} if key == "pair" else {})}
    if states:
        add_movements(adata, states, rng)
    return adata


def add_movements(adata: AnnData, states: list[str], rng: np.random.Generator) -> None:
    """Movements, as large as those of V2-104M, that give the mean shifts: the centroids of the states are the first axes."""
    adata.obs["state"] = np.where(np.arange(adata.n_obs) % 2, states[0], states[1])
    adata.uns["shift"]["params"] |= {"groupby": "state", "centroids": "mean"}
    adata.uns["shift"]["centroids"] = {state: np.eye(WIDTH)[i] for i, state in enumerate(states)}
    layers = [adata.layers["shift" if i == 0 else f"shift_{state}"] for i, state in enumerate(states)]
    directions, movement = rng.normal(0, 1e-3, (adata.n_vars, WIDTH)), rng.normal(0, 1e-3, (adata.n_obs, WIDTH))
    for i, layer in enumerate(layers):
        for axis, moved in ((0, directions), (1, movement)):
            number = layer.getnnz(axis)
            moved[:, i] = np.asarray(layer.sum(axis)).ravel() / np.maximum(number, 1)
            moved[number == 0] = np.nan
    adata.varm["shift__direction"], adata.obsm["shift__movement"] = directions, movement
    at = (adata.obs["state"] == states[1]).to_numpy().astype(int)
    adata.obsm["shift__embedding"] = rng.normal(0, 0.1, (adata.n_obs, WIDTH)) + np.eye(WIDTH)[at]


WIDTH = 768
CALLS = {  # options, and whether there are goal states
    "states": ({}, True),
    "states, donors": ({"donor": "donor"}, True),
    "rank_sum": ({"test": "rank_sum"}, True),
    "rank_sum, official": ({"compat": "official"}, True),
    "donors": ({"test": "donors", "donor": "donor"}, True),
    "vs_null": ({"test": "vs_null", "null": "null"}, True),
    "random_genes": ({"test": "random_genes"}, True),
    "interaction": ({"test": "interaction", "key": "pair", "singles": "shift"}, True),
    "aggregate": ({"test": "aggregate"}, True),
    "mixture": ({"test": "mixture"}, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--tested", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(f"{processor()}, Python {platform.python_version()}, NumPy {np.__version__}")
    for goal in (True, False):
        states = ["Mono", "T", "B"] if goal else []
        adata = shifts(args.cells, args.genes, args.tested, states)
        for name, (options, needs_goal) in CALLS.items():
            if needs_goal != goal:
                continue
            seconds, cpu = [], []
            for _ in range(args.runs):
                start, used = time.perf_counter(), time.process_time()
                sg.tl.rank_shifts(adata, **options)
                seconds.append(time.perf_counter() - start)
                cpu.append(time.process_time() - used)
            print(
                f"{name}: {adata.n_vars:,} genes x {max(len(states), 1)} states x {adata.layers['shift'].nnz:,} shifts: median of "
                f"{args.runs} runs {statistics.median(seconds):.2f} s (best {min(seconds):.2f}), processor time {statistics.median(cpu):.2f} s"
            )


if __name__ == "__main__":
    main()
