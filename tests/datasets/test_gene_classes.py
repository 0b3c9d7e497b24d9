"""Lists of genes by name: which file is opened, and which is refused."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer.datasets._fetch import DataFile, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = b"gene,is_class\nA,True\n"
# numbers of genes of the tasks in Theodoris et al. 2023 and in the official label files
SIZES = {
    "bivalent_promoters": (77, 96),
    "regulatory_range": (130, 46),
    "notch1_centrality": (195, 100),
    "notch1_targets": (570, 570),
}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[DataFile]:
    """A file on a server in this process."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "list.csv").write_bytes(TEXT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/list.csv"
        with sg.settings.override(cache_dir=tmp_path / "cache", data=None, offline=False, progress=False):
            yield DataFile("lists/list.csv", url, hashlib.sha256(TEXT).hexdigest())
        server.shutdown()


def test_a_file_is_downloaded_once(file: DataFile, tmp_path: Path) -> None:
    path = fetch(file)
    assert path.read_bytes() == TEXT
    assert path.is_relative_to(tmp_path / "cache")
    (tmp_path / "server" / "list.csv").unlink()
    with sg.settings.override(offline=True):
        assert fetch(file) == path


def test_another_file_at_the_address_is_refused(file: DataFile, tmp_path: Path) -> None:
    (tmp_path / "server" / "list.csv").write_bytes(TEXT + b"B,False\n")
    with pytest.raises(ValueError, match="hash"):
        fetch(file)
    assert not list((tmp_path / "cache").rglob("list.csv"))


def test_a_file_that_cannot_be_downloaded_names_the_cure(file: DataFile, tmp_path: Path) -> None:
    (tmp_path / "server" / "list.csv").unlink()
    with pytest.raises(ConnectionError, match=r"SCGENEFORMER_DATA .*lists/list\.csv"):
        fetch(file)
    with (
        sg.settings.override(offline=True),
        pytest.raises(FileNotFoundError, match="SCGENEFORMER_OFFLINE.*SCGENEFORMER_DATA"),
    ):
        fetch(file)


def test_a_local_copy_comes_first_and_is_verified(file: DataFile, tmp_path: Path) -> None:
    local = tmp_path / "data" / "lists" / "list.csv"
    local.parent.mkdir(parents=True)
    local.write_bytes(TEXT)
    with sg.settings.override(data=tmp_path / "data", offline=True):
        assert fetch(file) == local
        local.write_bytes(b"other")
        with pytest.raises(ValueError, match=r"is not the expected file.*Replace it by http"):
            fetch(file)


def test_a_damaged_copy_in_the_cache_is_downloaded_again(file: DataFile) -> None:
    path = fetch(file)
    path.write_bytes(b"other")
    with sg.settings.override(offline=True), pytest.raises(FileNotFoundError, match="is not cached"):
        fetch(file)
    assert fetch(file).read_bytes() == TEXT


@pytest.mark.parametrize("name", SIZES)
def test_lists_of_the_tasks(name: str, shared: Path) -> None:
    with sg.settings.override(data=shared / "data", offline=True):
        classes = sg.datasets.gene_classes(name)
    assert tuple(map(len, classes.values())) == SIZES[name]
    first, second = map(set, classes.values())
    assert not first & second
    assert {gene[:4] for gene in first | second} == {"ENSG"}


def test_dosage_sensitive_genes_are_those_of_the_official_example(shared: Path, gene_lists: Path) -> None:
    """The pinned file lists these genes with their tokens in V1. It is rebuilt here from both, and has the pinned hash."""
    lists = pd.read_csv(shared / "data" / "gene_class_labels" / "dosage_sensitive_tfs.csv")
    with sg.settings.override(data=gene_lists, offline=True):
        classes = sg.datasets.gene_classes("dosage_sensitivity")
    assert classes["sensitive"] == lists["dosage_sensitive"].dropna().tolist()
    assert classes["insensitive"] == lists["dosage_insensitive"].dropna().tolist()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="dosage_sensitivity"):
        sg.datasets.gene_classes("dosage")


def test_of_an_unknown_file_the_first_is_pinned(file: DataFile, tmp_path: Path) -> None:
    unknown = replace(file, sha256=None)
    with pytest.warns(UserWarning, match="was pinned"):
        path = fetch(unknown)
    assert path.read_bytes() == TEXT
    assert fetch(unknown) == path  # nothing is said again
    (tmp_path / "server" / "list.csv").write_bytes(b"other")
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"pinned on the first download: if you trust the new file, remove .*sha256"):
        fetch(unknown)
    (tmp_path / "server" / "list.csv").write_bytes(TEXT)
    assert fetch(unknown).read_bytes() == TEXT
