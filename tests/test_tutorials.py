"""Tutorials and pages call existing functions; notebooks contain the outputs and pictures of one run from top to bottom, and run on fewer cells."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from packaging.requirements import Requirement

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CELLS = set(sg.datasets.__all__) - {"gene_classes", "interactions", "read_gene_sets", "trrust"}


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
    # warnings and progress bars do not belong in a tutorial
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]


def plots(source: str) -> bool:
    """Whether a cell draws: calls of ``sg.pl`` and ``sc.pl``, or of a function of the notebook that is named ``show_...``."""
    names = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return "def show_" not in source and any(re.match(r"s[gc]\.pl\.|show_", name) for name in names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_that_plots_holds_a_picture(path: Path):
    for cell in code_cells(path):
        if plots("".join(cell["source"])):
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_name_no_folder_of_the_machine(path: Path):
    outputs = json.dumps([cell["outputs"] for cell in code_cells(path)])
    assert not re.search(r"/(home|root|tmp|Users|work|private)/", outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_of_a_notebook_are_addresses_of_pages_that_exist(path: Path):
    # Colab has no folder around a notebook, and Sphinx follows the link docs/tutorials before it resolves `../page.md`
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("#")]
    assert all(link.startswith("https://") for link in links), links
    start = f"{project['urls']['Documentation']}en/latest/"
    pages = [link.removeprefix(start).split("#")[0] for link in links if link.startswith(start)]
    sources = [[(ROOT / "docs" / page).with_suffix(suffix) for suffix in (".md", ".ipynb")] for page in pages]
    assert all(any(source.exists() for source in pair) for pair in sources), pages


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_opens_in_colab_and_installs_the_package_there_only(path: Path, monkeypatch: pytest.MonkeyPatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = project["urls"]["Source"]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    address = source.replace("https://github.com", "https://colab.research.google.com/github")
    assert f"({address}/blob/main/tutorials/{path.name})" in "".join(cells[0]["source"])
    installs = compile(sources(path)[0], path.name, "exec")
    commands: list[tuple[str, str]] = []
    shell = SimpleNamespace(run_line_magic=lambda *words: commands.append(words))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    exec(installs, {"get_ipython": lambda: shell})
    assert commands == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(installs, {"get_ipython": lambda: shell})
    ((magic, line),) = commands
    words = [word for word in shlex.split(line) if not word.startswith("-")]
    assert (magic, words.pop(0)) == ("pip", "install")
    requirement, *others = map(Requirement, words)
    assert (requirement.name, requirement.url) == (project["name"], f"git+{source}")
    assert requirement.extras <= set(project["optional-dependencies"])
    used = "\n".join(sources(path))
    assert all(f"import {other.name}" in used for other in others)
    assert ("sg.datasets." in used) == ("datasets" in requirement.extras)
    assert "read_h5ad" not in used  # data come by name


@pytest.fixture
def run(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Run a notebook on every nth cell of its data, with the first two columns for maps unless `maps`, and return its names."""
    import matplotlib.pyplot as plt

    def every_nth(load: Callable[[], ad.AnnData], n: int) -> Callable[[], ad.AnnData]:
        return lambda: load()[::n].copy()

    def no_map(cells: ad.AnnData, **_: object) -> None:
        space = "X_geneformer" if "X_geneformer" in cells.obsm else "X_pca"
        cells.obsm["X_umap"] = np.asarray(cells.obsm[space])[:, :2]

    def run_on(name: str, *, every: int = 1, maps: bool = False) -> dict:
        if sg.settings.data is None:
            monkeypatch.setattr(sg.settings, "data", shared / "data")
        for cells in CELLS:
            monkeypatch.setattr(sg.datasets, cells, every_nth(getattr(sg.datasets, cells), every))
        monkeypatch.setattr(sg.settings, "progress", sg.settings.progress)  # which the notebook sets
        if not maps:
            monkeypatch.setattr(sc.pp, "neighbors", lambda *_, **__: None)
            monkeypatch.setattr(sc.tl, "umap", no_map)
        names: dict = {}
        for source in sources(ROOT / "tutorials" / name):
            exec(compile(source, name, "exec"), names)
            plt.close("all")
        return names

    return run_on


