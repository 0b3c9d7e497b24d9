"""Every public function and class has examples, and they run as they are printed; so do those of methods.

They may use ``sg``, ``sc``, ``ad``, ``np``, ``pd`` and ``torch``; `adata` (32 cells with counts of 40 genes, not tokenized yet, and columns
``disease``, ``donor`` and ``cell_type``); `model` (a classifier of ``disease``, trained on these cells); and `result` (of a search for its
hyperparameters). Each runs in an empty folder.
"""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOMS = (sg.pp, sg.tl, sg.pl, sg.get, sg.datasets, sg.evaluation, sg.hub, sg.model, sg.nn)
PUBLIC = {"Vocabulary": sg.Vocabulary, "Reference": sg.Reference, "Settings": type(sg.settings)} | {
    f"{room.__name__.removeprefix('scgeneformer.')}.{name}": getattr(room, name)
    for room in ROOMS
    for name in room.__all__
}
PUBLIC |= {name: getattr(sg, name) for name in ("read_official", "export_official")}
HEADING = "\nExamples\n--------\n"
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# which tests must not download
FROM_FILES = {f"datasets.{name}" for name in sg.datasets.__all__ if name != "read_gene_sets"}
# Ray takes up to a minute to start, and tests/model/tuning runs it; weights of CellFM may not be passed on, and tests/nn reads others;
# two data sets are large, and tests/datasets reads files of their form
SKIPPING = {"model.tune", "nn.load_cellfm", "datasets.kang_all", "datasets.pbmc5k_citeseq"}


def methods(cls: type) -> Iterator[tuple[str, object]]:
    """Public methods with examples that come from classes of this package, by the class that has them."""
    for ancestor in cls.__mro__:
        if ancestor.__module__.startswith("scgeneformer"):
            for name in vars(ancestor):
                method = getattr(ancestor, name)
                if not name.startswith("_") and callable(method) and HEADING in (inspect.getdoc(method) or ""):
                    yield f"{ancestor.__name__}.{name}", method


METHODS = dict(method for value in PUBLIC.values() if inspect.isclass(value) for method in methods(value))


@pytest.fixture(scope="module")
def classifier(make_cells: Callable[..., Any]) -> Any:
    """A classifier of cells, trained for one epoch."""
    cells = make_cells()
    sg.pp.tokenize(cells)
    sg.model.CellClassifier.setup_anndata(cells, "disease")
    model = sg.model.CellClassifier(cells, "default", freeze="all")
    model.train(1, recipe="plain", accelerator="cpu", precision="32-true", enable_progress_bar=False)
    return model


@pytest.fixture
def result(classifier: Any) -> sg.model.TuneResult:
    """What `sg.model.tune` returns."""
    params = {"learning_rate": 1e-4, "freeze": 2}
    table = pd.DataFrame([params | {"validation_loss": 0.5, "best_epoch": 1, "status": "finished"}] * 2)
    return sg.model.TuneResult(table, classifier, params, Path("tuned"))


@pytest.mark.parametrize("name", PUBLIC | METHODS)
@pytest.mark.filterwarnings("ignore")
def test_examples_run_as_printed(
    name: str,
    names: dict[str, Any],
    classifier: Any,
    result: Any,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
):
    if name in FROM_FILES:
        monkeypatch.setattr(sg.settings, "data", request.getfixturevalue("shared") / "data")
    caplog.set_level("WARNING", logger="scvi")  # which prints what it logs
    text = inspect.getdoc((PUBLIC | METHODS)[name])
    assert HEADING in text
    globs = names | {"model": classifier, "result": result, "torch": torch}
    test = doctest.DocTestParser().get_doctest(text, globs, name, None, 0)
    assert test.examples
    assert name in SKIPPING or not any(doctest.SKIP in example.options for example in test.examples)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert not report, "\n".join(report)
