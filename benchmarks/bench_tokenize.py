"""Rate and memory of tokenizing cells in memory: ``python benchmarks/bench_tokenize.py``.

50,000 synthetic cells x 20,000 genes, about 2,000 of them detected, CSR of float32. Official Geneformer took 20 s for cells of this
shape on two cores (including reading, and building its data set): 2,480 cells/s with V1's dictionaries, 2,412 with V2's.
Uses the official dictionaries if available (``$SCGENEFORMER_SHARED/geneformer``, by default next to the repository), else vocabularies
of the same shape. Processor time is the sum over all threads. ``--profile`` prints a profile of one run.

``--files`` measures the same as the official time: a new process reads an h5ad file, ranks, and writes tokens to disk, timed from start to end. The
official rate is for 50,000 cells; its start-up weighs more for fewer.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import scgeneformer as sg
from scgeneformer.tokens._threads import n_threads

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")
# name: (suffix of the official files, max length, genes, special tokens, official cells/s on 2 cores)
SHAPES = {"V1": ("gc30M", 2048, 25_424, 2, 2480), "V2": ("gc104M", 4096, 20_271, 4, 2412)}


def vocabulary(name: str) -> sg.Vocabulary:
    suffix, max_length, n_genes, n_special, _ = SHAPES[name]
    folder = SHARED / "geneformer" / name
    if folder.is_dir():
        return sg.Vocabulary.from_official(
            folder / f"token_dictionary_{suffix}.pkl",
            folder / f"gene_median_dictionary_{suffix}.pkl",
            name=name,
            max_length=max_length,
        )
    ids = [*("<pad>", "<mask>", "<cls>", "<eos>")[:n_special], *(f"ENSG{i:011d}" for i in range(n_genes))]
    medians = np.random.default_rng(1).lognormal(0.6, 0.8, len(ids))
    return sg.Vocabulary(f"{name} shape", np.array(ids), medians, max_length)


def cells(vocabulary: sg.Vocabulary, n_obs: int, n_vars: int, detected: int) -> ad.AnnData:
    """Cells with genes in random order; gene frequencies and genes per cell vary as in real data."""
    rng = np.random.default_rng(0)
    genes = rng.permutation(vocabulary.ids[vocabulary.n_special :])[:n_vars]
    frequency = np.cumsum(rng.lognormal(0, 1.0, n_vars))
    lengths = np.clip(rng.normal(detected, detected / 4, n_obs), 100, n_vars // 2).astype(int)
    rows = []
    for n in lengths:  # draw somewhat more, because some are drawn twice
        drawn = np.searchsorted(frequency, rng.random(int(n * 1.2)) * frequency[-1])
        rows.append(np.unique(drawn).astype(np.int32))
    indptr = np.r_[0, np.cumsum([len(row) for row in rows])]
    indptr = indptr.astype(np.int32) if indptr[-1] < 2**31 else indptr
    data = rng.geometric(0.5, indptr[-1]).astype(np.float32)
    X = sparse.csr_matrix((data, np.concatenate(rows), indptr), shape=(n_obs, n_vars))
    return ad.AnnData(X, var=pd.DataFrame(index=genes))


class Memory(threading.Thread):
    """Peak resident memory above that at the start, sampled, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.peak, self.stopped = self.now(), 0.0, threading.Event()

    @staticmethod
    def now() -> float:
        status = Path("/proc/self/statm")
        return (
            int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if status.exists() else float("nan")
        )

    def run(self) -> None:
        while not self.stopped.wait(0.005):
            self.peak = max(self.peak, self.now() - self.before)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


JOB = """
import sys, warnings, anndata as ad, scgeneformer as sg
warnings.simplefilter("ignore")
cells = ad.read_h5ad(sys.argv[1])
sg.pp.tokenize(cells, sg.Vocabulary.load(sys.argv[2]))
ad.AnnData(obs=cells.obs, obsm=cells.obsm, uns=cells.uns).write_h5ad(sys.argv[3])
"""


def from_file_to_file(adata: ad.AnnData, known: sg.Vocabulary, runs: int) -> tuple[float, float]:
    """Median seconds and processor seconds of a process that reads counts and writes tokens."""
    seconds, used = [], []
    with tempfile.TemporaryDirectory() as name:
        counts, vocabulary, tokens = (
            Path(name) / file for file in ("counts.h5ad", "vocabulary.json.gz", "tokens.h5ad")
        )
        adata.write_h5ad(counts)
        known.save(vocabulary)
        for _ in range(runs):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-c", JOB, counts, vocabulary, tokens], check=True)
            seconds.append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds), statistics.median(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--detected", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--files", action="store_true", help="from file to file, in a new process")
    args = parser.parse_args()
    print(f"{processor()}, {n_threads()} threads, Python {platform.python_version()}, NumPy {np.__version__}")
    for name, (*_, official) in SHAPES.items():
        known = vocabulary(name)
        adata = cells(known, args.cells, args.genes, args.detected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sg.pp.tokenize(adata[:100].copy(), known)  # compile the kernels
        if args.files:
            median, used = from_file_to_file(adata, known, args.runs)
            print(
                f"{name}: {args.cells:,} cells from file to file, median of {args.runs} runs {median:.2f} s = {args.cells / median:,.0f} cells/s, "
                f"{used:.2f} s of a processor; official {official:,} cells/s, {args.cells / median / official:.1f} times"
            )
            continue
        seconds, cpu = [], []
        memory = Memory()
        memory.start()
        for _ in range(args.runs):
            adata.obsm.clear()
            start, used = time.perf_counter(), time.process_time()
            sg.pp.tokenize(adata, known)
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
        memory.stopped.set()
        memory.join()
        median = statistics.median(seconds)
        print(
            f"{name}: {args.cells:,} cells x {args.genes:,} genes, {adata.X.nnz / args.cells:,.0f} detected: median of {args.runs} runs "
            f"{median:.2f} s (best {min(seconds):.2f}) = {args.cells / median:,.0f} cells/s; official on 2 cores {official:,}, "
            f"{args.cells / median / official:.0f} times; {statistics.median(cpu) / args.cells * 1e6:.0f} microseconds of processor time "
            f"a cell, which is what counts on a shared machine; memory grew by at most {memory.peak:,.0f} MB, of which tokens "
            f"{adata.obsm['geneformer_tokens'].nbytes / 2**20:,.0f} MB"
        )
        if args.profile:
            cProfile.runctx("sg.pp.tokenize(adata, known)", globals(), locals(), sort="tottime")


if __name__ == "__main__":
    main()
