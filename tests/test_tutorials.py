"""Tutorials and pages call what exists, notebooks carry the outputs of one run from top to bottom, and the treatment runs on fewer cells."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import anndata as ad
import pytest

import scgeneformer as sg

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def sources(path: Path) -> list[str]:
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in code_cells(path)]
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def calls(source: str) -> list[tuple[list[str], list[str]]]:
    """Names after ``sg.`` and keywords of every call in `source`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        (ast.unparse(node.func).split(".")[1:], [word.arg for word in node.keywords if word.arg is not None])
        for node in nodes
        if re.fullmatch(r"sg(\.\w+)+", ast.unparse(node.func))
    ]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.name)
def test_every_call_exists_and_takes_these_keywords(path: Path):
    for names, keywords in [call for source in sources(path) for call in calls(source)]:
        target = sg
        for name in names:
            target = getattr(target, name)
        unknown = set(keywords) - set(inspect.signature(target).parameters)
        assert not unknown, f"sg.{'.'.join(names)} has no {unknown}"


def test_calls_are_found():
    source = "x = sg.tl.perturb(adata, genes=['A'], **states)\nsg.settings.progress = False\nf(sg.get.shifts(x))"
    assert calls(source) == [(["tl", "perturb"], ["genes"]), (["get", "shifts"], [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_was_run_from_top_to_bottom_without_errors(path: Path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output["output_type"] for output in outputs if output["output_type"] == "error"]
    # warnings and progress bars are no part of a lesson
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]


def test_the_treatment_tutorial_runs_on_a_fifth_of_its_cells(shared: Path, monkeypatch: pytest.MonkeyPatch):
    import matplotlib.pyplot as plt

    read = ad.read_h5ad
    monkeypatch.setenv("SCGENEFORMER_SHARED", str(shared))
    monkeypatch.setattr(ad, "read_h5ad", lambda path: read(path)[::5].copy())
    monkeypatch.setattr(sg.settings, "progress", sg.settings.progress)  # which the notebook sets
    names: dict = {}
    for source in sources(ROOT / "tutorials" / "treatment.ipynb"):
        exec(compile(source, "treatment.ipynb", "exec"), names)
        plt.close("all")
    top = names["deleted"].index[:100]
    assert len({"IFI6", "ISG15", "RSAD2", "IFIT1", "CXCL10"} & set(top)) >= 3  # it finds interferon, on few cells too
