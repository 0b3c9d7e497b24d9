"""Counts from files and dask arrays, and results to files and back."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import anndata as ad
import dask.array as da
import mudata as md
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

import scgeneformer as sg

if TYPE_CHECKING:
    from pathlib import Path

KEY = "geneformer_tokens"


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
    lazy = ad.AnnData(
        ad.experimental.read_elem_lazy(zarr.open_group(tmp_path / "a.zarr", mode="r")["X"], chunks=(9, adata.n_vars)),
        var=adata.var[[]],
    )
    sg.pp.tokenize(lazy, vocabulary)
    assert lazy.obsm[KEY].chunks[0] == (9, 9, 9, 9, 4)
    np.testing.assert_array_equal(np.asarray(lazy.obsm[KEY]), adata.obsm[KEY])


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("stored", ["csr", "csc", "dense"])
def test_read_lazy(adata: ad.AnnData, vocabulary: sg.Vocabulary, form: str, stored: str, tmp_path: Path) -> None:
    """The table of genes is read, the counts stay in the file, and results are those of the data in memory."""
    adata.var["ensembl_id"] = pd.Categorical([*vocabulary.ids[4:84], *["x"] * 10])
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda X: X.toarray()}[stored](adata.X)
    getattr(adata, f"write_{form}")(tmp_path / f"a.{form}")
    lazy = ad.experimental.read_lazy(tmp_path / f"a.{form}")
    options = {"keep_counts": True, "total_counts": "n_counts"}
    sg.pp.tokenize(adata, vocabulary, **options)
    with pytest.warns(UserWarning, match="by genes") if stored == "csc" else nullcontext():
        sg.pp.tokenize(lazy, vocabulary, **options)
    assert isinstance(lazy.X, da.Array)
    assert isinstance(lazy.obsm[KEY], da.Array)
    assert not isinstance(lazy.obs, pd.DataFrame)
    result = lazy.to_memory()
    for key in (KEY, f"{KEY}_counts"):
        np.testing.assert_array_equal(result.obsm[key], adata.obsm[key])
    pd.testing.assert_frame_equal(result.obs[adata.obs.columns], adata.obs, check_names=False)
    np.testing.assert_array_equal(result.var["token_id"], adata.var["token_id"])
    np.testing.assert_equal(result.uns[KEY], adata.uns[KEY])
    back = sg.tokens.read_tokens(lazy, KEY, vocabulary, model="own")
    np.testing.assert_array_equal(back.compute(), adata.obsm[KEY])
    np.testing.assert_array_equal(sg.tokens.token_ids(lazy, KEY, vocabulary), adata.var["token_id"])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("form", ["h5ad", "zarr", "h5mu"])
def test_round_trips(adata: ad.AnnData, vocabulary: sg.Vocabulary, form: str, lazy: bool, tmp_path: Path) -> None:
    if lazy:
        adata.X = da.from_array(adata.X.toarray(), chunks=(16, adata.n_vars))
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
        np.testing.assert_equal(dict(back.uns[KEY][part]), adata.uns[KEY][part])
