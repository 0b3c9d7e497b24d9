"""References in folders: arrays as ``.npy``, the table of cells as ``.h5ad``, and the rest, with all checksums, as JSON."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from scgeneformer import stats
from scgeneformer._run_folder import check_writable

if TYPE_CHECKING:
    from ._reference import Reference

MANIFEST, CELLS = "reference.json", "cells.h5ad"
ARRAYS = ("points", "neighbors", "distances")
FORMAT = "scgeneformer reference 1"
LARGEST_MANIFEST = 1 << 20  # bytes
FIELDS: dict[str, tuple[type, ...]] = {  # of a `Reference`, other than its arrays and table
    "labels": (str,),
    "use_rep": (str,),
    "embedding": (dict,),
    "n_neighbors": (int,),
    "metric": (str,),
    "exact": (bool,),
    "donor": (str, type(None)),
    "n_held_out": (int,),
    "seed": (int,),
}


def save(reference: Reference, folder: Path, *, overwrite: bool) -> None:
    """Write `reference` to `folder`; files that are there are replaced once everything is written.

    Raises
    ------
    ValueError
        If there is a reference, and it must not be overwritten.
    OSError
        If the folder cannot be written.
    """
    if (folder / MANIFEST).exists() and not overwrite:
        msg = f"{folder} holds a reference. Choose another folder, or pass overwrite=True."
        raise ValueError(msg)
    for name, column in reference.cells.items():
        if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.inferred_type.startswith("mixed"):
            msg = f"Column {name!r} of the reference has labels of several types, which no file can hold. Convert them to strings, and make the reference again."
            raise ValueError(msg)
    folder = check_writable(folder, "folder")
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as name:
        part = Path(name)
        table = reference.cells.set_axis([str(i) for i in range(reference.cells.shape[1])], axis=1)
        # first, since what cannot be written should fail before distances are computed
        AnnData(obs=table).write_h5ad(part / CELLS)
        arrays = (reference.points, reference.left_out.indices, reference.left_out.distances)
        for name, array in zip(ARRAYS, arrays, strict=True):
            np.save(part / f"{name}.npy", array, allow_pickle=False)
        content = {
            "format": FORMAT,
            **{name: getattr(reference, name) for name in FIELDS},
            "columns": list(reference.cells),
            "sha256": {path.name: _sha256(path) for path in sorted(part.iterdir())},
        }
        (part / MANIFEST).write_text(json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n")
        # a folder without it is not a reference, so files of two are never taken for one
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: path.name == MANIFEST):
            path.replace(folder / path.name)


def load(folder: Path) -> tuple[dict[str, Any], stats.Neighbors]:
    """Fields of the `Reference` in `folder`, and the neighbours of its cells.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, altered, or of a newer format.
    """
    content = _manifest(folder / MANIFEST)
    for name, sha256 in content["sha256"].items():
        _check_file(folder / name, sha256)
    points, neighbors, distances = (_array(folder / f"{name}.npy") for name in ARRAYS)
    cells = _table(folder / CELLS, content)
    n, n_held_out = len(cells), content["n_held_out"]
    n_searched, n_standard = n - n_held_out, n_held_out or n
    fits = points.ndim == neighbors.ndim == 2 and points.dtype == np.float32 and points.shape[1] > 0
    fits = fits and len(points) == n and 0 <= n_held_out < n
    fits = fits and neighbors.shape == distances.shape and len(neighbors) == n_standard
    fits = fits and 0 < neighbors.shape[1] <= content["n_neighbors"] <= n_searched
    fits = fits and neighbors.dtype.kind == "i" and distances.dtype.kind == "f"
    fits = fits and 0 <= neighbors.min() <= neighbors.max() < n_searched
    if not fits or not distances.min() >= 0 or not np.isfinite([points.min(), points.max(), distances.max()]).all():
        raise _damaged(folder, "its arrays do not fit each other")
    fields = {"points": points, "cells": cells, **{name: content[name] for name in FIELDS}}
    return fields, stats.Neighbors(neighbors, distances)


def _manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"There is no {MANIFEST} in {str(path.parent)!r}. Pass the folder that `Reference.save` wrote."
        raise FileNotFoundError(msg)
    if path.stat().st_size > LARGEST_MANIFEST:
        raise _damaged(path, "it is too large")
    try:
        content = json.loads(path.read_bytes())
        version, checksum = content["format"], content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, "it is not the manifest of a reference") from None
    if version != FORMAT:
        msg = f"{path} is in the format {version!r}, but this version of scgeneformer reads {FORMAT!r}. Install a newer one, or save the reference again."
        raise ValueError(msg)
    if checksum != _checksum(content):
        raise _damaged(path, "it was altered")
    kinds_of = {**FIELDS, "columns": (list,), "sha256": (dict,)}
    fits = all(isinstance(content.get(name), kinds) for name, kinds in kinds_of.items())
    files = {CELLS, *(f"{name}.npy" for name in ARRAYS)}
    fits = fits and set(content["sha256"]) == files and content["metric"] in ("euclidean", "cosine")
    if not fits or content["seed"] < 0:
        raise _damaged(path, "its entries are not those of a reference")
    return content


def _array(path: Path) -> np.ndarray:
    """Array in a file, read where it is used."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError):
        raise _damaged(path, "it is not an array of numbers") from None


def _table(path: Path, content: dict[str, Any]) -> pd.DataFrame:
    """Table of cells, with the labels and donors that the manifest names."""
    columns = content["columns"]
    try:
        cells = read_h5ad(path).obs
        cells = cells[[str(i) for i in range(len(columns))]].set_axis(pd.Index(columns), axis=1)
        needed = [content["labels"], *([] if content["donor"] is None else [content["donor"]])]
        whole = all(isinstance(cells[name].dtype, pd.CategoricalDtype) and cells[name].notna().all() for name in needed)
    except Exception:  # noqa: BLE001 - HDF5 and anndata raise many kinds
        whole = False
    if not whole:
        raise _damaged(path, "it is not a table of labelled cells")
    return cells


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise _damaged(path, "it is missing")
    if _sha256(path) != sha256:
        raise _damaged(path, "it was altered or truncated: its sha256 differs")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is not what `Reference.save` wrote: {why}. Save the reference again.")
