from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.neighbors import KNeighborsClassifier

import scgeneformer as sg

LABELS = np.array(["B", "CD4+/CD25 T", "NK", "unused"])


def cells(n: int, seed: int, *, rep: str = "X_geneformer") -> AnnData:
    rng = np.random.default_rng(seed)
    code = rng.integers(0, 3, n)
    adata = AnnData(
        np.zeros((n, 1), dtype=np.float32),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical.from_codes(code, LABELS)}, index=[f"{seed}-{i}" for i in range(n)]
        ),
    )
    centres = np.random.default_rng(0).normal(size=(3, 16))
    adata.obsm[rep] = (centres[code] + rng.normal(size=(n, 16))).astype(np.float32)
    adata.uns["geneformer"] = {"params": {"weights_sha256": "abc", "pooling": "mean", "emb_layer": -1}}
    return adata


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_equals_sklearn_on_every_cell(metric: str) -> None:
    reference, query = cells(300, 1), cells(120, 2)
    sg.tl.transfer(query, reference, "cell_type", metric=metric, key_added="new")
    oracle = KNeighborsClassifier(15, weights="distance", metric=metric, algorithm="brute")
    oracle.fit(reference.obsm["X_geneformer"], reference.obs["cell_type"].astype(str))
    probability = oracle.predict_proba(query.obsm["X_geneformer"])
    np.testing.assert_allclose(query.obsm["new_proba"], probability, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(query.obs["new"].astype(str), oracle.predict(query.obsm["X_geneformer"]))
    np.testing.assert_allclose(query.obs["new_score"], probability.max(axis=1), rtol=1e-5)
    assert query.obs["new"].cat.categories.tolist() == LABELS[:3].tolist()
    assert query.obsm["new_proba"].columns.tolist() == ["B", "CD4+|CD25 T", "NK"]
    assert np.mean(query.obs["new"].astype(str) == query.obs["cell_type"].astype(str)) > 0.9


def test_index_agrees_with_brute_force() -> None:
    reference, query = cells(1500, 1), cells(200, 2)
    sg.tl.transfer(query, reference, "cell_type", key_added="exact")
    sg.tl.transfer(query, reference, "cell_type", key_added="index", exact=False)
    assert np.mean(query.obs["exact"] == query.obs["index"]) > 0.99
    np.testing.assert_allclose(query.obsm["exact_proba"], query.obsm["index_proba"], atol=0.1)
    np.testing.assert_allclose(query.obs["exact_distance"], query.obs["index_distance"], atol=0.02)
    np.testing.assert_allclose(query.obs["exact_novelty"], query.obs["index_novelty"], atol=0.05)
    side = (
        reference.obsm["X_geneformer"][:, 0] > 0.5
    )  # many cells have few neighbours of other donors among their nearest
    reference.obs["donor"] = np.where(side, "a", np.where(np.arange(1500) % 2, "b", "c"))
    sg.tl.transfer(query, reference, "cell_type", key_added="exact", donor="donor")
    sg.tl.transfer(query, reference, "cell_type", key_added="left_out", exact=False, donor="donor")
    np.testing.assert_allclose(query.obs["exact_novelty"], query.obs["left_out_novelty"], atol=0.05)
    again = query.copy()
    sg.tl.transfer(again, reference, "cell_type", key_added="index", exact=False)
    np.testing.assert_array_equal(again.obsm["index_proba"], query.obsm["index_proba"])


def test_a_cell_of_the_reference_keeps_its_label() -> None:
    reference = cells(200, 1)
    reference.obsm["X_geneformer"] = np.round(reference.obsm["X_geneformer"])  # distances of 0 are then exactly 0
    query = reference[::3].copy()
    sg.tl.transfer(query, reference, "cell_type", key_added="new")
    np.testing.assert_array_equal(query.obs["new"].astype(str), query.obs["cell_type"].astype(str))
    np.testing.assert_array_equal(query.obs["new_score"], 1)


def test_unlabelled_and_unplaced_cells_are_left_out() -> None:
    reference, query = cells(100, 1), cells(50, 2)
    reference.obs.loc[reference.obs_names[:10], "cell_type"] = np.nan
    reference.obsm["X_geneformer"][10:20] = np.nan
    query.obsm["X_geneformer"][[3, 7]] = np.nan
    clean = query.copy()
    sg.tl.transfer(query, reference, "cell_type", key_added="new")
    sg.tl.transfer(clean, reference[20:].copy(), "cell_type", key_added="new")
    pd.testing.assert_frame_equal(query.obs, clean.obs)
    assert np.flatnonzero(query.obs["new"].isna()).tolist() == [3, 7]
    assert np.flatnonzero(query.obs["new_score"].isna()).tolist() == [3, 7]


def test_few_reference_cells() -> None:
    reference, query = cells(4, 1), cells(10, 2)
    sg.tl.transfer(query, reference, "cell_type", key_added="new")
    assert query.uns["new"]["params"]["n_neighbors"] == 4
    np.testing.assert_allclose(query.obsm["new_proba"].sum(axis=1), 1)


def test_copy_mudata_and_reference_untouched() -> None:
    reference, query = cells(60, 1), cells(20, 2)
    before = reference.copy()
    labelled = sg.tl.transfer(query, reference, "cell_type", key_added="new", copy=True)
    assert "new" not in query.obs
    pd.testing.assert_frame_equal(reference.obs, before.obs)
    mdata = mudata.MuData({"rna": query})
    assert sg.tl.transfer(mdata, reference, "cell_type", key_added="new") is None
    pd.testing.assert_series_equal(mdata["rna"].obs["new"], labelled.obs["new"])


def test_labels_of_another_modality(tmp_path) -> None:
    reference, query = cells(60, 1), cells(20, 2)
    alone = sg.tl.transfer(query, reference, "cell_type", copy=True)
    gates = AnnData(np.ones((60, 1)), obs=reference.obs.rename(columns={"cell_type": "gate"}).iloc[::-1])
    del reference.obs["cell_type"]
    data = mudata.MuData({"rna": reference, "prot": gates})
    mdata = mudata.MuData({"rna": query})
    sg.tl.transfer(mdata, data, "prot:gate")
    mdata.write_h5mu(tmp_path / "x.h5mu")
    result = mudata.read_h5mu(tmp_path / "x.h5mu")["rna"].obs["prot:gate_transferred"]
    pd.testing.assert_series_equal(result, alone.obs["cell_type_transferred"], check_names=False)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_round_trip(tmp_path, suffix: str) -> None:
    query = cells(20, 2)
    sg.tl.transfer(query, cells(60, 1), "cell_type", key_added="new")
    query.obs["cell_type"] = query.obs["cell_type"].cat.remove_unused_categories()
    path = tmp_path / f"x.{suffix}"
    getattr(query, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(back.obsm["new_proba"], query.obsm["new_proba"])
    pd.testing.assert_series_equal(back.obs["new"], query.obs["new"])


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda q, r: q.obsm.clear(), {}, KeyError, r"adata\.obsm\['X_geneformer'\].*sg\.tl\.embed"),
        (lambda q, r: r.obsm.clear(), {}, KeyError, r"reference\.obsm\['X_geneformer'\]"),
        (lambda q, r: r.obs.drop(columns="cell_type", inplace=True), {}, KeyError, "No column 'cell_type'"),
        (lambda q, r: r.obsm.update(X_geneformer=np.ones((r.n_obs, 3))), {}, ValueError, "16 columns in adata, 3"),
        (lambda q, r: q.uns["geneformer"]["params"].update(weights_sha256="x"), {}, ValueError, "weights_sha256='x'"),
        (lambda q, r: q.uns["geneformer"]["params"].update(emb_layer=0), {}, ValueError, "emb_layer=0"),
        (lambda q, r: r.obs.update({"cell_type": pd.Series(dtype=object)}), {"metric": "l1"}, ValueError, "must be"),
        (lambda q, r: r.obsm["X_geneformer"].fill(np.nan), {}, ValueError, "No cell of the reference"),
        (lambda q, r: None, {"n_neighbors": 0}, ValueError, "at least 1"),
        (
            lambda q, r: (
                r.obs.insert(0, "x", r.obs.pop("cell_type")) or r.obs.insert(0, "cell_type", ["a/b", "a|b"] * 15)
            ),
            {},
            ValueError,
            r"reference.obs\['cell_type'\] 'a/b' and 'a\|b' differ only",
        ),
    ],
)
def test_errors_name_the_slot_and_change_nothing(change, options, error, match) -> None:
    reference, query = cells(30, 1), cells(10, 2)
    change(query, reference)
    with pytest.raises(error, match=match):
        sg.tl.transfer(query, reference, "cell_type", key_added="new", **options)
    assert "new" not in query.obs
    assert "new_proba" not in query.obsm
