"""Parts of a computation: one after the other in this process, or on the workers of the active Dask client."""

from __future__ import annotations

import hashlib
import sys
import threading
import uuid
import warnings
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from ._process import memory_for_reuse, threads
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from distributed import Client, Future, Worker

_FEWEST = 4  # parts that are sent at once
_computing, _unpacking = threading.Lock(), threading.Lock()
_unpacked: dict[str, Any] = {}  # of a worker: what the parts of the last run share, by digest
_sent: list[Future[Any]] = []  # of the client: the same of its last run, which workers keep for the next


def active_client() -> Client | None:
    """The client that Dask would use; None without one, and within a task of a worker.

    Raises
    ------
    ConnectionError
        If it is not connected to its scheduler.
    TypeError
        If it is asynchronous.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    if _worker() is not None:
        return None
    try:
        client: Client = default_client()
    except ValueError:
        return None
    if client.asynchronous:
        msg = "The active Dask client is asynchronous. Start it without asynchronous=True, or close it to compute in this process."
        raise TypeError(msg)
    if client.status != "running":
        raise ConnectionError(_no_scheduler(client))
    return client


def map_parts(
    function: Callable[..., Any],
    parts: Iterable[tuple[int, tuple[Any, ...]]],
    *,
    shared: tuple[Any, ...] = (),
    here: Mapping[str, Any] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Call `function` on parts and yield each result with the number of its part, as they come.

    Parameters
    ----------
    function
        Function of a module. A worker runs one part at a time, with as many threads as it has.
    parts
        Numbers, each with the arguments that are its own.
    shared
        Arguments before these, which are sent to each worker once.
    here
        Keyword arguments that are given in this process only, such as a progress bar.

    Raises
    ------
    ConnectionError
        If the scheduler is lost.
    ModuleNotFoundError
        If workers lack a package.
    RuntimeError
        If workers have other versions, or die repeatedly while they compute the same part.
    """
    client = active_client()
    if client is not None:
        yield from _on_workers(client, function, parts, shared)
        return
    for number, arguments in parts:
        yield number, function(*shared, *arguments, **(here or {}))


def in_order(results: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Results of parts by their numbers, from 0 on, so that sums of them are rounded alike in whatever order they come."""
    waiting: dict[int, Any] = {}
    following = 0
    for number, result in results:
        waiting[number] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _on_workers(
    client: Client,
    function: Callable[..., Any],
    parts: Iterable[tuple[int, tuple[Any, ...]]],
    shared: tuple[Any, ...],
) -> Iterator[tuple[int, Any]]:
    from distributed import as_completed

    def start(compute: tuple[str, bytes], *others: Any) -> Any:
        from pickle import loads

        return loads(compute[1])(*others)

    # a local function goes as its code: without the package a worker fails in it, and does not wait forever
    contents = [_send(client, each) for each in (_compute, function, *shared)]
    _sent[:] = contents
    name, left, finished = f"scgeneformer-part-{uuid.uuid4().hex}", iter(parts), as_completed()
    running: dict[Future[Any], int] = {}
    try:
        while True:
            for number, arguments in islice(left, max(_room(client) - len(running), 0)):
                part = client.submit(start, contents[0], _versions(), arguments, *contents[1:], key=f"{name}-{number}")
                running[part] = number
                finished.add(part)
            if not running:
                return
            part = next(finished)
            result = _result(client, part)
            yield running.pop(part), result
            part.release()
    finally:
        for part in running:
            part.release()  # which cancels it, unless it is being computed


def _send(client: Client, value: Any) -> Future[Any]:
    """A value for all workers, as bytes. The scheduler can give them to workers that come later, or when all are lost."""
    import dask
    from distributed.protocol.pickle import dumps

    content = dumps(value)
    digest = hashlib.sha256(content).hexdigest()
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):  # a model is large
        return client.submit(tuple, [digest, content], key=f"scgeneformer-shared-{digest}")


def _room(client: Client) -> int:
    """Number of parts to have on the cluster: one that is computed by each worker, and one that waits there."""
    try:
        n_workers = len(client.nthreads())
    except OSError as error:
        raise ConnectionError(_no_scheduler(client)) from error
    if n_workers == 0:
        warnings.warn("The Dask cluster has no workers: parts wait for them.", stacklevel=2)
    return max(2 * n_workers, _FEWEST)


def _result(client: Client, part: Future[Any]) -> Any:
    """What a worker computed, or an error that says why it did not."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return part.result()
    except (CancelledError, OSError) as error:
        if part.status == "error":  # of the part itself, such as a full disk
            raise
        raise ConnectionError(_no_scheduler(client)) from error
    except KilledWorker as error:
        msg = (
            f"Workers died {error.allowed_failures + 1} times with the same part. Most often they lack memory: give "
            "them more, or set a smaller `sg.settings.token_budget`. Where workers are stopped from outside, as on "
            "preemptible nodes, raise Dask's `distributed.scheduler.allowed-failures`. Parts in `checkpoint` are kept."
        )
        raise RuntimeError(msg) from error
    except ModuleNotFoundError as error:
        _sent.clear()
        msg = f"A Dask worker lacks a package: {error}. Install scgeneformer {__version__} with the same extras where workers run."
        raise ModuleNotFoundError(msg, name=error.name) from error


def _no_scheduler(client: Client) -> str:
    return (
        f"The Dask client has lost its scheduler ({client.scheduler.address if client.scheduler else 'unknown'}). Start a cluster and a client again, "
        "or close the client to compute in this process. The same call resumes from the parts in `checkpoint`."
    )


@cache
def _versions() -> dict[str, str]:
    """Versions that results depend on; a torch for CPUs and one for GPUs are the same."""
    return {"scgeneformer": __version__, "torch": version("torch").split("+")[0]}


def _compute(versions: dict[str, str], arguments: tuple[Any, ...], *contents: tuple[str, bytes]) -> Any:
    """Compute one part, on a worker.

    Raises
    ------
    RuntimeError
        If the client has other versions.
    """
    differing = [f"{name} {of} here and {versions[name]} in the client" for name, of in _versions().items()]
    if _versions() != versions:
        msg = f"A Dask worker has {', '.join(differing)}. Install the same versions."
        raise RuntimeError(msg)
    function, *shared = _unpack(contents)
    with one_at_a_time():
        return function(*shared, *arguments)


def _unpack(contents: tuple[tuple[str, bytes], ...]) -> list[Any]:
    """Values of `_send`, unpacked when first used."""
    from distributed.protocol.pickle import loads

    with _unpacking:
        for digest in _unpacked.keys() - dict(contents).keys():
            del _unpacked[digest]
        for digest, content in contents:
            if digest not in _unpacked:
                _unpacked[digest] = loads(content)
        return [_unpacked[digest] for digest, _ in contents]


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep others in this process from computing, since one fills the device; on a worker with as many threads as it has."""
    worker = _worker()
    with _computing, ExitStack() as stack:
        if worker is not None:  # Dask gives libraries one thread, whatever a worker has
            stack.enter_context(threads(worker.state.nthreads))
            stack.enter_context(memory_for_reuse())
        yield


def _worker() -> Worker | None:
    """The worker that runs this task; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None
