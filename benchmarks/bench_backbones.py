"""Cells embedded per second with each backbone, and the share of the rate of matrix products that this uses.

    python benchmarks/bench_backbones.py [--only V1-10M ...] [--cells 8] [--runs 3] [--threads 2]

Shapes are the published ones and weights are random, which does not affect speed. Cells are the recorded PBMC if the shared folder is available, else random
cells of the same lengths; the values that CellFM reads are random. All run as in `engine.embed`, at the layer of their kind. Operations are the multiplications and
additions needed for the states; for a decoder, only pairs in which one token attends to the other. The share is relative to the rate of a square product of 2,048 in
the same precision, measured alternately with the models.
"""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from bench_embed import POOLING, SHAPES, cells, flops, matrix_rate, timed

from scgeneformer import engine, nn
from scgeneformer.tokens import with_values

if TYPE_CHECKING:
    from collections.abc import Callable

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LLAMA = nn.LlamaConfig(
    20_275, n_layers=11, width=1232, n_heads=8, n_kv_heads=8, head_width=154, feed_forward=2464, max_length=4096
)
CELLFM = nn.CellFMConfig(vocab_size=27_858, n_layers=2, width=1536, n_heads=48, totals=True)


@dataclass(frozen=True)
class Entry:
    """A model to measure: its constructor, its input cells, the operations they need, and how it runs in a precision."""

    make: Callable[[], torch.nn.Module]
    tokens: Callable[[int], np.ndarray]
    flops: Callable[[np.ndarray], float]
    run: Callable[[torch.nn.Module, np.ndarray, str], object]


def embedding(pooling: str, n_special: int, emb_layer: int) -> Callable[[torch.nn.Module, np.ndarray, str], object]:
    options = {"pooling": pooling, "n_special": n_special, "emb_layer": emb_layer}
    return lambda model, tokens, precision: engine.embed(model, tokens, precision=precision, **options)


def bert(name: str) -> Entry:
    config, (pooling, n_special) = SHAPES[name], POOLING[name]
    return Entry(
        make=lambda: nn.Encoder(config).eval(),
        tokens=lambda n: cells(name, n),
        flops=lambda lengths: flops(config, lengths, config.n_layers - 1),
        run=embedding(pooling, n_special, -1),
    )


def llama_flops(lengths: np.ndarray) -> float:
    heads, kv_heads = LLAMA.n_heads * LLAMA.head_width, LLAMA.n_kv_heads * LLAMA.head_width
    projections = 2 * LLAMA.width * (2 * heads + 2 * kv_heads + 3 * LLAMA.feed_forward)
    of_pairs = 4 * heads * (lengths + 1) / 2  # the tokens before it and itself
    return float((LLAMA.n_layers * (projections + of_pairs) * lengths).sum())


def cellfm_flops(lengths: np.ndarray) -> float:
    head_width = CELLFM.width // CELLFM.n_heads
    of_value = 2 * CELLFM.n_bins * (1 + CELLFM.n_bins + CELLFM.width)
    block = 8 * 2 * CELLFM.width**2 + 2 * 2 * CELLFM.width * head_width
    return float(((of_value + CELLFM.n_layers * block) * lengths).sum())


def with_random_values(n: int) -> np.ndarray:
    """Cells as CellFM reads them: its special token, the genes of ranked cells, and random values."""
    tokens = cells("V2-104M", n)
    genes = np.zeros((n, CELLFM.max_length), dtype=np.uint16)
    for out, row in zip(genes, tokens, strict=True):
        row = np.r_[2, row[row >= 4]][: CELLFM.max_length]
        out[: len(row)] = row
    return with_values(genes, np.random.default_rng(0).exponential(1.0, genes.shape).astype(np.float32))


ENTRIES = {
    "V1-10M": bert("V1-10M"),
    "V2-104M": bert("V2-104M"),
    "MaxToki-217M": Entry(
        lambda: nn.Llama(LLAMA).eval(), lambda n: cells("V2-104M", n), llama_flops, embedding("mean", 4, 0)
    ),
    "CellFM-80M": Entry(lambda: nn.CellFM(CELLFM).eval(), with_random_values, cellfm_flops, embedding("cls", 3, 0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}, {capability}; {args.cells} cells")
    print("| shape | mean length | GFLOP per cell | precision | cells/s | share of the matrix rate | load |")
    for name in args.only:
        entry = ENTRIES[name]
        model, tokens = entry.make(), entry.tokens(args.cells)
        lengths = engine.row_lengths(tokens)
        needed = entry.flops(lengths) / 1e9
        for precision, dtype in PRECISIONS.items():
            entry.run(model, tokens[:1], precision)
            seconds, rates = [], []
            for _ in range(args.runs):
                rates.append(matrix_rate(dtype))
                seconds.append(timed(partial(entry.run, model, tokens, precision)))
            median, rate = np.median(seconds), np.median(rates)
            print(
                f"| {name} | {lengths.mean():,.0f} | {needed / args.cells:,.0f} | {precision} | {args.cells / median:.2f} | "
                f"{needed / median / rate:.0%} of {rate:.0f} GFLOP/s | {os.getloadavg()[0]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
