"""The architecture, checked from the source: which room may import which, the cost of an import, and the form of public functions."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import scgeneformer as sg

SRC = Path(sg.__file__).parent
FLOORS = [  # imports point to lower lines, or stay within a room
    {"_arguments"},
    {"_settings", "_version", "_docs", "_files", "_log", "_pickles", "_process", "_run_folder"},
    {"_gene_sets", "_cluster"},
    {"_keys"},
    {"_slots"},
    {"tokens", "stats", "evaluation"},
    {"nn"},
    {"engine", "hub"},
    {"model", "atlas"},
    {"pp", "tl", "get", "datasets", "official"},
    {"pl"},
    {"_demo", "reporting"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN = {  # libraries that a room must not know
    "tokens": {"torch", "scvi", "mudata", "scanpy"},  # anndata only to read the files of a corpus
    "stats": {"torch", "scvi", "anndata", "mudata", "scanpy"},
    "evaluation": {"torch", "scvi", "anndata", "mudata", "scanpy"},
    "nn": {"scvi", "anndata", "mudata", "scanpy", "numpy"},
    "engine": {"scvi", "anndata", "mudata", "scanpy"},
    "atlas": {"torch", "scvi", "mudata"},
    "hub": {"scvi", "anndata", "mudata", "scanpy"},
    "datasets": {"torch", "scvi"},
    "official": {"torch", "scvi", "mudata"},
    "pp": {"torch", "scvi"},
    "tl": {"scvi"},
    "pl": {"torch", "scvi"},
    "reporting": {"torch", "scvi"},
    "get": {"torch", "scvi"},
}
LONGEST, MOST = 400, 15  # lines of a file, files of a folder


def source_files() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def is_module(name: str) -> bool:
    path = SRC.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> list[tuple[str, bool]]:
    """Each imported module as an absolute name, and whether it is imported for types only."""
    tree = ast.parse(path.read_text())
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    package = ["scgeneformer", *path.relative_to(SRC).parent.parts]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            parts = [f"{module}.{alias.name}" for alias in node.names]
            names = [part if module == "scgeneformer" or is_module(part) else module for part in parts]
            found += [(name, node in for_types) for name in names]
    return found


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path):
    room = room_of(path)
    if room == "__init__":
        return
    for name, for_types in imports(path):
        parts = name.split(".")
        if parts[0] != "scgeneformer" or for_types:
            continue
        other = parts[1] if len(parts) > 1 else "__init__"
        if other in {"__version__", "settings"}:
            continue
        assert other in FLOOR_OF, f"{path.name} imports the whole package"
        assert other == room or FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {other}"


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(SRC)))
def test_rooms_do_not_know_other_worlds(path):
    known = {name.split(".")[0] for name, for_types in imports(path) if not for_types}
    assert not known & FORBIDDEN.get(room_of(path), set())
    if room_of(path) != "model":
        assert "scvi" not in known


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(SRC)))
def test_rooms_are_small(path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in source_files()}), ids=lambda p: str(p.relative_to(SRC))
)
def test_folders_are_small(folder):
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST, f"{len(modules)} files"


def module_of(path: Path) -> str:
    parts = ["scgeneformer", *path.relative_to(SRC).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ROOMS = sorted({room_of(path) for path in source_files() if path.parent != SRC})


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_circles_inside_a_room(room):
    files = {module_of(path): path for path in source_files() if room_of(path) == room}
    graph = {
        name: {other for other, for_types in imports(path) if not for_types} & files.keys() - {name}
        for name, path in files.items()
    }
    TopologicalSorter(graph).prepare()


def test_the_picture_in_the_documentation_shows_every_room():
    picture = (Path(__file__).parents[1] / "docs" / "_static" / "architecture.svg").read_text()
    assert {room for room in ROOMS if f">{room}<" not in picture} == set()


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light():
    heavy = ["torch", "scvi", "lightning", "pynndescent", "matplotlib.pyplot", "transformers"]
    loaded = run(f"import sys, scgeneformer; print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]"


def test_tokenizing_starts_without_scanpy_and_torch():
    """Importing them takes seconds, as long as a small job. Files are read by anndata, and scanpy is needed only to show messages."""
    code = (
        "import sys, warnings, numpy as np, anndata as ad, scgeneformer as sg; warnings.simplefilter('ignore'); "
        "ids = sg.hub.vocabulary('default').ids[4:104]; cells = ad.AnnData(np.random.default_rng(0).geometric(0.5, (3, 100)).astype(np.float32)); cells.var_names = ids; "
        "sg.pp.tokenize(cells, 'default'); print([m for m in ['scanpy', 'torch', 'sklearn', 'matplotlib'] if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_import_takes_less_than_a_second_beyond_anndata_and_scanpy():
    """Processor time, the best of three, so that a busy machine does not fail it."""
    code = (
        "import time, anndata, scanpy; start = time.process_time(); import scgeneformer; "
        "print(time.process_time() - start)"
    )
    assert min(float(run(code)) for _ in range(3)) < 1


PUBLIC = [
    pytest.param(function, id=f"{room.__name__.split('.')[-1]}.{name}")
    for room in (sg.pp, sg.tl, sg.pl, sg.get)
    for name, function in inspect.getmembers(room, inspect.isfunction)
    if not name.startswith("_") and function.__module__.startswith("scgeneformer")
]
OF_MODELS = {sg.pl.training}  # what they show is in a model


@pytest.mark.parametrize("function", PUBLIC)
def test_signatures(function):
    parameters = inspect.signature(function).parameters
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(positional) <= 3
    assert positional[0].name == ("model" if function in OF_MODELS else "adata")
    if function not in OF_MODELS:
        assert parameters["mod"].default == "rna"
        assert parameters["mod"].kind is inspect.Parameter.KEYWORD_ONLY
    if "copy" in parameters:
        assert parameters["copy"].default is False
        assert parameters["copy"].kind is inspect.Parameter.KEYWORD_ONLY
        assert "None" in str(inspect.signature(function).return_annotation)
    assert "save" not in parameters


@pytest.mark.parametrize("function", PUBLIC)
def test_every_parameter_is_documented(function):
    text = inspect.getdoc(function)
    documented = {
        name.strip()
        for line in text.splitlines()
        if line and not line.startswith((" ", "-", "."))
        for name in line.split(",")
    }
    assert set(inspect.signature(function).parameters) <= documented
