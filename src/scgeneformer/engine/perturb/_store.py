"""Finished parts of a long computation in a folder, so that it can be interrupted and resumed."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._run_folder import LOCK, locked, remove_unfinished, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MANIFEST = "run.json"
_SHA256 = "sha256"  # in each part, beside its arrays
_COUNT = "n_arrays"  # the same in parts of earlier versions
_PATIENCE = 60.0  # seconds, for another process to write the manifest
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
        self.run: dict[str, object] = json.loads(json.dumps(run))  # as it will be read
        with locked(self.folder, "checkpoint", wait=_PATIENCE):
            remove_unfinished(self.folder, _MANIFEST)
            self._remember()

    def _remember(self) -> None:
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            before = _read_manifest(manifest)
            changed = [name for name in {**before, **self.run} if before.get(name) != self.run.get(name)]
            if changed:
                was = "; ".join(f"{name} was {before.get(name)!r} and is {self.run.get(name)!r}" for name in changed)
                msg = f"The folder {str(self.folder)!r} holds parts of another run: {was}. Use another folder, or remove it."
                raise ValueError(msg)
        text = json.dumps(self.run, indent=2)
        # also if it exists: shows that the folder can be written to
        write_whole(manifest, lambda path: path.write_text(text, encoding="utf-8"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from computing parts, and remove what killed ones left unfinished.

        Raises
        ------
        BlockingIOError
            If another process computes them.
        """
        with locked(self.folder, "checkpoint", name=f"{LOCK}-parts"):
            remove_unfinished(self.folder, "part-[0-9]*.npz")
            yield

    def path(self, part: int) -> Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{part:06d}.npz"

    def read(self, part: int) -> dict[str, np.ndarray] | None:
        """A finished part; None if it is not there, damaged or altered, of another run or number, or without a checksum."""
        try:
            content = self.path(part).read_bytes()
        except FileNotFoundError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = dict(arrays)
        except _DAMAGED:
            return None
        n_arrays, sha256 = found.pop(_COUNT, None), found.pop(_SHA256, None)
        if sha256 is None and n_arrays == len(found):
            msg = (
                f"Parts in {str(self.folder)!r} were written by an earlier version, without checksums: they are "
                "computed again."
            )
            warnings.warn(msg, stacklevel=2)
        return found if sha256 is not None and np.array_equal(sha256, _digest(self.run, part, found)) else None

    def write(self, part: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished part: it is there whole, or not at all."""
        sealed = {**arrays, _SHA256: _digest(self.run, part, arrays)}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **sealed)  # type: ignore[arg-type]  # none is named allow_pickle

        write_whole(self.path(part), write)


def _read_manifest(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        msg = f"{str(path)!r} does not describe a run. Use another folder, or remove it."
        raise ValueError(msg)
    return found


def _digest(run: Mapping[str, object], part: int, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sha256 of a part: of its arrays, its number and its run, uint8 (32,)."""
    sha256 = hashlib.sha256(json.dumps([run, part], sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        sha256.update(repr((name, array.shape, array.dtype.str)).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return np.frombuffer(sha256.digest(), np.uint8)
