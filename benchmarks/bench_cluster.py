"""Deletions on a Dask cluster on this machine compared with one process, alternately: speed, overhead per part, and whether results are identical bytes.

    python benchmarks/bench_cluster.py --workers 2 --threads 2 --cells 24 --runs 3

The one process computes with ``--threads``, each worker with its share of them. The overhead per part is the time of a part that computes nothing but is
sent, received and counted like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time

import numpy as np
import torch
from distributed import Client, LocalCluster

import scgeneformer as sg
from scgeneformer import engine
from scgeneformer._cluster import map_parts
from scgeneformer.engine.perturb import Perturbation


def make_cells(pretrained: sg.hub.Pretrained, n_cells: int, n_genes: int) -> np.ndarray:
    """Tokens of cells with random genes, between half of `n_genes` and all of them per cell."""
    rng, vocabulary = np.random.default_rng(0), pretrained.vocabulary
    tokens = np.zeros((n_cells, vocabulary.max_length), np.uint16)
    for row, n in zip(tokens, rng.integers(n_genes // 2, n_genes, n_cells), strict=True):
        row[:n] = rng.choice(np.arange(vocabulary.n_special, len(vocabulary)), n, replace=False)
    return tokens


def delete_all(pretrained: sg.hub.Pretrained, tokens: np.ndarray) -> tuple[float, str, int]:
    """Seconds, sha256 of the values, and number of deletions."""
    encoder, n_special = pretrained.encoder, pretrained.vocabulary.n_special
    states = np.random.default_rng(1).normal(size=(2, encoder.config.width))
    genes = Perturbation("delete", genes=np.arange(n_special, len(pretrained.vocabulary)))
    start = time.perf_counter()
    outcome = engine.perturb.run(
        encoder, tokens, genes, n_special=n_special, states=states, pooling="mean", device="cpu", precision="float32"
    )
    return time.perf_counter() - start, hashlib.sha256(outcome.values.tobytes()).hexdigest(), len(outcome.values)


def nothing(_: object, cells: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of the same shape as those of a part."""
    return {"cells": np.zeros(2048, np.int32), "what": np.zeros(2048, np.int32), "values": np.zeros((2048, 2))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--threads", type=int, default=2, help="number of threads of all workers together, and of the one process"
    )
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--genes", type=int, default=600)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", type=int, default=2048, help="number of deletions per part")
    options = parser.parse_args()
    engine.perturb._run.PART_SIZE["exact"] = options.part
    torch.set_num_threads(options.threads)
    pretrained = sg.hub.load(options.model)
    tokens = make_cells(pretrained, options.cells, options.genes)
    seconds: dict[str, list[float]] = {"one process": [], "workers": []}
    digests, per_thread = set(), max(options.threads // options.workers, 1)
    with LocalCluster(n_workers=options.workers, threads_per_worker=per_thread, dashboard_address=":0") as cluster:
        with Client(cluster):
            delete_all(pretrained, tokens[: options.workers])  # makes the workers import
        delete_all(pretrained, tokens[:1])
        for _ in range(options.runs):
            for where in seconds:
                if where == "workers":
                    with Client(cluster):
                        taken, digest, n = delete_all(pretrained, tokens)
                else:
                    taken, digest, n = delete_all(pretrained, tokens)
                seconds[where].append(taken)
                digests.add(digest)
        with Client(cluster):
            parts = [(number, (tokens[:4],)) for number in range(100)]
            empty = []
            for _ in range(options.runs):
                start = time.perf_counter()
                list(map_parts(nothing, parts, shared=(pretrained.encoder,)))
                empty.append((time.perf_counter() - start) / len(parts))
    one, many = (float(np.median(taken)) for taken in seconds.values())
    n_parts = -(-n // options.part)
    overhead, of_part = float(np.median(empty)), one * per_thread / options.threads * options.workers / n_parts
    print(f"{n:,} deletions in about {n_parts} parts; load of the machine {os.getloadavg()[0]:.1f}")
    for where, taken in seconds.items():
        print(f"{where:12} {np.median(taken):7.2f} s   ({', '.join(f'{each:.2f}' for each in sorted(taken))})")
    print(f"speed-up {one / many:.2f}; bytes {'equal' if len(digests) == 1 else 'differ'}")
    print(f"a part without work {overhead * 1e3:.1f} ms, {overhead / of_part:.2%} of a part of {of_part:.2f} s")


if __name__ == "__main__":
    main()
