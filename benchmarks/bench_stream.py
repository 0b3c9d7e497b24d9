"""Rate and memory of streaming a corpus from files: ``python benchmarks/bench_stream.py --folder build/corpus``.

Generates 1,000,000 synthetic cells x 20,000 genes, 1,000 to 2,000 of them detected, as one zarr store of float32 counts in CSR (about 2.5 GB,
some minutes), unless the folder contains one of that size. Then reads one epoch of `Corpus` without a model, with resident memory
at ten points. Then, for each ``--shape``, measures how many tokens per second training consumes, and how many times faster the
corpus is read. During training both share the processor, as other threads read ahead.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
import zarr
from lightning.pytorch import Callback
from zarr.codecs import BloscCodec

import scgeneformer as sg
from scgeneformer.model import Corpus

N_GENES = 20_000
BLOCK = 4096  # cells per generated block
CHUNK = 2**19  # values
SHAPES = {
    "default": {"n_layers": 3, "width": 128, "n_heads": 4, "feed_forward": 256},
    "V1-10M": {"n_layers": 6, "width": 256, "n_heads": 4, "feed_forward": 512},
}


def vocabulary() -> sg.Vocabulary:
    """A vocabulary of the size of V1: 25,424 genes, cells of at most 2,048 tokens."""
    ids = ["<pad>", "<mask>", *(f"ENSG{i:011d}" for i in range(25_424))]
    medians = np.random.default_rng(1).lognormal(0.6, 0.8, len(ids))
    return sg.Vocabulary("V1 shape", np.array(ids), medians, 2048)


def block(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of values, genes and counts of `n` cells. Genes are drawn as gaps between them, so they are sorted."""
    detected = rng.integers(1000, 2001, n)
    gaps = rng.random((n, 2200), dtype=np.float32)
    gaps *= (2 * N_GENES / detected - 1)[:, None].astype(np.float32)
    genes = np.cumsum(gaps.astype(np.int32) + 1, axis=1, dtype=np.int32) - 1
    stored = genes < N_GENES
    counts = rng.geometric(0.5, int(stored.sum())).astype(np.float32)
    return stored.sum(axis=1), genes[stored], counts


def generate(path: Path, n_cells: int, vocabulary: sg.Vocabulary) -> None:
    """Write the corpus block by block, in the layout of `AnnData.write_zarr`."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    genes = rng.permutation(vocabulary.ids[vocabulary.n_special :])[:N_GENES]
    part = path.with_suffix(".part")
    root = zarr.open_group(str(part), mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    ad.io.write_elem(root, "var", pd.DataFrame(index=genes))
    X = root.create_group("X")
    X.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, N_GENES]})
    # sorted gene numbers and small counts differ from their neighbours in few bits
    options = {
        "shape": (0,),
        "chunks": (CHUNK,),
        "compressors": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    }
    indices = X.create_array("indices", dtype=np.int32, **options)
    data = X.create_array("data", dtype=np.float32, **options)
    lengths = []
    for first in range(0, n_cells, BLOCK):
        n_stored, columns, counts = block(rng, min(BLOCK, n_cells - first))
        indices.append(columns)
        data.append(counts)
        lengths.append(n_stored)
    indptr = np.r_[0, np.cumsum(np.concatenate(lengths))]
    X.create_array("indptr", data=indptr, chunks=(CHUNK,))
    ad.io.write_elem(root, "obs", pd.DataFrame(index=pd.RangeIndex(n_cells).astype(str)))
    part.rename(path)
    seconds, size = time.perf_counter() - start, sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    print(f"generated {n_cells:,} cells, {indptr[-1]:,} values: {seconds:.0f} s, {size / 1e9:.2f} GB")


def resident() -> float:
    """Memory of this process, in MB."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if status.exists() else float("nan")


def stream(corpus: Corpus) -> float:
    """Read one epoch and return tokens per second."""
    loader = corpus.train_dataloader()
    every = max(len(loader) // 10, 1)
    memory, n_cells, n_tokens, n_places = [], 0, 0, 0
    start = time.perf_counter()
    for number, batch in enumerate(loader, 1):
        n_cells += len(batch["lengths"])
        n_tokens += int(batch["lengths"].sum())
        n_places += batch["tokens"].numel()
        if number % every == 0:
            memory.append(resident())
    seconds = time.perf_counter() - start
    print(f"streamed {n_cells:,} of {corpus.n_train:,} cells in {len(loader):,} batches: {seconds:.1f} s")
    print(
        f"  {n_cells / seconds:,.0f} cells/s, {n_tokens / seconds:,.0f} tokens/s, {1 - n_tokens / n_places:.1%} padding"
    )
    print("  resident MB:", *(f"{value:,.0f}" for value in memory))
    return n_tokens / seconds


class Clock(Callback):
    """Tokens per second of training, without the first steps."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.n_tokens = warm_up, 0

    def on_train_batch_end(self, trainer, plan, outputs, batch, number):
        if number + 1 > self.warm_up:
            self.n_tokens += int(batch["lengths"].sum())
            self.rate = self.n_tokens / (time.perf_counter() - self.start)
        else:
            self.start = time.perf_counter()


def train(corpus: Corpus, shape: str, steps: int) -> float:
    """Tokens per second of training from the stream."""
    torch.manual_seed(0)
    model = sg.model.Geneformer(vocabulary=corpus.vocabulary, dropout=0.0, **SHAPES[shape])
    clock = Clock(warm_up=max(steps // 4, 1))
    model.train(
        max_steps=steps,
        datamodule=corpus,
        callbacks=[clock],
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    return clock.rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--shape", choices=SHAPES, nargs="*", default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--token-budget", type=int, default=8192)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(autosharding|log_every_n_steps|treespec)")
    words, path = vocabulary(), args.folder / f"cells_{args.cells}.zarr"
    if not path.exists():
        args.folder.mkdir(parents=True, exist_ok=True)
        generate(path, args.cells, words)
    print(f"{torch.get_num_threads()} threads; resident before: {resident():,.0f} MB")
    corpus = Corpus(path, words, validation=0.01, token_budget=args.token_budget)
    print(f"{corpus}; resident with its index: {resident():,.0f} MB")
    read = stream(corpus)
    for shape in args.shape:
        consumed = train(corpus, shape, args.steps)
        print(f"{shape} trains on {consumed:,.0f} tokens/s: the corpus is read {read / consumed:.1f} times as fast")


if __name__ == "__main__":
    main()