def test_the_treatment_tutorial_runs_on_a_fifth_of_its_cells(run):
    top = run("treatment.ipynb", every=5)["deleted"].index[:100]
    assert len({"IFI6", "ISG15", "RSAD2", "IFIT1", "CXCL10"} & set(top)) >= 3  # it finds interferon, on few cells too


def test_the_integration_tutorial_runs_with_fewer_scores(run, monkeypatch):
    pytest.importorskip("harmonypy")
    import scvi

    from scgeneformer.evaluation import embeddings

    train, tokenize = scvi.model.SCVI.train, sg.pp.tokenize
    monkeypatch.setattr(scvi.model.SCVI, "train", lambda self, **options: train(self, max_epochs=1, **options))
    monkeypatch.setattr(embeddings, "has_scib_metrics", lambda: False)
    monkeypatch.setattr(sg.pp, "tokenize", lambda *args, max_length=64: tokenize(*args, max_length=max_length // 4))
    names = run("integration.ipynb")
    assert names["adata"].uns["embedding_scores"]["scores"].loc["PCA of HVGs", "nmi"] > 0.5


def test_the_reference_tutorial_runs_on_a_third_of_its_cells(run, monkeypatch):
    sample, tokenize = pd.DataFrame.sample, sg.pp.tokenize
    monkeypatch.setattr(pd.DataFrame, "sample", lambda self, n, **options: sample(self, max(n // 3, 5), **options))
    monkeypatch.setattr(sg.pp, "tokenize", lambda *args, max_length: tokenize(*args, max_length=max_length // 2))
    rows = run("reference_atlas.ipynb")["rows"]
    assert rows["bundled model"]["accuracy"] > rows["most frequent label"]["accuracy"] + 0.1


def test_the_cell_states_tutorial_runs_on_a_third_of_its_cells(run, monkeypatch):
    tokenize = sg.pp.tokenize
    monkeypatch.setattr(sg.pp, "tokenize", lambda *args, max_length=128: tokenize(*args, max_length=max_length // 2))
    scores = run("cell_states.ipynb", every=3)["adata"].uns["state_score"]["scores"]
    assert scores.loc["expression", "auroc"] > scores.loc["embedding", "auroc"] > 0.5


def test_the_tutorial_of_networks_and_pairs_runs_on_fewer_cells_and_pairs(run, monkeypatch):
    pytest.importorskip("igraph")
    sample, cross_validate = pd.DataFrame.sample, sg.model.PairClassifier.cross_validate
    monkeypatch.setattr(pd.DataFrame, "sample", lambda self, n, **options: sample(self, n // 2, **options))
    few = {"n_repeats": 1, "max_pairs": 100, "splits": ["both_unseen", "random"]}
    monkeypatch.setattr(
        sg.model.PairClassifier, "cross_validate", lambda self, n, **options: cross_validate(self, n, **options | few)
    )
    auroc = run("networks_and_pairs.ipynb")["cv"].table["auroc"]
    assert auroc["random", "uniform", "degree"] > 0.8  # popular genes suffice
    assert auroc["both_unseen", "degree", "degree"] == 0.5


def test_the_tutorial_of_gene_classes_runs_on_shorter_rows(run, gene_lists, monkeypatch):
    tokenize = sg.pp.tokenize
    monkeypatch.setattr(sg.pp, "tokenize", lambda *args, **options: tokenize(*args, max_length=192, **options))
    monkeypatch.setattr(sg.settings, "data", gene_lists)
    result = run("gene_tasks.ipynb")["result"]
    assert {"interactions", "expression level", "expression profile", "classifier"} <= set(result.index.levels[1])
    assert result.loc[("targets of NOTCH1", "classifier"), "n_rarest"] > 20


def test_the_citeseq_tutorial_runs_on_half_of_its_cells(run):
    pytest.importorskip("muon")
    names = run("citeseq.ipynb", every=2, maps=True)  # muon looks among 200 neighbours, and crashes with fewer cells
    assert (names["r2_table"].mean() > 0).all()  # both say more than the mean
    assert names["mdata"].uns["neighbors"]["params"]["method"]


def test_the_tutorial_of_tokens_runs_on_shorter_rows(run, monkeypatch):
    likelihood = sg.tl.likelihood
    monkeypatch.setattr(sg.tl, "likelihood", lambda *args: likelihood(*args, n_passes=2))
    rows = run("tokenizing.ipynb")["rows"]
    assert rows["shuffled"]["geneformer_loglik"] > 0.95 > rows["shuffled"]["total counts"]
    assert rows["shallow"]["total counts"] > 0.95


def test_the_annotation_tutorial_runs_with_a_short_run(run, monkeypatch):
    train = sg.model.CellClassifier.train
    monkeypatch.setattr(sg.model.CellClassifier, "train", lambda self, **options: train(self, max_steps=5, **options))
    rows = run("annotation.ipynb", every=2)["rows"]
    assert rows["classifier"]["AUROC of 1 - novelty"] > 0.7


def test_the_tutorial_of_adapters_runs_for_an_epoch(run, monkeypatch):
    pytest.importorskip("peft")
    train = sg.model.CellClassifier.train
    few = {"max_epochs": 1}
    monkeypatch.setattr(sg.model.CellClassifier, "train", lambda self, **options: train(self, **options | few))
    names = run("adapters.ipynb", every=2)
    assert names["n_trained"](names["models"]["all weights"]) > names["n_trained"](names["type_alone"]) / 2
    assert names["rows"]["condition"]["both questions"] > 0.5


def test_the_tutorial_of_pretraining_runs_for_an_epoch(run, monkeypatch):
    train = sg.model.Geneformer.train
    few = {"max_epochs": 1}
    monkeypatch.setattr(sg.model.Geneformer, "train", lambda self, **options: train(self, **options | few))
    names = run("pretraining.ipynb")
    assert (
        names["query"].obs["continued_loglik"].mean() > names["query"].obs["bundled_loglik"].mean()
    )  # it reads the other study better


def test_the_tutorial_of_a_disease_runs_on_a_third_of_its_cells(run, monkeypatch):
    by_donor, tokenize, cross_validate = (
        pd.core.groupby.DataFrameGroupBy,
        sg.pp.tokenize,
        sg.model.CellClassifier.cross_validate,
    )
    sample = by_donor.sample
    monkeypatch.setattr(by_donor, "sample", lambda self, n, **options: sample(self, n // 5, **options))
    monkeypatch.setattr(sg.pp, "tokenize", lambda *args, max_length: tokenize(*args, max_length=max_length // 4))
    once = {"n_repeats": 1}
    monkeypatch.setattr(
        sg.model.CellClassifier, "cross_validate", lambda self, n, **options: cross_validate(self, n, **options | once)
    )
    names = run("disease.ipynb", every=3)
    assert names["model"].selected.kept == "probe"
    assert names["rows"]["T cells"]["foreign genes"] > names["rows"]["T cells"]["random genes"] + 0.05


def test_the_tutorial_of_backbones_runs_on_fewer_cells(run):
    names = run("backbones.ipynb", every=8)
    assert {name: model.encoder.kind.split()[0] for name, model in names["models"].items()} == {
        "Geneformer": "BERT",
        "MaxToki": "LLaMA",
        "CellFM": "CellFM",
    }
    scores = names["adata"].uns["embedding_scores"]["scores"]
    assert scores.loc["PCA of HVGs", "nmi"] > scores.loc["X_MaxToki", "nmi"] > 0
    completed = pd.DataFrame(names["rows"]).mean()
    assert completed["most frequent genes"] > completed["completed"]


def test_the_tutorial_of_an_atlas_runs_on_fewer_cells_and_shorter_rows(run, monkeypatch):
    pytest.importorskip("distributed")
    tokenize = sg.pp.tokenize
    monkeypatch.setattr(sg.pp, "tokenize", lambda *args, max_length: tokenize(*args, max_length=max_length // 4))
    names = run("atlas.ipynb", every=4)
    written = names["written"]
    assert written.shape == (names["atlas"].n_obs, names["index"].obsm["X_geneformer"].shape[1])
    rows = names["rows"]
    assert rows["model"]["accuracy"] > rows["most frequent type"]["accuracy"] + 0.1
