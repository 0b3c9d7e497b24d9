"""Apply a function in threads. Kernels and NumPy's sort release the GIL, so that all cores are used."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")


def n_threads() -> int:
    """Number of threads, as numba's: the cores available to this process, or ``NUMBA_NUM_THREADS``."""
    from numba import config

    return int(vars(config)["NUMBA_NUM_THREADS"])


def in_order(function: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
    """Yield ``function(piece)`` in the order of `pieces`; only a few pieces are in memory at a time."""
    with ThreadPoolExecutor(n_threads()) as pool:
        running: deque[Future[R]] = deque()
        for piece in pieces:
            running.append(pool.submit(function, piece))
            if len(running) > n_threads():
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
