"""Batches in one space, and embeddings compared: slots, baselines and refusals."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer import stats
from scgeneformer.tl._integration import _baselines, _compare

BATCHES = {"batch_key": "batch"}


@pytest.fixture
def embedded(adata):
    """120 cells of two types in three batches; an embedding that has no place for one cell."""
    adata = ad.concat([adata, adata, adata], merge="same", index_unique="-")
    rng = np.random.default_rng(1)
    adata.obs["batch"] = pd.Categorical(rng.choice(["a", "b/c", "d"], 120))
    adata.obs["type"] = pd.Categorical(rng.choice(["T", "B"], 120))
    adata.obs["condition"] = rng.choice(["ill", "well"], 120)
    points = rng.normal(size=(120, 6))
    points[:, :3] += 3 * adata.obs["batch"].cat.codes.to_numpy()[:, None]
    points[:, 3:] += 12 * (adata.obs["type"] == "T").to_numpy()[:, None]
    points[7] = np.nan
    adata.obsm["X_geneformer"] = points.astype(np.float32)
    adata.uns["geneformer"] = {"params": {"model": "small", "weights_sha256": "x" * 64, "pooling": "mean"}}
    return adata


def distance_of_batches(adata, slot):
    """Largest distance between the means of a type in two batches."""
    groups = [adata.obs["type"].to_numpy(), adata.obs["batch"].to_numpy()]
    means = pd.DataFrame(adata.obsm[slot]).groupby(groups).mean()
    return max(np.linalg.norm(means.loc[t].max() - means.loc[t].min()) for t in ("T", "B"))


@pytest.mark.parametrize("method", ["center", "mnn", "harmony"])
def test_batches_come_together(embedded, method, tmp_path):
    if method == "harmony":
        pytest.importorskip("harmonypy")
    options = {"reference": "a"} if method == "mnn" else {}
    before = embedded.copy()
    sg.tl.integrate(embedded, "batch", method=method, label_key="type", condition_key="condition", **options)
    slot = f"X_geneformer_{method}"
    moved = embedded.obsm[slot]
    assert moved.shape == (120, 6)
    assert moved.dtype == np.float32
    assert np.isnan(moved[7]).all()
    assert np.isfinite(np.delete(moved, 7, axis=0)).all()
    assert distance_of_batches(embedded, slot) < 0.5 * distance_of_batches(embedded, "X_geneformer")
    run = embedded.uns[f"geneformer_{method}"]
    assert run["params"]["weights_sha256"] == "x" * 64
    assert run["composition"].index.tolist() == ["a", "b|c", "d"]
    assert run["composition"]["n_cells"].sum() == 119
    np.testing.assert_array_equal(embedded.obsm["X_geneformer"], before.obsm["X_geneformer"])
    embedded.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "cells.h5ad").obsm[slot], moved)


def test_what_is_computed_is_what_stats_say(embedded):
    sg.tl.integrate(embedded, "batch", method="center", label_key="type", key_added="mine")
    rows = np.delete(np.arange(120), 7)
    codes = embedded.obs[["batch", "type"]].apply(lambda column: column.cat.codes).to_numpy(dtype=int)[rows]
    expected = stats.center(embedded.obsm["X_geneformer"][rows], codes[:, 0], labels=codes[:, 1])
    np.testing.assert_array_equal(embedded.obsm["X_mine"][rows], expected)


def test_in_mudata(embedded):
    data = mudata.MuData({"rna": embedded[:, :20].copy(), "prot": embedded[:, 20:].copy()})
    data.mod["prot"].obs["gate"] = np.where(np.arange(120) % 2, "x", "y")
    sg.tl.integrate(data, "batch", method="center", label_key="prot:gate")
    assert "X_geneformer_center" in data.mod["rna"].obsm
    copy = sg.tl.integrate(data, "batch", method="center", key_added="again", copy=True)
    assert "X_again" in copy.mod["rna"].obsm
    assert "X_again" not in data.mod["rna"].obsm


BAD = {
    "one batch": ({"batch_key": "one"}, ValueError, r"'one'\] has only 'x'.*at least 2 values"),
    "missing": ({"batch_key": "holes"}, ValueError, r"no value in \.obs\['holes'\]"),
    "no column": ({"batch_key": "donor"}, KeyError, "No column 'donor'"),
    "no rep": ({**BATCHES, "use_rep": "X_other"}, KeyError, r"No representation in \.obsm\['X_other'\]"),
    "all NaN": ({**BATCHES, "use_rep": "X_nan"}, ValueError, "No cell has a place"),
    "confounded": (
        {**BATCHES, "condition_key": "of_batch"},
        ValueError,
        "Every batch.*has a single condition.*within batches",
    ),
    "no reference": ({**BATCHES, "method": "mnn"}, ValueError, "Name the batch that stays"),
    "harmony's": ({**BATCHES, "reference": "a"}, ValueError, "moves all batches"),
    "unknown": (
        {**BATCHES, "method": "center", "reference": "z"},
        ValueError,
        "reference='z' is not one of the batches",
    ),
    "method": ({**BATCHES, "method": "scanorama"}, ValueError, "method='scanorama' must be"),
    "taken": ({**BATCHES, "method": "center", "key_added": "user"}, ValueError, r"obsm\['X_user'\] is not a result"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(embedded, name):
    embedded.obs["one"] = "x"
    embedded.obs["holes"] = embedded.obs["batch"].where(np.arange(120) > 3)
    embedded.obs["of_batch"] = (embedded.obs["batch"] == "a").astype(str)
    embedded.obsm["X_nan"] = np.full((120, 3), np.nan)
    embedded.obsm["X_user"] = np.zeros((120, 3))
    arguments, error, words = BAD[name]
    before = (set(embedded.obsm), set(embedded.uns), list(embedded.obs))
    with pytest.raises(error, match=words):
        sg.tl.integrate(embedded, **arguments)
    assert (set(embedded.obsm), set(embedded.uns), list(embedded.obs)) == before


def test_without_harmonypy_the_extra_is_named(embedded, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "harmonypy", None)
    with pytest.raises(ImportError, match=r"pip install 'scgeneformer\[integrate\]'"):
        sg.tl.integrate(embedded, "batch")


def test_conditions_of_one_batch_are_warned_of(embedded, monkeypatch):
    from scanpy import logging as logg

    said = []
    monkeypatch.setattr(logg, "warning", said.append)
    embedded.obs["condition"] = np.where(embedded.obs["batch"] == "a", "ill", embedded.obs["condition"])
    embedded.obs.loc[embedded.obs["batch"] != "a", "condition"] = "well"
    embedded.obs.iloc[np.flatnonzero(embedded.obs["batch"] == "a")[:3], embedded.obs.columns.get_loc("condition")] = (
        "well"
    )
    sg.tl.integrate(embedded, "batch", method="center", label_key="type", condition_key="condition")
    assert any("'ill' is in one batch only" in text for text in said)


@pytest.fixture
def compared(embedded, vocabulary, folder):
    sg.pp.tokenize(embedded, folder)
    return embedded


def test_embeddings_are_compared_with_baselines_on_the_same_cells(compared, tmp_path):
    before = compared.copy()
    sg.tl.integrate(compared, "batch", method="center", label_key="type")
    sg.tl.compare_embeddings(compared, "batch", "type", metrics="sklearn", baselines=["pca", "hvg", "center"])
    table = sg.get.embedding_scores(compared)
    assert table.index.tolist() == [
        "X_geneformer",
        "X_geneformer_center",
        "PCA of HVGs",
        "HVGs",
        "X_geneformer, centred",
        "PCA of HVGs, centred",
    ]
    assert table.notna().all(axis=None)
    assert table.loc["X_geneformer_center", "batch_entropy"] > table.loc["X_geneformer", "batch_entropy"] + 0.2
    assert table.loc["X_geneformer", "silhouette_label"] > table.loc["PCA of HVGs", "silhouette_label"]
    params = compared.uns["embedding_scores"]["params"]
    assert params["n_cells"] == 3 * params["n_cells_of_a_batch"]
    spread = sg.get.embedding_scores(compared, spread=True)
    assert list(spread)[:2] == ["nmi", "nmi_sd"]
    assert set(compared.obsm) == {*before.obsm, "X_geneformer_center"}  # no X_pca
    assert (compared.X != before.X).nnz == 0
    compared.write_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(sg.get.embedding_scores(ad.read_h5ad(tmp_path / "cells.h5ad")), table)
    again = sg.tl.compare_embeddings(compared, "batch", "type", metrics="sklearn", baselines=[], copy=True)
    pd.testing.assert_frame_equal(sg.get.embedding_scores(again), table.iloc[:2])


def test_an_integration_that_is_there_is_not_made_a_second_time(compared):
    options = {"metrics": "sklearn", "baselines": ["pca", "center"], "n_repeats": 1}
    sg.tl.integrate(compared, "batch", method="center")
    sg.tl.compare_embeddings(compared, "batch", "type", **options)
    rows = ["X_geneformer", "X_geneformer_center", "PCA of HVGs", "PCA of HVGs, centred"]
    assert sg.get.embedding_scores(compared).index.tolist() == rows
    sg.tl.compare_embeddings(compared, "condition", "type", **options)  # centred by another column
    assert sg.get.embedding_scores(compared).index.tolist() == [*rows[:3], "X_geneformer, centred", rows[3]]


def test_scvi_stands_beside_on_request(compared, monkeypatch, caplog, recwarn):
    import scvi

    train, state = scvi.model.SCVI.train, np.random.get_state()[1].copy()  # noqa: NPY002
    monkeypatch.setattr(_baselines, "N_GENES", 20)
    n_genes = []

    def one_epoch(self, **options):
        n_genes.append(self.adata.n_vars)
        train(self, max_epochs=1, **options)

    monkeypatch.setattr(scvi.model.SCVI, "train", one_epoch)
    sg.tl.compare_embeddings(compared, "batch", "type", metrics="sklearn", baselines=["scvi"], n_repeats=1)
    assert sg.get.embedding_scores(compared).index.tolist() == ["X_geneformer", "scVI"]
    assert n_genes == [20]  # the most variable, as for the other baselines
    again = sg.tl.compare_embeddings(
        compared, "batch", "type", metrics="sklearn", baselines=["scvi"], n_repeats=1, copy=True
    )
    pd.testing.assert_frame_equal(sg.get.embedding_scores(again), sg.get.embedding_scores(compared))
    assert not [record for record in caplog.records if record.name.startswith("lightning")]
    assert not [warning for warning in recwarn if "lightning" in str(warning.filename)]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_the_compilation_of_scores_is_announced_once(compared, monkeypatch):
    from scanpy import logging as logg

    from scgeneformer.evaluation import embeddings

    said = []
    monkeypatch.setattr(logg, "info", lambda text, **_: said.append(text))
    monkeypatch.setattr(_compare.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(embeddings, "by_scib_metrics", lambda *_: {"total": 0.5})
    _compare._announce_compilation.cache_clear()
    for metrics in ("sklearn", "scib", "scib"):
        sg.tl.compare_embeddings(compared, "batch", "type", metrics=metrics, baselines=[])
        assert sum("compiles its functions on the first call" in text for text in said) == (metrics == "scib")


def test_batches_of_few_cells_and_unknown_libraries_are_refused(compared, monkeypatch):
    compared.obs["small"] = np.where(np.arange(120) < 4, "few", "many")
    with pytest.raises(ValueError, match=r"Batch 'few' of \.obs\['small'\] has 4 cells, but 10 are needed"):
        sg.tl.compare_embeddings(compared, "small", "type")
    monkeypatch.setattr(_compare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"scgeneformer\[metrics\]"):
        sg.tl.compare_embeddings(compared, "batch", "type", metrics="scib")
    with pytest.raises(ImportError, match=r"scgeneformer\[integrate\]"):
        sg.tl.compare_embeddings(compared, "batch", "type", baselines=["harmony"])
    assert "embedding_scores" not in compared.uns
