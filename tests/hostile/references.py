"""Folders of references that are damaged, or forged with the right checksums."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

import scgeneformer as sg

from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

N_FLIPS = 15  # of each file
ARRAYS = ("points", "neighbors", "distances")


def _cells(seed: int) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"type": pd.Categorical(list("ab") * 20), "donor": list("wxyz") * 10}, index=map(str, range(40)))
    return ad.AnnData(obs=obs, obsm={"X_geneformer": rng.normal(size=(40, 4)).astype(np.float32)})


@cache
def folder() -> Path:
    """Folder of an intact reference."""
    place = Path(tempfile.mkdtemp(prefix="hostile-")) / "reference"
    sg.Reference.from_adata(_cells(0), "type", donor="donor").save(place)
    return place


@cache
def expected() -> np.ndarray:
    """Novelty by the intact reference."""
    query = _cells(1)
    sg.tl.transfer(query, folder(), key_added="new")
    return query.obs["new_novelty"].to_numpy()


def _copy() -> Path:
    place = Path(tempfile.mkdtemp(prefix="hostile-")) / "copy"
    shutil.copytree(folder(), place)
    return place


def _case(name: str, place: Path) -> Case:
    query = _cells(1)

    def call() -> np.ndarray:
        sg.tl.transfer(query, place, key_added="new")
        return query.obs["new_novelty"].to_numpy()

    return Case(name, call, data=query, answer=lambda novelty: np.array_equal(novelty, expected()))


def _forge(place: Path, **changes: Any) -> None:
    """Change entries of the manifest, and make all checksums right."""
    path = place / "reference.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    for name in content["sha256"]:
        if (place / name).is_file():
            content["sha256"][name] = hashlib.sha256((place / name).read_bytes()).hexdigest()
    for name, value in changes.items():
        content.pop(name, None)
        content |= {} if value is KeyError else {name: value}
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"checksum": checksum}))


def _wrong_arrays() -> Iterator[tuple[str, bytes]]:
    whole = {name: np.load(folder() / f"{name}.npy") for name in ARRAYS}
    for name, array in whole.items():
        changed = {
            "objects": array.astype(object),
            "cut": array[:-1],
            "scalar": array[0, 0],
            "empty": array[:0],
            "one more axis": array[None],
            "complex": array.astype(complex),
            "strings": array.astype(str),
            "records": np.zeros(40, dtype=[("x", "f4")]),
            "narrow": array[:, :0],
        }
        if name == "neighbors":
            changed |= {"beyond": array + 40, "negative": array - 41, "fractions": array + 0.5}
        if name != "neighbors":
            changed["NaN"] = np.full_like(array, np.nan)
        if name == "distances":
            changed["below 0"] = -array - 1
        for what, value in changed.items():
            file = io.BytesIO()
            np.save(file, value, allow_pickle=True)
            yield f"{name}.npy {what}", file.getvalue()
        yield (
            f"{name}.npy huge",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }".ljust(127)
            + b"\n",
        )
        yield f"{name}.npy no array", b"\x93NUMPY\x01\x00\x10\x00not a dictionary"
        yield f"{name}.npy pickle", b"\x80\x04cos\nsystem\n."


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 200 of them."""
    names = sorted(path.name for path in folder().iterdir())
    for name in names:
        for _ in range(N_FLIPS):
            place = _copy()
            content = bytearray((place / name).read_bytes())
            at, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
            content[at] ^= bit
            (place / name).write_bytes(bytes(content))
            yield _case(f"bit {bit} of byte {at} of {name}", place)
        for size in (0, 1, 100, -1):
            place = _copy()
            (place / name).write_bytes((place / name).read_bytes()[:size])
            yield _case(f"{name} cut at {size}", place)
        place = _copy()
        (place / name).unlink()
        yield _case(f"no {name}", place)
        (place / name).mkdir()
        yield _case(f"{name} is a folder", place)
    for text in ("[]", "3", "null", "{}", '{"format": "scgeneformer reference 1"}', "[" * 100_000):
        place = _copy()
        (place / "reference.json").write_text(text)
        yield _case(f"manifest is {text[:40]!r}", place)
    for what, content in _wrong_arrays():
        place = _copy()
        (place / what.split()[0]).write_bytes(content)
        _forge(place)
        yield _case(f"forged: {what}", place)
    yield from _forged_manifests()


def _forged_manifests() -> Iterator[Case]:
    changes: dict[str, tuple[object, ...]] = {
        "format": ("scgeneformer reference 2", 1, KeyError),
        "labels": ("donor ", "nothing", 3, KeyError),
        "use_rep": (3, None, "X_pca"),
        "n_neighbors": (0, -1, 41, 1.5, "15", KeyError),
        "metric": ("l1", None, 3),
        "exact": (None, "no"),
        "donor": ("nothing", 3),
        "n_held_out": (-1, 1, 40, 41, "0"),
        "seed": (-1, None, 0.5),
        "columns": ([], ["type"], ["type", "donor", "more"], 3, None, {"a": 1}),
        "sha256": ({}, None, 3, {"../reference.json": "0"}),
        "embedding": (None, 3, [1]),
    }
    for name, values in changes.items():
        for value in values:
            place = _copy()
            _forge(place, **{name: value})
            yield _case(f"forged: {name}={value!r}", place)
    for what, table in {
        "numbers": pd.DataFrame({"0": np.arange(40.0), "1": pd.Categorical(list("wxyz") * 10)}),
        "missing labels": pd.DataFrame({"0": pd.Categorical(["a", None] * 20), "1": pd.Categorical(list("wxyz") * 10)}),
        "fewer cells": pd.DataFrame({"0": pd.Categorical(list("ab") * 15), "1": pd.Categorical(list("wxy") * 10)}),
        "no columns": pd.DataFrame(index=range(40)),
    }.items():
        place = _copy()
        ad.AnnData(obs=table.set_axis([str(i) for i in range(len(table))])).write_h5ad(place / "cells.h5ad")
        _forge(place)
        yield _case(f"forged: table with {what}", place)
    place = _copy()
    (place / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 500)
    _forge(place)
    yield _case("forged: table that is no HDF5", place)
