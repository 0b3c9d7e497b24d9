"""Threads and memory of this process during a computation."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIM, _MMAP = -1, -3  # of mallopt
_LARGEST = 32 << 20  # bytes, the largest threshold that glibc allows


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with `n` threads, in torch, numba and linear algebra."""
    import torch
    from numba import config
    from threadpoolctl import threadpool_limits

    numba = vars(config)  # what `tokens` reads
    before, before_torch = numba["NUMBA_NUM_THREADS"], torch.get_num_threads()
    numba["NUMBA_NUM_THREADS"] = n
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n):
            yield
    finally:
        numba["NUMBA_NUM_THREADS"] = before
        torch.set_num_threads(before_torch)


@contextmanager
def memory_for_reuse() -> Iterator[None]:
    """Keep memory that tensors have left, for the next ones.

    Dask sets ``MALLOC_TRIM_THRESHOLD_`` for its workers. With that, glibc no longer adapts its thresholds, and asks the system for the memory of every
    tensor above 128 KiB again: networks on the CPU take 1.5 times as long.
    """
    trim = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not trim.isdigit() or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        yield
        return
    mallopt(_MMAP, _LARGEST)
    mallopt(_TRIM, 2 * _LARGEST)  # as glibc would by itself
    try:
        yield
    finally:
        mallopt(_MMAP, 128 << 10)
        mallopt(_TRIM, min(int(trim), 2**31 - 1))
