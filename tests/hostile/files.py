"""Model folders, vocabularies and checkpoints of perturbations that are damaged."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATES = {"groupby": "state", "source": "sick", "target": "well"}
N_FLIPS = 40  # of each file


def _copy(source: Path) -> Path:
    place = Path(tempfile.mkdtemp(prefix="hostile-")) / "copy"
    shutil.copytree(source, place)
    return place


def _states(folder: Path) -> torch.Tensor:
    """The states of a cell by the model in a folder."""
    pretrained = sg.hub.load(folder)
    tokens = torch.from_numpy(np.asarray(world.tokenized().obsm["geneformer_tokens"][:2], dtype=np.int64))
    with torch.no_grad():
        return pretrained.encoder(tokens, tokens > 0)


def _flip(path: Path, rng: np.random.Generator) -> str:
    content = bytearray(path.read_bytes())
    at, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
    content[at] ^= bit
    path.write_bytes(bytes(content))
    return f"bit {bit} of byte {at} of {path.name}"


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 250 of them."""
    names = sorted(path.name for path in world.folder().iterdir() if path.is_file())
    vocabulary = next(name for name in names if name.startswith("vocabulary"))
    for name in ("config.json", vocabulary):
        for _ in range(N_FLIPS):
            place = _copy(world.folder())
            what = _flip(place / name, rng)
            yield Case(what, lambda p=place: _states(p), answer=_readable)
        for size in (0, 1, 10, -1):
            place = _copy(world.folder())
            content = (place / name).read_bytes()
            (place / name).write_bytes(content[:size])
            harmless = (name, size) == ("config.json", -1)  # the end of the last line
            yield Case(f"{name} cut at {size}", lambda p=place: _states(p), answer=_readable if harmless else None)
    for size in (0, 1, 7, 8, 100, -1):
        place = _copy(world.folder())
        content = (place / "model.safetensors").read_bytes()
        (place / "model.safetensors").write_bytes(content[:size])
        yield Case(f"weights cut at {size}", lambda p=place: _states(p))
    for _ in range(N_FLIPS):  # in the header, since of weights any number is one
        place = _copy(world.folder())
        content = bytearray((place / "model.safetensors").read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        at, bit = int(rng.integers(header)), 1 << int(rng.integers(8))
        content[at] ^= bit
        (place / "model.safetensors").write_bytes(bytes(content))
        yield Case(f"bit {bit} of byte {at} of the header of the weights", lambda p=place: _states(p), answer=_readable)
    for name in names:
        place = _copy(world.folder())
        (place / name).unlink()
        yield Case(f"no {name}", lambda p=place: _states(p))
        (place / name).mkdir()
        yield Case(f"{name} is a folder", lambda p=place: _states(p))
    yield from _configs()
    yield from _parts(rng)


def _readable(result: torch.Tensor) -> bool:
    """A flipped bit in a name that is not read, or in white space: the result is a finite state of the right shape."""
    return bool(torch.isfinite(result).all()) and result.ndim == 3


def _configs() -> Iterator[Case]:
    changes: dict[str, tuple[object, ...]] = {
        "num_hidden_layers": (0, -1, 3, 1.5, "2", None, 10**9),
        "hidden_size": (0, -1, 15, 17, "16", None, 10**9),
        "num_attention_heads": (0, -1, 3, "2", None),
        "intermediate_size": (0, -1, 25, "24", None, 10**12),
        "vocab_size": (0, -1, 5, 10**9, "x", None),
        "max_position_embeddings": (0, -1, 32, "64", None, 10**9),
        "hidden_act": ("none", 3, None),
    }
    for name, values in changes.items():
        for value in values:
            place = _copy(world.folder())
            content = json.loads((place / "config.json").read_text())
            content[name] = value
            (place / "config.json").write_text(json.dumps(content))
            yield Case(f"config, {name}={value!r}", lambda p=place: _states(p))
    for text in ("[]", "3", '"text"', "null", "{", ""):
        place = _copy(world.folder())
        (place / "config.json").write_text(text)
        yield Case(f"config is {text!r}", lambda p=place: _states(p))


def _parts(rng: np.random.Generator) -> Iterator[Case]:
    """Parts of a perturbation: damaged parts are computed again, so values are those of an undisturbed run."""
    whole = world.tokenized()
    place = Path(tempfile.mkdtemp(prefix="hostile-")) / "parts"
    sg.tl.perturb(whole, world.model(), **STATES, checkpoint=place)
    expected = whole.layers["shift"]

    def same(found: object) -> bool:
        return np.array_equal(found.indices, expected.indices) and np.allclose(found.data, expected.data, atol=1e-7)

    def resume(folder: Path) -> object:
        adata = world.tokenized()
        sg.tl.perturb(adata, world.model(), **STATES, checkpoint=folder)
        return adata.layers["shift"]

    files = sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
    for name in files:
        for _ in range(15):
            folder = _copy(place)
            if len((folder / name).read_bytes()) == 0:
                continue
            what = _flip(folder / name, rng)
            yield Case(f"resumed with {what}", lambda f=folder: resume(f), answer=same)
        for change in _changes():
            folder = _copy(place)
            change(folder / name)
            yield Case(f"resumed with {name} {change.__name__}", lambda f=folder: resume(f), answer=same)


def _changes() -> tuple[Callable[[Path], object], ...]:
    def emptied(path: Path) -> object:
        return path.write_bytes(b"")

    def halved(path: Path) -> object:
        return path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def removed(path: Path) -> object:
        return path.unlink()

    return emptied, halved, removed
