"""CellFM's checkpoint and list of genes on disk, loaded by path and by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg
from scgeneformer.hub import _cellfm, _vocabularies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES_OF_GENES = _vocabularies.names_of_genes  # replaced below
SYMBOLS = ["STAT1", "IRF9", "ISG15", "CD3E", "MS4A1", "LYZ", "NOT-A-GENE"]


@pytest.fixture
def stored(tmp_path: Path, cellfm_file: Callable[[sg.nn.CellFM], bytes]) -> Path:
    """A checkpoint of seven genes with its list, in the format of the authors except for sizes."""
    torch.manual_seed(0)
    config = sg.nn.CellFMConfig(vocab_size=len(SYMBOLS) + 3, n_layers=2, width=64, n_heads=2, n_bins=4, totals=True)
    path = tmp_path / "files" / "some.ckpt"
    path.parent.mkdir()
    path.write_bytes(cellfm_file(sg.nn.CellFM(config)))
    pd.DataFrame({"length": 1, "type": "protein_coding"}, index=pd.Index(SYMBOLS)).to_csv(path.parent / "genes.csv")
    return path


@pytest.fixture(autouse=True)
def bundled_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of genes by the bundled vocabulary, which needs no files."""
    monkeypatch.setattr(_vocabularies, "names_of_genes", lambda: sg.hub.vocabulary("default"))


def counts(names: list[str]) -> ad.AnnData:
    X = np.random.default_rng(0).poisson(3.0, (5, len(names))).astype(np.float32)
    return ad.AnnData(X, var=pd.DataFrame(index=names))


def test_a_checkpoint_is_loaded_with_its_list_and_cells_are_embedded(stored: Path) -> None:
    model = sg.hub.load(stored, vocabulary=stored.parent / "genes.csv")
    assert (model.name, model.address, len(model.sha256)) == ("some", str(stored), 64)
    assert model.vocabulary.ids[3:].tolist() == SYMBOLS
    assert model.encoder.config.max_length == model.vocabulary.max_length == 2049
    by_symbol, by_id = counts(SYMBOLS), counts(SYMBOLS)
    default = sg.hub.vocabulary("default")
    by_id.var_names = [default.ids[t] if t >= 0 else "NOT-A-GENE" for t in default.tokens_of(SYMBOLS)]
    for adata in (by_symbol, by_id):
        sg.pp.tokenize(adata, model)
        sg.tl.embed(adata, model)
    assert by_id.var_names[0].startswith("ENSG")
    np.testing.assert_array_equal(by_symbol.obsm["X_geneformer"], by_id.obsm["X_geneformer"])
    assert by_symbol.obsm["X_geneformer"].shape == (5, 64)


def test_a_list_with_a_published_name_lies_beside_and_tokens_remember_the_file(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stored.parent / "genes.csv").rename(stored.parent / "gene_info.csv")
    with pytest.raises(ValueError, match="has 7 genes below its header, but the published list has 24,078"):
        sg.hub.load(stored)
    monkeypatch.setitem(
        _cellfm.PUBLISHED, "CellFM-800M", _cellfm.Published("base_weight.ckpt", "gene_info.csv", 7, 2, 1)
    )
    adata = counts(SYMBOLS)
    sg.pp.tokenize(adata, stored)
    sg.tl.embed(adata)
    assert adata.uns["geneformer"]["params"]["model"] == "some"
    sg.tl.perturb(adata, genes=["STAT1"], kind="scale", factor=0.5)
    assert adata.layers["shift"].nnz == (adata[:, "STAT1"].X > 0).sum()


def test_names_lead_to_the_cache_and_say_what_to_do(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sg.settings.override(cache_dir=tmp_path / "cache"):
        with pytest.raises(
            FileNotFoundError, match="CC BY-NC-ND.*not downloaded for you. Get base_weight.ckpt and .*gene_info.csv"
        ):
            sg.pp.tokenize(counts(SYMBOLS), "CellFM-800M")
        table = sg.hub.available()
        assert not table.loc[["CellFM-80M", "CellFM-800M"], "cached"].any()
        assert table.loc[["CellFM-80M", "CellFM-800M"], "download_mb"].isna().all()
        folder = tmp_path / "cache" / "CellFM"
        folder.parent.mkdir()
        stored.parent.rename(folder)
        (folder / "some.ckpt").rename(folder / "base_weight.ckpt")
        (folder / "genes.csv").rename(folder / "gene_info.csv")
        monkeypatch.setitem(
            _cellfm.PUBLISHED, "CellFM-800M", _cellfm.Published("base_weight.ckpt", "gene_info.csv", 7, 2, 1)
        )
        assert sg.hub.available().loc["CellFM-800M", "cached"]
        adata = counts(SYMBOLS)
        sg.pp.tokenize(adata, "CellFM-800M")
        sg.tl.embed(adata)
        params = adata.uns["geneformer"]["params"]
        assert (params["model"], params["vocabulary"]) == ("CellFM-800M", "CellFM-7")
        assert sg.hub.load("CellFM-800M").address == "CellFM-800M"


def test_of_two_symbols_of_one_gene_the_displayed_one_has_its_id() -> None:
    reference = sg.Vocabulary(
        "reference",
        np.array(["<pad>", "<mask>", "ENSG00000000001", "ENSG00000000002"]),
        np.array([np.nan, np.nan, 1, 1]),
        64,
        aliases={"NEW": "ENSG00000000001", "OLD": "ENSG00000000001", "ENSG00000000009": "ENSG00000000001"},
        symbols=np.array(["", "", "NEW", ""]),
    )
    expected = {"ENSG00000000001": "NEW", "ENSG00000000009": "NEW", "OLD": "NEW", "NEW": "NEW"}
    assert _cellfm._aliases(["OLD", "NEW"], reference) == expected
    assert _cellfm._aliases(["NEW", "OLD"], reference) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("symbol\n", "must hold one gene symbol"),
        ("symbol\nSTAT1\nSTAT1\n", "all distinct"),
        ('symbol\nSTAT1\n""\n', "must hold one gene symbol"),
        ("symbol\n1\n2\n", "must hold one gene symbol"),
        ("", "not a CSV file"),
        ("\x00\xff\xfe" * 10, "genes.csv"),
        ("symbol\n" + "\n".join(f"G{i}" for i in range(40)), "a table of 8 rows, but 40 genes need 48"),
    ],
    ids=["empty", "twice", "gap", "numbers", "nothing", "binary", "another size"],
)
def test_lists_that_are_refused(stored: Path, content: str, message: str) -> None:
    path = stored.parent / "genes.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        _ = sg.hub.load(stored, vocabulary=path).encoder


def test_without_dictionaries_of_v2_symbols_are_known_by_the_bundled_model(tmp_path: Path) -> None:
    with sg.settings.override(cache_dir=tmp_path, offline=True, mirror=None):
        with pytest.warns(UserWarning, match="Geneformer's V2, which could not be loaded"):
            names = NAMES_OF_GENES()
    assert names == sg.hub.vocabulary("default")


def test_a_checkpoint_without_a_list_or_with_ranks(stored: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No list of genes beside"):
        sg.hub.load(stored)
    with pytest.raises(ValueError, match="is of ranked genes, but"):
        sg.hub.load(stored, vocabulary="default")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        sg.hub.load(stored.with_name("other.ckpt"))
    stored.write_bytes(stored.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        _ = sg.hub.load(stored, vocabulary=stored.parent / "genes.csv").encoder
