from __future__ import annotations

import json
import os
import pickle
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg

if TYPE_CHECKING:
    from pathlib import Path

N_OBS, N_VARS = 40, 90
KEY = "geneformer_tokens"


def slots(adata: ad.AnnData) -> set[tuple[str, str]]:
    return {(slot, name) for slot in ("obs", "var", "obsm", "varm", "layers", "uns") for name in getattr(adata, slot)}


def untouched(adata: ad.AnnData) -> Any:
    """Everything in it, to compare with later."""
    return pickle.dumps((slots(adata), adata.X, adata.obs, adata.var, dict(adata.layers), adata.uns))


def test_what_is_written(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    before = slots(adata), adata.X.copy()
    assert sg.pp.tokenize(adata, vocabulary) is None
    assert slots(adata) - before[0] == {
        ("obsm", KEY),
        ("obs", "n_tokens"),
        ("obs", "token_vocabulary"),
        ("var", "token_id"),
        ("uns", KEY),
    }
    assert (adata.X != before[1]).nnz == 0
    tokens, lengths = adata.obsm[KEY], adata.obs["n_tokens"]
    assert (tokens.dtype, tokens.shape, lengths.dtype) == (np.uint16, (N_OBS, 80), np.int32)
    assert adata.var["token_id"].dtype == np.int32
    np.testing.assert_array_equal(adata.var["token_id"], [*range(4, 84), *[-1] * 10])
    medians = vocabulary.medians[4:84]
    for row, length, x in zip(tokens, lengths, adata.X.toarray().astype(float), strict=True):
        order = np.argsort(-(x[:80] / x.sum() * 10_000 / medians), kind="stable") + 4
        order = [2, *order[: (x[:80] > 0).sum()][:78], 3]
        assert row[:length].tolist() == order
    assert adata.obs["token_vocabulary"].cat.categories.tolist() == [f"own:{vocabulary.hash}"]
    params = adata.uns[KEY]["params"]
    assert params["vocabulary"] == "own"
    assert params["vocabulary_hash"] == vocabulary.hash
    assert (params["max_length"], params["counts"], params["gene_ids"], params["special_tokens"]) == (
        80,
        "raw",
        "var_names",
        True,
    )
    coverage = adata.uns[KEY]["coverage"]
    known = adata.X[:, :80].sum() / adata.X.sum()
    assert coverage.pop("fraction_counts") == pytest.approx(known)
    assert coverage.pop("fraction_genes") == pytest.approx(80 / 90)
    assert coverage.pop("fraction_vocabulary") == pytest.approx(80 / 100)
    assert coverage == {
        "n_genes": 90,
        "n_mapped": 80,
        "n_by_id": 0,
        "n_by_fallback": 0,
        "n_duplicates": 0,
        "n_empty_cells": 0,
    }


def test_copy(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    before = untouched(adata)
    copy = sg.pp.tokenize(adata, vocabulary, copy=True)
    assert untouched(adata) == before
    sg.pp.tokenize(adata, vocabulary)
    np.testing.assert_array_equal(copy.obsm[KEY], adata.obsm[KEY])


def test_view(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    """A selection of cells is tokenized like the cells; what it was selected from stays as it was."""
    before = untouched(adata)
    some = adata[5:20]
    with pytest.warns(ad.ImplicitModificationWarning):
        sg.pp.tokenize(some, vocabulary)
    assert untouched(adata) == before
    sg.pp.tokenize(adata, vocabulary)
    np.testing.assert_array_equal(some.obsm[KEY], adata.obsm[KEY][5:20])


@pytest.mark.parametrize("keep_counts", [False, True])
def test_options(adata: ad.AnnData, vocabulary: sg.Vocabulary, keep_counts: bool) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.X = None
    adata.var["ids"] = [*vocabulary.ids[4:84], *["x"] * 10]
    sg.pp.tokenize(
        adata,
        vocabulary,
        layer="counts",
        gene_ids="ids",
        max_length=20,
        key_added="t",
        keep_counts=keep_counts,
        total_counts="n_counts",
    )
    assert adata.obsm["t"].shape == (N_OBS, 20)
    assert (adata.obs["t_n_tokens"] == 20).all()
    params = adata.uns["t"]["params"]
    assert (params["layer"], params["gene_ids"], params["max_length"], params["total_counts"]) == (
        "counts",
        "ids",
        20,
        "n_counts",
    )
    assert ("t_counts" in adata.obsm) == keep_counts
    if keep_counts:
        values = adata.layers["counts"].toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4
        expected = np.take_along_axis(values, adata.obsm["t"][:, 1:-1].astype(int) - 4, axis=1)
        np.testing.assert_allclose(adata.obsm["t_counts"][:, 1:-1], expected, rtol=1e-6)
        assert not adata.obsm["t_counts"][:, [0, -1]].any()
        sg.pp.tokenize(adata, vocabulary, layer="counts", key_added="t")
        assert "t_counts" not in adata.obsm  # they would be in another order


@pytest.mark.parametrize("base", [None, 2])
def test_log_normalised(adata: ad.AnnData, vocabulary: sg.Vocabulary, base: float | None) -> None:
    import scanpy as sc

    sg.pp.tokenize(adata, vocabulary)
    normalised = adata.copy()
    normalised.X = normalised.X.astype(np.float64)
    sc.pp.normalize_total(normalised, target_sum=1e4)
    sg.pp.tokenize(normalised, vocabulary, counts="linear")
    np.testing.assert_array_equal(normalised.obsm[KEY], adata.obsm[KEY])
    sc.pp.log1p(normalised, base=base)
    with pytest.raises(ValueError, match=r"\.X looks log-normalised.*layer=.*counts='log1p'"):
        sg.pp.tokenize(normalised, vocabulary)
    sg.pp.tokenize(normalised, vocabulary, counts="log1p")
    np.testing.assert_array_equal(normalised.obsm[KEY], adata.obsm[KEY])
    linear = np.expm1(normalised.X.toarray() * np.log(base or np.e))
    assert normalised.uns[KEY]["coverage"]["fraction_counts"] == pytest.approx(linear[:, :80].sum() / linear.sum())


def test_mudata(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    alone = sg.pp.tokenize(adata, vocabulary, copy=True)
    mdata = md.MuData({"gex": adata, "adt": ad.AnnData(np.ones((N_OBS, 2)), obs=adata.obs[[]])})
    copy = sg.pp.tokenize(mdata, vocabulary, mod="gex", copy=True)
    assert isinstance(copy, md.MuData)
    assert KEY not in mdata["gex"].obsm
    assert sg.pp.tokenize(mdata, vocabulary, mod="gex") is None
    for result in (copy["gex"], mdata["gex"]):
        np.testing.assert_array_equal(result.obsm[KEY], alone.obsm[KEY])
    with pytest.raises(KeyError, match="No modality 'rna'"):
        sg.pp.tokenize(mdata, vocabulary)
    mdata["adt"].obs["n"] = adata.obs["n_counts"]
    sg.pp.tokenize(mdata, vocabulary, mod="gex", keep_counts=True, total_counts="adt:n")
    alone = sg.pp.tokenize(adata, vocabulary, keep_counts=True, total_counts="n_counts", copy=True)
    np.testing.assert_array_equal(mdata["gex"].obsm[f"{KEY}_counts"], alone.obsm[f"{KEY}_counts"])


def test_what_has_a_vocabulary_is_a_model(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    @dataclass
    class Model:
        vocabulary: sg.Vocabulary

    sg.pp.tokenize(adata, Model(vocabulary))
    assert adata.uns[KEY]["params"]["vocabulary_hash"] == vocabulary.hash


def test_the_model_is_remembered_by_name_or_folder(
    adata: ad.AnnData, vocabulary: sg.Vocabulary, tmp_path: Path
) -> None:
    config = {"vocab_size": len(vocabulary), "max_position_embeddings": 80}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vocabulary.save(tmp_path / "vocabulary.json")
    human = adata.copy()
    human.var_names = sg.hub.vocabulary("default").ids[4 : 4 + N_VARS]
    with pytest.warns(UserWarning, match="of the 13,152 genes"):
        sg.pp.tokenize(human)
    assert human.uns[KEY]["params"]["model"] == "default"
    sg.pp.tokenize(adata, os.path.relpath(tmp_path))
    assert adata.uns[KEY]["params"]["model"] == str(tmp_path.resolve())
    for only_vocabulary in (vocabulary, tmp_path / "vocabulary.json"):
        sg.pp.tokenize(adata, only_vocabulary)
        assert "model" not in adata.uns[KEY]["params"]


def test_order_of_genes_does_not_matter(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    shuffled = adata[:, np.random.default_rng(4).permutation(N_VARS)].copy()
    sg.pp.tokenize(adata, vocabulary)
    sg.pp.tokenize(shuffled, vocabulary)
    np.testing.assert_array_equal(shuffled.obsm[KEY], adata.obsm[KEY])


def test_empty_cells(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    X = adata.X.toarray()
    X[3] = 0
    X[4, :80] = 0
    adata.X = X
    with pytest.warns(UserWarning, match="2 of 40 cells have no gene of the vocabulary"):
        sg.pp.tokenize(adata, vocabulary, keep_counts=True)
    for cell in (3, 4):
        assert adata.obsm[KEY][cell, :3].tolist() == [2, 3, 0]
        assert adata.obs["n_tokens"].iloc[cell] == 2
    assert np.isfinite(adata.obsm[f"{KEY}_counts"]).all()
    assert adata.uns[KEY]["coverage"]["n_empty_cells"] == 2


def test_genes_without_an_id_are_named_by_their_symbols(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    adata.var["ensembl_id"] = [*vocabulary.ids[4:84], *["x"] * 10]
    whole = sg.pp.tokenize(adata, vocabulary, gene_ids="ensembl_id", copy=True)
    adata.var["ensembl_id"] = adata.var["ensembl_id"].mask(np.arange(N_VARS) % 9 == 3, "")
    sg.pp.tokenize(adata, vocabulary, gene_ids="ensembl_id")
    np.testing.assert_array_equal(adata.obsm[KEY], whole.obsm[KEY])
    assert adata.uns[KEY]["coverage"]["n_by_fallback"] == 9
    token_id = adata.var.pop("token_id")  # as concatenation does
    np.testing.assert_array_equal(sg.tokens.token_ids(adata, KEY, vocabulary), token_id)


def test_low_coverage(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    X = adata.X.toarray()
    X[:, 80:] += 1
    X[:, 85] = X[:, :80].sum(axis=1) * 3
    adata.X = X
    with pytest.warns(
        UserWarning, match=r"Genes of vocabulary 'own' have only 2\d\.\d% of the counts \(80 of 90 genes"
    ):
        sg.pp.tokenize(adata, vocabulary)
    del adata.obsm[KEY]
    X[:, 85] *= 10
    adata.X = X
    before = untouched(adata)
    with pytest.raises(
        ValueError,
        match=r"Found \.var_names such as 'Sym0', 'Sym1', .*'ENSG00000000000', .*symbols such as 'Sym0'.*gene_ids=",
    ):
        sg.pp.tokenize(adata, vocabulary)
    assert untouched(adata) == before


@pytest.mark.parametrize("raw", [False, True])
def test_a_selection_of_genes(adata: ad.AnnData, vocabulary: sg.Vocabulary, raw: bool) -> None:
    if raw:
        adata.raw = adata
    selected = adata[:, 60:84].copy()  # 20 of the vocabulary's 100 genes
    cure = r"all 90 genes, `adata\.raw\.to_adata\(\)`" if raw else "the matrix of all genes"
    n_genes = np.median((selected.X[:, :20].toarray() > 0).sum(axis=1))
    with pytest.warns(UserWarning, match=rf"20\.0% of the 100 genes .*'own', .* {n_genes:.0f} of them.*{cure}.*panel"):
        sg.pp.tokenize(selected, vocabulary)
    assert selected.uns[KEY]["coverage"]["fraction_vocabulary"] == 0.2


def test_data_of_all_genes_draw_no_warning(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    detected = adata[:, 40:].copy()  # as after removing genes that few cells express
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sg.pp.tokenize(adata, vocabulary)
        sg.pp.tokenize(detected, vocabulary)


def test_doubts_are_warnings(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    ids = np.r_[vocabulary.ids[4:84].astype(object), [f"x{i}" for i in range(10)]]
    adata.var["one"], adata.var["two"] = ids, np.r_[ids[:40], np.roll(ids[40:80], 1), ids[80:]]
    with pytest.warns(UserWarning, match="'one' and 'two' have ids of different genes for 40 of 80") as caught:
        sg.pp.tokenize(adata, vocabulary)
    assert caught[0].filename == __file__


def test_no_gene_in_common(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    adata.var_names = [f"ENSMUSG{i:011d}" for i in range(N_VARS)]
    with pytest.raises(ValueError, match=r"0\.0% of the counts \(0 of 90 genes.*'ENSMUSG00000000000'"):
        sg.pp.tokenize(adata, vocabulary)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ("nan", {}, ValueError, r"\.X has values that are NaN"),
        ("negative", {}, ValueError, r"\.X has negative values"),
        ("no X", {}, ValueError, r"There is no \.X"),
        ("", {"layer": "x"}, KeyError, r"No layer 'x' in \.layers"),
        ("", {"gene_ids": "x"}, KeyError, r"No column 'x' in \.var"),
        ("", {"total_counts": "x"}, KeyError, r"No column 'x' in \.obs"),
        ("", {"total_counts": "zero"}, ValueError, "total_counts is 0 for a cell that has counts"),
        ("", {"total_counts": "one"}, ValueError, "total_counts is smaller than the sum of the counts in"),
        ("", {"total_counts": "text"}, TypeError, "total_counts='text' names a column .* not of numbers"),
        ("", {"total_counts": "date"}, TypeError, "total_counts='date' names a column .* not of numbers"),
        ("", {"max_length": 81}, ValueError, "max_length=81"),
        ("", {"counts": "log1p"}, ValueError, "cannot be logarithms|has integers"),
        ("", {"counts": "cpm"}, ValueError, "'raw', 'linear' or 'log1p'"),
        ("", {"mod": "x", "layer": "x"}, KeyError, "No layer"),
    ],
)
def test_errors_write_nothing(
    adata: ad.AnnData, vocabulary: sg.Vocabulary, change: str, options: dict, error: type, message: str
) -> None:
    adata.obs["zero"], adata.obs["one"], adata.obs["text"] = 0.0, 1, "7"
    adata.obs["date"] = pd.Timestamp("2026-01-01")
    match change:
        case "nan":
            adata.X.data[7] = np.nan
        case "negative":
            adata.X.data[7] = -1
        case "no X":
            adata.X = None
    before = untouched(adata)
    with pytest.raises(error, match=message):
        sg.pp.tokenize(adata, vocabulary, **options)
    assert untouched(adata) == before


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_the_column_of_genes_does_not_depend_on_the_matrix(kind) -> None:
    """Most counts are of the 60 genes that var_names name, but `ensembl_id` names more genes: 140."""
    ids, rng = list(sg.hub.vocabulary("default").ids[4:204]), np.random.default_rng(0)
    counts = np.hstack([rng.poisson(5, (30, 60)) + 1, rng.random((30, 140)) < 0.2]).astype(np.float32)
    var = pd.DataFrame({"ensembl_id": [f"x{k}" if k < 60 else gene for k, gene in enumerate(ids)]})
    var.index = [gene if k < 60 else f"x{k}" for k, gene in enumerate(ids)]
    adata = ad.AnnData(kind(counts), var=var)
    sg.pp.tokenize(adata, "default")
    np.testing.assert_array_equal(adata.var["token_id"] >= 0, np.arange(200) >= 60)
