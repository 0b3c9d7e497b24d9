"""The report page is complete, self-contained, and harmless for any names of cells."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg

if TYPE_CHECKING:
    from pathlib import Path

ATTACK = "<script>alert('x')</script> & \"B\""


class Page(HTMLParser):
    """Elements of a page, and tables as lists of rows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.notes = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open += [tag] if tag not in ("meta", "img") else []
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        if "p" in self.open:
            self.notes += data
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def table(self, first: str, *columns: str) -> pd.DataFrame:
        """The table whose header begins with `first` and has `columns`."""
        (rows,) = [rows for rows in self.tables if rows[0][0] == first and set(columns) <= set(rows[0])]
        return pd.DataFrame(rows[1:], columns=rows[0]).set_index(first)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory) -> ad.AnnData:
    """Cells with one result of each kind, a donor and a cell type of which have names that are HTML."""
    symbols = sg.hub.vocabulary("default").symbols
    names = [name for name in symbols[10:] if name][:40]
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(8), 6)
    rate = np.full((48, 40), 1.5)
    rate[donor % 2 == 1, :20] *= 4
    obs = pd.DataFrame(
        {
            "disease": pd.Categorical(np.where(donor % 2 == 1, "dcm", "nf")),
            "donor": pd.Categorical([f"donor {i}" if i else ATTACK for i in donor]),
            "cell_type": pd.Categorical(np.tile(["fibroblast", ATTACK], 24)),
        },
        index=[f"cell {i}" for i in range(48)],
    )
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=names))
    reference = adata.copy()
    with sg.settings.override(device="cpu", progress=False):
        for cells in (adata, reference):
            sg.pp.tokenize(cells, "default")
            sg.tl.embed(cells)
        sg.tl.transfer(adata, reference, "cell_type", key_added="predicted", unknown=0.1, n_neighbors=5)
        sg.tl.perturb(adata, groupby="disease", source="dcm", target="nf", max_cells=12)
        sg.tl.rank_shifts(adata, donor="donor", min_cells=1)
        sg.tl.network(adata, score="contextual", min_cells=2)
        truth = pd.DataFrame({"source": names[:3], "target": names[3:6]})
        sg.tl.evaluate_network(adata, truth, baselines=["coexpression"], n_bootstrap=20, n_permutations=20)
        sg.tl.compare_embeddings(adata, "disease", "cell_type", baselines=["pca"], metrics="sklearn")
        sg.model.CellClassifier.setup_anndata(adata, labels_key="disease", sample_key="donor")
        classifier = sg.model.CellClassifier(adata)
        classifier.train(recipe="probe")
        sg.tl.evaluate(adata, classifier, n_bootstrap=5)
    return adata


@pytest.fixture(scope="module")
def page(analysed: ad.AnnData, tmp_path_factory) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    sg.report(analysed, path, title=ATTACK)
    return Page(path)


def test_every_result_has_its_section(page: Page) -> None:
    assert page.texts["h2"] == [
        *(
            "Tokens",
            "Embedding",
            "Classifier of disease",
            "Predicted labels: predicted",
            "Deletion in silico: dcm towards nf",
        ),
        *("Gene network: network", "Network against known edges", "Embeddings compared", "How it was made"),
    ]
    targets = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert targets == [f"#{attributes['id']}" for tag, attributes in page.elements if tag == "section"]


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            kind, image = attributes["src"].split(",")
            assert kind == "data:image/png;base64"
            assert base64.b64decode(image).startswith(b"\x89PNG")
            assert len(attributes["alt"]) > 20
    assert "".join(page.texts["h1"]) == ATTACK


def test_numbers_are_those_of_the_slots(page: Page, analysed: ad.AnnData) -> None:
    shown = page.table("names", "effect", "pvals_adj")
    expected = sg.get.shifts(analysed).set_index("names")
    assert shown.index.tolist() == expected.index[: len(shown)].tolist()
    np.testing.assert_allclose(shown["effect"].astype(float), expected["effect"].iloc[: len(shown)], rtol=6e-3)
    counts = page.table("label", "cells")["cells"].astype(int)
    assert counts.to_dict() == analysed.obs["predicted"].astype(str).value_counts().to_dict()
    scores = page.table("", "accuracy", "macro_f1")
    accuracy = [float(re.match(r"[\d.]+", text)[0]) for text in scores["accuracy"]]
    np.testing.assert_allclose(accuracy, sg.get.evaluation(analysed)["accuracy"], atol=6e-4)
    assert all(" to " in text for text in scores["accuracy"])
    edges = page.table("source", "target")
    assert edges["target"].tolist() == sg.get.edges(analysed, n_top=20)["target"].tolist()
    made = page.table("key", "call")["call"]
    assert made["shift"] == "sg.tl.perturb"


def test_the_cells_stay_as_they_are_and_the_page_the_same(analysed: ad.AnnData, tmp_path: Path) -> None:
    before = analysed.copy()
    for name in ("a.html", "b.html"):
        sg.report(analysed, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert set(analysed.uns) == set(before.uns)
    pd.testing.assert_frame_equal(analysed.obs, before.obs)


def test_warnings_are_about_what_was_measured(analysed: ad.AnnData, page: Page, tmp_path: Path) -> None:
    assert "fewer than a quarter of the genes" in page.notes
    assert "bundled model" in page.notes
    assert "hardly separates" not in page.notes
    assert "P-values are over cells" not in page.notes
    poor = analysed.copy()
    poor.uns["shift"]["separation"] = {"embedding": 0.6, "held_out": "cells"}
    poor.uns["shift"]["rank"]["replicates"] = "cells"
    poor.uns["geneformer_tokens"]["coverage"]["fraction_counts"] = 0.3
    sg.report(poor, tmp_path / "poor.html")
    notes = Page(tmp_path / "poor.html").notes
    assert "AUROC 0.60" in notes
    assert "P-values are over cells" in notes
    assert "Less than half of the counts" in notes


def test_a_page_about_few_results(analysed: ad.AnnData, tmp_path: Path) -> None:
    few = analysed[:, :].copy()
    for key in set(few.uns) - {"geneformer_tokens", "shift"}:
        del few.uns[key]
    del few.uns["shift"]["rank"]
    sg.report(few, tmp_path / "few.html")
    page = Page(tmp_path / "few.html")
    assert page.texts["h2"] == ["Tokens", "Deletion in silico: dcm towards nf", "How it was made"]
    assert "not ranked" in page.notes


@pytest.mark.parametrize(
    ("path", "options", "error", "match"),
    [
        ("page.txt", {}, ValueError, "must end in .html"),
        ("there.html", {}, FileExistsError, "overwrite"),
        ("none/page.html", {}, FileNotFoundError, "no folder"),
        ("page.html", {"color": ["gone"]}, KeyError, "'gone'"),
    ],
)
def test_errors_name_the_cure_and_write_nothing(analysed, tmp_path, path, options, error, match) -> None:
    (tmp_path / "there.html").write_text("mine")
    with pytest.raises(error, match=match):
        sg.report(analysed, tmp_path / path, **options)
    assert (tmp_path / "there.html").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["there.html"]


def test_cells_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pp.tokenize"):
        sg.report(ad.AnnData(np.ones((3, 2))), tmp_path / "page.html")
