from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask.array as da
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


@pytest.fixture(scope="module")
def vocabulary() -> sg.Vocabulary:
    rng = np.random.default_rng(0)
    ids = np.array(["<pad>", "<mask>", "<cls>", "<eos>", *(f"ENSG{i:011d}" for i in range(100))])
    aliases = {f"SYM{i}": f"ENSG{i:011d}" for i in range(100)}
    symbols = np.array(["", "", "", "", *(f"Sym{i}" for i in range(100))])
    return sg.Vocabulary("own", ids, np.r_[[np.nan] * 4, rng.lognormal(0, 1, 100)], 80, aliases, symbols)


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(1)
    X = rng.poisson(rng.lognormal(2, 1.5, N_VARS), (N_OBS, N_VARS)).astype(np.float32)
    names = [f"Sym{i}" for i in range(80)] + [f"other{i}" for i in range(10)]
    return ad.AnnData(
        sparse.csr_matrix(X),
        obs=pd.DataFrame({"n_counts": X.sum(axis=1) + 1}, index=[f"cell{i}" for i in range(N_OBS)]),
        var=pd.DataFrame({"kind": "gene"}, index=names),
    )


def slots(adata: ad.AnnData) -> set[tuple[str, str]]:
    return {(slot, name) for slot in ("obs", "var", "obsm", "varm", "layers", "uns") for name in getattr(adata, slot)}


def untouched(adata: ad.AnnData) -> Any:
    """Everything in it, to compare with later."""
    return pickle.dumps((slots(adata), adata.X, adata.obs, adata.var, dict(adata.layers), adata.uns))


def test_what_is_written(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    before = slots(adata), adata.X.copy()
    assert sg.pp.tokenize(adata, vocabulary) is None
    assert slots(adata) - before[0] == {("obsm", KEY), ("obs", "n_tokens"), ("var", "token_id"), ("uns", KEY)}
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
    assert coverage == {"n_genes": 90, "n_mapped": 80, "n_by_id": 0, "n_duplicates": 0, "n_empty_cells": 0}


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
    assert (adata.obs["n_tokens"] == 20).all()
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


@pytest.mark.parametrize("form", ["h5ad csr", "h5ad dense", "h5ad csc", "dask", "dask csr"])
@pytest.mark.parametrize("keep_counts", [False, True])
def test_lazy(adata: ad.AnnData, vocabulary: sg.Vocabulary, form: str, keep_counts: bool, tmp_path: Path) -> None:
    sg.pp.tokenize(adata, vocabulary, keep_counts=True)
    lazy = adata.copy()
    del lazy.obsm, lazy.uns[KEY]
    match form:
        case "dask":
            lazy.X = da.from_array(adata.X.toarray(), chunks=(7, 20))
        case "dask csr":
            lazy.X = da.from_array(adata.X.toarray(), chunks=(7, -1)).map_blocks(sparse.csr_matrix)
        case "h5ad dense":
            lazy.X = lazy.X.toarray()
        case "h5ad csc":
            lazy.X = lazy.X.tocsc()
    if form.startswith("h5ad"):
        lazy.write_h5ad(tmp_path / "a.h5ad")
        lazy = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    if form == "h5ad csc":
        with pytest.warns(UserWarning, match="by genes"):
            sg.pp.tokenize(lazy, vocabulary, keep_counts=keep_counts)
    else:
        sg.pp.tokenize(lazy, vocabulary, keep_counts=keep_counts)
        assert isinstance(lazy.obsm[KEY], da.Array)
    np.testing.assert_array_equal(np.asarray(lazy.obsm[KEY]), adata.obsm[KEY])
    np.testing.assert_array_equal(lazy.obs["n_tokens"], adata.obs["n_tokens"])
    if keep_counts:
        np.testing.assert_array_equal(np.asarray(lazy.obsm[f"{KEY}_counts"]), adata.obsm[f"{KEY}_counts"])
    lazy.write_h5ad(tmp_path / "b.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "b.h5ad").obsm[KEY], adata.obsm[KEY])
    if form.startswith("h5ad"):
        lazy.file.close()


def test_zarr_opened_lazily(adata: ad.AnnData, vocabulary: sg.Vocabulary, tmp_path: Path) -> None:
    sg.pp.tokenize(adata, vocabulary)
    adata.write_zarr(tmp_path / "a.zarr")
    import zarr

    lazy = ad.AnnData(
        ad.experimental.read_elem_lazy(zarr.open_group(tmp_path / "a.zarr", mode="r")["X"], chunks=(9, N_VARS)),
        var=adata.var[[]],
    )
    sg.pp.tokenize(lazy, vocabulary)
    assert lazy.obsm[KEY].chunks[0] == (9, 9, 9, 9, 4)
    np.testing.assert_array_equal(np.asarray(lazy.obsm[KEY]), adata.obsm[KEY])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("form", ["h5ad", "zarr", "h5mu"])
def test_round_trips(adata: ad.AnnData, vocabulary: sg.Vocabulary, form: str, lazy: bool, tmp_path: Path) -> None:
    if lazy:
        adata.X = da.from_array(adata.X.toarray(), chunks=(16, N_VARS))
    data = md.MuData({"rna": adata}) if form == "h5mu" else adata
    sg.pp.tokenize(data, vocabulary, keep_counts=True)
    adata = data["rna"] if form == "h5mu" else data
    path = tmp_path / f"a.{form}"
    match form:
        case "h5ad":
            adata.write_h5ad(path)
            back = ad.read_h5ad(path)
        case "zarr":
            adata.write_zarr(path)
            back = ad.read_zarr(path)
        case "h5mu":
            data.write_h5mu(path)
            back = md.read_h5mu(path)["rna"]
    for key in (KEY, f"{KEY}_counts"):
        assert back.obsm[key].dtype == adata.obsm[key].dtype
        np.testing.assert_array_equal(back.obsm[key], np.asarray(adata.obsm[key]))
    for column, frame in (("n_tokens", "obs"), ("token_id", "var")):
        assert getattr(back, frame)[column].dtype == np.int32
        np.testing.assert_array_equal(getattr(back, frame)[column], getattr(adata, frame)[column])
    assert back.uns[KEY].keys() == adata.uns[KEY].keys() == {"params", "coverage"}
    for part in ("params", "coverage"):
        assert back.uns[KEY][part] == adata.uns[KEY][part]


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


def test_what_has_a_vocabulary_is_a_model(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    @dataclass
    class Model:
        vocabulary: sg.Vocabulary

    sg.pp.tokenize(adata, Model(vocabulary))
    assert adata.uns[KEY]["params"]["vocabulary_hash"] == vocabulary.hash


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


def test_low_coverage(adata: ad.AnnData, vocabulary: sg.Vocabulary) -> None:
    X = adata.X.toarray()
    X[:, 80:] += 1
    X[:, 85] = X[:, :80].sum(axis=1) * 3
    adata.X = X
    with pytest.warns(UserWarning, match=r"knows the genes of only 2\d\.\d% of the counts \(80 of 90 genes"):
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
        ("", {"max_length": 81}, ValueError, "max_length=81"),
        ("", {"counts": "log1p"}, ValueError, "no logarithms"),
        ("", {"counts": "cpm"}, ValueError, "'raw', 'linear', 'log1p'"),
        ("", {"mod": "x", "layer": "x"}, KeyError, "No layer"),
    ],
)
def test_errors_write_nothing(
    adata: ad.AnnData, vocabulary: sg.Vocabulary, change: str, options: dict, error: type, message: str
) -> None:
    adata.obs["zero"] = 0.0
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
