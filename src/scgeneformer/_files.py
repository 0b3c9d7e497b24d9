"""Files of cells, checked before the work and replaced as a whole after it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from glob import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

FORMATS = (".h5ad", ".h5mu", ".zarr")
READABLE = (*FORMATS, ".h5")
EXISTS = "{} exists. Give --overwrite to replace it, or choose another name."
ZARR_METADATA = {"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"}
ZARR_CHUNK = re.compile(r"(c|\d+)([./]\d+)*")  # below its array, of both versions of the format


def read(path: Path) -> AnnData | MuData:
    """Read a file of one of the `FORMATS`, or counts of Cell Ranger in ``.h5``, into memory."""
    check_no_pipe(path)
    if path.suffix == ".h5mu":
        import mudata

        return mudata.read_h5mu(path)
    if path.suffix == ".h5":
        import scanpy as sc

        adata = sc.read_10x_h5(path)
        adata.var_names_make_unique()
        return adata
    import anndata

    return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device to a file of safetensors, with the permissions of any new file.

    Safetensors leaves its files to their owner alone, and folders of models are shared. Transformers and peft want to read ``"format": "pt"``.
    """
    from safetensors.torch import save_file

    save_file({name: values.detach().cpu().contiguous() for name, values in tensors.items()}, path, {"format": "pt"})
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def check_no_pipe(path: Path) -> None:
    """Raise if `path` is a pipe, socket or device: a reader of HDF5 would wait forever, and needs to go back and forth in a file.

    Raises
    ------
    ValueError
        If it is.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        msg = (
            f"{path} is not a file but a pipe or a device, which cannot be read in any order. Write it to a file first."
        )
        raise ValueError(msg)


def write(data: AnnData | MuData, path: Path) -> None:
    """Write `data` in the format that the suffix of `path` names, see :func:`replace`."""
    writers = {".h5mu": "write", ".zarr": "write_zarr", ".h5ad": "write_h5ad"}
    replace(path, getattr(data, writers[path.suffix]))


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or folder beside `path`, then put it in the place of `path`.

    A killed process leaves `path` as it was, or new. Between the two renames that exchange a folder, it is in neither place, and
    :func:`recover` puts it back.
    """
    path = path.resolve()  # what a link points to, not the link
    name = f".{path.name}.{uuid.uuid4().hex[:8]}"
    new, old = path.with_name(f"{name}.unfinished"), path.with_name(f"{name}.replaced")
    try:
        write(new)
        if path.is_dir():
            path.rename(old)
        elif path.exists():
            shutil.copymode(path, new)
        new.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(new) if new.is_dir() else new.unlink(missing_ok=True)
        raise
    if old.exists():
        shutil.rmtree(old)


def recover(path: Path) -> list[str]:
    """Put back a folder that a killed process had moved aside, and report this and what else such a process left."""
    path = path.resolve()
    notes = []
    replaced = sorted(path.parent.glob(f".{escape(path.name)}.????????.replaced"))
    if replaced and not path.exists():
        replaced.pop().rename(path)
        notes.append(f"put back {path}, which an interrupted run had moved aside")
    remains = [*replaced, *sorted(path.parent.glob(f".{escape(path.name)}.????????.unfinished"))]
    return notes + [f"{left} is left from an interrupted run: delete it if no other run is writing" for left in remains]


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise unless a file, or a zarr folder, can be written to `path` without loss of what is not to be replaced.

    Raises
    ------
    OSError
        If there is no folder for it, it or its folder is not writable, it is a folder instead of a file, or the reverse, or it exists and
        `overwrite` is False.
    ValueError
        If it is or lies in a folder that has more in it than an AnnData in zarr.
    """
    path = path.resolve()
    _check_place(path)
    if not path.parent.is_dir():
        msg = f"There is no folder {path.parent} to write {path.name} to. Create it first."
        raise FileNotFoundError(msg)
    if path.suffix == ".zarr":
        if path.exists() and not path.is_dir():
            msg = f"{path} is a file, but a zarr store is a folder. Choose another name."
            raise NotADirectoryError(msg)
        foreign = _foreign(path) if path.is_dir() and any(path.iterdir()) else None
        if foreign is not None:
            msg = f"{foreign} is not part of an AnnData in zarr, and would be lost if {path} were replaced. Choose another output."
            raise ValueError(msg)
    elif path.is_dir():
        msg = f"{path} is a folder, not a file. Choose another name."
        raise IsADirectoryError(msg)
    if path.exists() and not os.access(path, os.W_OK):
        msg = f"{path} is read-only. Choose another name."
        raise PermissionError(msg)
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(EXISTS.format(path))
    _check_writable(path.parent)


def check_folder(path: Path) -> None:
    """Raise unless `path` is a folder to which one can write, or can be made one.

    Raises
    ------
    OSError
        If it is a file, or cannot be written.
    ValueError
        If it is in a zarr store.
    """
    path = path.resolve()
    _check_place(path)
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        msg = f"{nearest} is a file, not a folder. Choose another name."
        raise NotADirectoryError(msg)
    _check_writable(nearest)


def _check_place(path: Path) -> None:
    store = next((folder for folder in path.parents if folder.suffix == ".zarr"), None)
    if store is not None:
        msg = f"{path} would be in the zarr store {store}. Choose another folder."
        raise ValueError(msg)


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"Cannot write to folder {folder}: {error.strerror}."
        raise PermissionError(msg) from error


def _foreign(store: Path) -> Path | None:
    """The first path in a folder that no AnnData in zarr has, the folder itself if it is none."""
    attributes = _json(store / ".zattrs") | _json(store / "zarr.json").get("attributes", {})
    return _foreign_in(store) if attributes.get("encoding-type") == "anndata" else store


def _foreign_in(node: Path) -> Path | None:
    """The first path in a group or array of zarr that zarr has not written, the node itself if it is neither."""
    inside = [path for path in sorted(node.iterdir()) if path.name not in ZARR_METADATA]
    if (node / ".zarray").exists() or _json(node / "zarr.json").get("node_type") == "array":
        chunks = (path for top in inside for path in (top, *sorted(top.rglob("*"))))
        return next((path for path in chunks if not ZARR_CHUNK.fullmatch(path.relative_to(node).as_posix())), None)
    if not ((node / ".zgroup").exists() or (node / "zarr.json").exists()):
        return node
    found = (_foreign_in(path) if path.is_dir() else path for path in inside)
    return next((path for path in found if path is not None), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
