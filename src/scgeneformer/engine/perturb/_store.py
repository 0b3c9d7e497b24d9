"""Finished parts of a long computation in a folder, so that it can be stopped, gone on with, and shared by several processes."""

from __future__ import annotations

import io
import json
import os
import uuid
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

_MANIFEST = "run.json"
_COUNT = "n_arrays"  # in each part, beside its arrays
_DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError)  # what np.load says


class Store:
    """A folder that holds parts of one run.

    Parameters
    ----------
    folder
        Made if it is not there.
    run
        What the run depends on, each by a name that a user knows. Kept in ``run.json``.

    Raises
    ------
    ValueError
        If the folder holds parts of a run that differs from `run`; the error names in what.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, object]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        run = json.loads(json.dumps(run))  # as it will be read
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            before = _read_manifest(manifest)
            changed = [name for name in {**before, **run} if before.get(name) != run.get(name)]
            if changed:
                was = "; ".join(f"{name} was {before.get(name)!r} and is {run.get(name)!r}" for name in changed)
                msg = f"The folder {str(self.folder)!r} holds parts of another run: {was}. Use another folder, or remove it."
                raise ValueError(msg)
        text = json.dumps(run, indent=2)
        _write_whole(
            manifest, lambda file: file.write(text.encode())
        )  # also when it is there: tells that one can write

    def path(self, part: int) -> Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{part:06d}.npz"

    def read(self, part: int) -> dict[str, np.ndarray] | None:
        """A finished part; None if it is not there, or damaged."""
        try:
            content = self.path(part).read_bytes()
        except FileNotFoundError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = dict(arrays)
        except _DAMAGED:
            return None
        # a damaged directory may hide an array from the reader, which does not notice
        return found if found.pop(_COUNT, None) == len(found) else None

    def write(self, part: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished part: it is there whole, or not at all."""
        counted = {**arrays, _COUNT: np.array(len(arrays))}
        _write_whole(self.path(part), lambda file: np.savez(file, **counted))  # type: ignore[arg-type]  # none is named allow_pickle


def _read_manifest(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        msg = f"{str(path)!r} does not tell of a run. Use another folder, or remove it."
        raise ValueError(msg)
    return found


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    # not by tempfile, whose files others that share the folder may not read
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
