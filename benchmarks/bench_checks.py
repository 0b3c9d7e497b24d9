"""Cost of checking inputs: ``python benchmarks/bench_checks.py``.

The indices of a matrix are checked in the kernel that inspects it. A second version of the kernel is compiled without the check, and both are
timed alternately on the same cells (`bench_tokenize.py`), and compared with the time of tokenizing as a whole. Tokens are checked when a model reads them;
this is compared with embedding the same cells with the bundled model, the fastest one. All times are medians of processor times on one thread.
"""

from __future__ import annotations

import argparse
import inspect
import platform
import statistics
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from bench_tokenize import cells, vocabulary
from numba import njit

import scgeneformer as sg
from scgeneformer.tokens import _inspect, _kernels, check_tokens, encode, resolve_genes
from scgeneformer.tokens._matrix import slabs

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK = """            if j >= n_columns:
                return flags | OUTSIDE, peak
"""


def without_check() -> Callable:
    """The kernel without its check."""
    source = inspect.getsource(_kernels.inspect_rows.py_func)
    if CHECK not in source:
        msg = "The check in `inspect_rows` has changed: update CHECK."
        raise RuntimeError(msg)
    source = source.replace(CHECK, "").replace("@njit(nogil=True, cache=True)\n", "")
    names: dict = {}
    exec(source, vars(_kernels), names)
    return njit(nogil=True)(names["inspect_rows"])


def processor_time(function: Callable, *args: object) -> float:
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def inspect_all(kernel: Callable, adata: object, token_id: np.ndarray) -> None:
    for _, rows in slabs(adata.X):
        n = rows.shape[0]
        seen = np.full(token_id.max() + 1, -1, dtype=np.int64)
        kernel(rows.indptr, rows.indices, rows.data, token_id, seen, np.empty(n, np.int64), np.empty(n), np.empty(n))


def look_at_all(adata: object) -> None:
    for _, rows in slabs(adata.X):
        _inspect._looks(rows, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sg.settings.progress = False
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")

    for name in ("V1", "V2"):
        own = vocabulary(name)
        adata = cells(own, arguments.cells, 20_000, 2000)
        token_id = resolve_genes(adata.var, own).token_id
        kernels = {"with": _kernels.inspect_rows, "without": without_check()}
        times: dict[str, list[float]] = {"with": [], "without": [], "all": [], "looks": []}
        for run in range(arguments.runs + 1):
            for key, kernel in kernels.items():
                times[key].append(processor_time(inspect_all, kernel, adata, token_id))
            times["all"].append(processor_time(encode, adata.X, token_id, own))
            times["looks"].append(processor_time(look_at_all, adata))
            if run == 0:  # the first run compiles
                times = {key: [] for key in times}
        check = statistics.median(a - b for a, b in zip(times["with"], times["without"], strict=True))
        whole = statistics.median(times["all"])
        print(
            f"tokenizing, {name}: {1e6 * whole / adata.n_obs:.1f} microseconds a cell, of which the check of indices "
            f"{1e6 * check / adata.n_obs:.2f} ({check / whole:.1%}), and whether values look like counts "
            f"{1e6 * statistics.median(times['looks']) / adata.n_obs:.2f} ({statistics.median(times['looks']) / whole:.1%})"
        )

    own = sg.hub.vocabulary("default")
    adata = cells(own, 100, min(20_000, len(own) - own.n_special), 1500)
    sg.pp.tokenize(adata, own)
    tokens, lengths = adata.obsm["geneformer_tokens"], adata.obs["n_tokens"].to_numpy()
    check_tokens(tokens, own, n_tokens=lengths)
    check = statistics.median(
        processor_time(lambda: check_tokens(tokens, own, n_tokens=lengths)) for _ in range(arguments.runs)
    )
    sg.tl.embed(adata, "default")
    whole = statistics.median(processor_time(lambda: sg.tl.embed(adata, "default")) for _ in range(3))
    print(
        f"embedding, bundled model, {lengths.mean():.0f} tokens a cell: {1e6 * whole / adata.n_obs:,.0f} microseconds a cell, of which "
        f"the check of tokens {1e6 * check / adata.n_obs:.1f} ({check / whole:.2%})"
    )


if __name__ == "__main__":
    main()
