"""Checkpoints in files: written as a whole with a checksum, read after it was compared, the one before kept."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from scgeneformer import _log as logg
from scgeneformer import nn
from scgeneformer._run_folder import check_writable, locked, remove_unfinished, sync, write_whole

from ._fingerprint import VERSION, check_same_run, differences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Trainer

    from ._fingerprint import Identity

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_MARK = b"\nscgeneformer sha256 "  # after the archive of torch, which readers find by its end, whatever follows
_SEAL = len(_MARK) + 64
_BLOCK = 1 << 20


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints of Lightning's trainer followed by their sha256; first to a file beside their place, not in a temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to the file `path`.

        Raises
        ------
        OSError
            If it cannot be written; what was there stays.
        """
        if "://" in str(path):  # which a callback of the user writes to, and nothing here reads
            super().save_checkpoint(checkpoint, path, storage_options)
            return

        def write(part: Path) -> None:
            with part.open("wb") as file:
                sealed = _Sealed(file)
                try:
                    torch.save(checkpoint, cast("BinaryIO", sealed))
                except RuntimeError as error:  # which is what torch makes of any other
                    raise sealed.error or error from None
                file.write(_MARK + sealed.sha256.hexdigest().encode())

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(path, write)
        except OSError as error:
            msg = f"A checkpoint could not be written to {str(path.parent)!r} ({error.strerror}). The previous one is intact."
            raise type(error)(error.errno, msg) from error


class _Sealed:
    """A file that is hashed while it is written, and that remembers what went wrong."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint, its tensors left on disk, if it is whole, plain, and a file.

    Raises
    ------
    FileNotFoundError
        If it is not a file: Lightning would also load addresses, and folders of shards, which are pickles.
    ValueError
        If it is damaged, not of a training here, or holds more than tensors and plain values, which could run code. (Checkpoints of
        earlier versions have no checksum.)
    """
    path = Path(path)
    before = path.with_name(PREVIOUS)
    cure = f" Resume from the previous one: rename {PREVIOUS!r} to {path.name!r}." if before.is_file() else ""
    cure = "" if path == before else cure
    if not path.is_file():
        msg = f"ckpt_path={str(path)!r} is not a file. Name the `last.ckpt` that `train(checkpoints=...)` wrote.{cure}"
        raise FileNotFoundError(msg)
    if not _is_whole(path):
        msg = (
            f"The checkpoint {str(path)!r} is damaged: its checksum does not match its "
            f"content.{cure or ' Start again.'}"
        )
        raise ValueError(msg)
    try:
        content = nn.load_plain(path, mmap=True)
    except ValueError as error:
        msg = f"{error}{cure}"
        raise ValueError(msg) from None
    if not isinstance(content, dict) or "fingerprint" not in content:
        msg = f"{str(path)!r} is not a checkpoint that `train(checkpoints=...)` wrote.{cure}"
        raise ValueError(msg)
    return content


def _is_whole(path: Path) -> bool:
    """Whether the content of a file matches its seal; True if it has none."""
    size, sha256 = path.stat().st_size - _SEAL, hashlib.sha256()
    with path.open("rb") as file:
        file.seek(max(size, 0))
        seal = file.read()
        if size < 0 or not seal.startswith(_MARK):
            return True
        file.seek(0)
        while block := file.read(min(_BLOCK, size - file.tell())):
            sha256.update(block)
    return seal == _MARK + sha256.hexdigest().encode()


def alone_in(folder: str | Path | None) -> AbstractContextManager[None]:
    """Keep a folder, if there is one, for several runs one after the other, each of which has a folder in it."""
    if folder is None or rank_zero_only.rank:  # type: ignore[attr-defined]  # of a function
        return nullcontext()
    return locked(check_writable(folder, "checkpoints"), "checkpoints")


@contextmanager
def reserved(folder: str | Path | None, ckpt_path: str | Path | None, identity: Identity) -> Iterator[None]:
    """Keep the folder for checkpoints for one run, once it is known that this run may write there, and continue from `ckpt_path`.

    Raises
    ------
    BlockingIOError
        If another run is writing to the folder.
    FileNotFoundError
        If there is no such checkpoint.
    ValueError
        If it or the one in the folder is of another run or damaged; see `read_checkpoint`.
    """
    if folder is None or not identity.trainer.is_global_zero:
        _check_resumed(ckpt_path, identity)
        yield
        return
    folder = Path(folder).expanduser()
    with locked(folder, "checkpoints"):
        for name in (LAST, f".{LAST}.part"):
            remove_unfinished(folder, name)
        (folder / f"{LAST}.part").unlink(missing_ok=True)  # of earlier versions
        _check_resumed(ckpt_path, identity)
        if ckpt_path is None or Path(ckpt_path).resolve().parent != folder.resolve():
            _check_replaced(folder, identity)
        yield


def _check_resumed(ckpt_path: str | Path | None, identity: Identity) -> None:
    if ckpt_path is None:
        return
    saved = read_checkpoint(ckpt_path)["fingerprint"]
    check_same_run(saved, identity.entries, ckpt_path)
    before, now = saved.get(VERSION, "an earlier version"), identity.entries[VERSION]
    if before != now:
        logg.warning(f"This run was started with scgeneformer {before} and continues with {now}.")


def _check_replaced(folder: Path, identity: Identity) -> None:
    """Raise if the folder has a checkpoint of another run; of the same run, say that it will be replaced."""
    last = folder / LAST
    if not last.exists():
        return
    if differs := differences(read_checkpoint(last)["fingerprint"], identity.entries):
        msg = (
            f"checkpoints={str(folder)!r} holds a checkpoint of another run: {'; '.join(differs)}. Name another folder, or delete this one if "
            "that run is no longer needed."
        )
        raise ValueError(msg)
    logg.warning(
        f"{str(last)!r} belongs to this run, which starts again, since ckpt_path is not given: the first new "
        f"checkpoint renames it to {PREVIOUS!r}, the second replaces it."
    )


def replace_last(trainer: Trainer, folder: Path, *, keep: bool) -> None:
    """Write ``last.ckpt`` of a run, after which the one before becomes ``previous.ckpt`` if it is to be kept.

    There is a whole ``last.ckpt`` at every moment, where files can have two names.
    """
    part, last, previous = folder / f".{LAST}.part", folder / LAST, folder / PREVIOUS
    trainer.save_checkpoint(part, weights_only=False)
    if not trainer.is_global_zero:
        return
    if keep and last.exists():
        second = folder / f".{LAST}.{PREVIOUS}"
        second.unlink(missing_ok=True)
        try:
            os.link(last, second)
        except OSError:
            last.replace(previous)
        else:
            second.replace(previous)
    part.replace(last)
    sync(folder)
