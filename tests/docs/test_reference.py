"""The reference lists what is public: every function, every class, and every method and attribute that our classes give it."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# `engine` and `stats` are what the tools are made of; their functions of arrays are no public promise
ROOMS = (sg.pp, sg.tl, sg.pl, sg.get, sg.datasets, sg.evaluation, sg.hub, sg.model, sg.nn)
PAGES = (
    "docs",
    "src/scgeneformer/hub/default/README.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)  # with those that are included


def public_objects() -> Iterator[tuple[str, object]]:
    """Name in the documentation and object, of everything that a user may import."""
    yield "scgeneformer.Vocabulary", sg.Vocabulary
    yield "scgeneformer.Reference", sg.Reference
    yield "scgeneformer.read_official", sg.read_official
    yield "scgeneformer.export_official", sg.export_official
    yield "scgeneformer._settings.Settings", type(sg.settings)
    for room in ROOMS:
        yield from ((f"{room.__name__}.{name}", getattr(room, name)) for name in room.__all__)


def members(cls: type) -> set[str]:
    """Public methods and attributes that come from classes of this package, inherited ones too."""
    fields = set(getattr(cls, "__dataclass_fields__", ()))
    for ancestor in cls.__mro__:
        if ancestor.__module__.startswith("scgeneformer"):
            fields |= set(vars(ancestor))
    return {name for name in fields if not name.startswith("_")}


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the inventory of the documentation, which is built without warnings from a copy of its pages."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed (dependency group doc)")
    from sphinx.util.inventory import InventoryFile

    folder = tmp_path_factory.mktemp("documentation")
    for name in PAGES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "docs":
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("_build", "generated"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        folder / "docs",
        folder / "html",
    ]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    inventory = InventoryFile.loads((folder / "html" / "objects.inv").read_bytes(), uri="")
    return {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}


def test_every_public_object_and_each_of_its_members_is_in_the_reference(documented: set[str]):
    public = {
        name
        for path, value in public_objects()
        for name in (path, *(f"{path}.{member}" for member in (members(value) if inspect.isclass(value) else ())))
    }
    assert not sorted(public - documented)
