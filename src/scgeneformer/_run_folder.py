"""A folder in which one run at a time writes, and files in it that are either whole or absent."""

from __future__ import annotations

import errno
import json
import os
import platform
import tempfile
import warnings
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK = ".lock"
_ORPHANS = 15.0  # seconds that worker processes of a killed one may keep its lock
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def check_writable(folder: str | Path, argument: str) -> Path:
    """Make `folder` and write to it, so that a run does not fail at its end.

    Raises
    ------
    OSError
        If that cannot be done; `argument` is named.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{argument}={str(folder)!r} cannot be written to ({error.strerror}). Name another folder."
        raise type(error)(error.errno, msg) from error
    return folder


@contextmanager
def locked(folder: Path, argument: str, *, name: str = LOCK, wait: float = 0.0) -> Iterator[None]:
    """Keep other runs out of `folder`.

    The operating system frees the lock when its process ends, however it ends.

    Parameters
    ----------
    folder
        An existing folder.
    argument
        Argument by which the user named it.
    name
        File of the lock, which stays in the folder. Locks of other names do not exclude each other.
    wait
        Seconds to wait for it.

    Raises
    ------
    BlockingIOError
        If another run writes there; its process is named.

    Warns
    -----
    UserWarning
        If the file system has no locks.
    """
    path = folder / name
    lock, holder = FileLock(path), path.with_name(f"{name}.json")
    try:
        _acquire(lock, holder, wait)
    except Timeout:
        msg = f"{argument}={str(folder)!r} is in use by {_described(holder)}. Wait until it has ended, or name another folder."
        raise BlockingIOError(msg) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"The file system of {str(folder)!r} has no locks: take care that no other run writes there.", stacklevel=3
        )
        yield
        return
    try:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        holder.write_text(json.dumps({"process": os.getpid(), "host": platform.node(), "since": since}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file `path`: a killed process leaves it as it was, or new, even if the machine goes down with it.

    Such a process may leave a file, which :func:`remove_unfinished` removes.
    """
    # not by tempfile, whose files others that share the folder may not read
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what killed processes left of files whose names match `name`. No other process may be writing them."""
    for path in folder.glob(f".{name}.*"):
        path.unlink()


def sync(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk now."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # which cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not is_folder:  # which some file systems do not support
            raise
    finally:
        os.close(descriptor)


def _acquire(lock: FileLock, holder: Path, wait: float) -> None:
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        if not _is_dead(_read(holder)):
            raise
        lock.acquire(timeout=_ORPHANS)


def _read(holder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(holder.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _described(holder: Path) -> str:
    run = _read(holder)
    return f"process {run['process']} on {run['host']} since {run['since']}" if len(run) == 3 else "another process"


def _is_dead(run: dict[str, Any]) -> bool:
    """Whether the process that took a lock has ended on this machine, as far as can be told."""
    if os.name == "nt" or run.get("host") != platform.node():
        return False
    try:
        os.kill(int(run["process"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
