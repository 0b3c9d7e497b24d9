"""References give the same answers from memory and from a folder, accept matching queries only, and write nothing if they refuse one."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

import scgeneformer as sg
from scgeneformer import stats

OPTIONS = {"unknown": 0.1, "key_added": "new", "copy": True}


def assert_same(a, b) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.obsm["new_proba"], b.obsm["new_proba"])
    assert {k: str(v) for k, v in a.uns["new"]["params"].items()} == {
        k: str(v) for k, v in b.uns["new"]["params"].items()
    }


@pytest.mark.parametrize("options", [{}, {"donor": "donor", "metric": "cosine"}, {"n_neighbors": 500, "rng": 3}])
def test_a_folder_answers_as_the_annotated_cells_do(make_cells, tmp_path, options) -> None:
    annotated, query = make_cells(300, 1), make_cells(80, 2)
    query.obsm["X_geneformer"][3] = np.nan
    expected = sg.tl.transfer(query, annotated, "type", **OPTIONS, **options)
    reference = sg.Reference.from_adata(annotated, "type", **options)
    reference.save(tmp_path / "atlas")
    assert_same(expected, reference.query(query, **OPTIONS))
    loaded = sg.Reference.load(tmp_path / "atlas")
    assert_same(expected, loaded.query(query, **OPTIONS))
    assert_same(expected, sg.tl.transfer(query, tmp_path / "atlas", **OPTIONS))
    assert_same(expected, sg.tl.transfer(query, reference, "type", use_rep="X_geneformer", **OPTIONS | options))
    pd.testing.assert_frame_equal(loaded.cells, reference.cells)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/reference.json").read_text() == (tmp_path / "atlas/reference.json").read_text()


def test_a_folder_is_replaced_on_request_only(make_cells, tmp_path) -> None:
    sg.Reference.from_adata(make_cells(60, 1), "type").save(tmp_path)
    other = sg.Reference.from_adata(make_cells(90, 2), "type")
    with pytest.raises(ValueError, match="holds a reference.*overwrite=True"):
        other.save(tmp_path)
    other.save(str(tmp_path), overwrite=True)
    assert len(sg.Reference.load(str(tmp_path)).points) == 90
    sg.Reference.load(tmp_path).save(tmp_path, overwrite=True)  # of which the arrays are read from the folder itself
    np.testing.assert_array_equal(sg.Reference.load(tmp_path).points, other.points)


def test_mudata_and_columns_of_other_modalities(make_cells, tmp_path) -> None:
    annotated, query = make_cells(200, 1), make_cells(40, 2)
    expected = sg.tl.transfer(query, annotated, "type", **OPTIONS)
    gates = annotated.copy()
    gates.obs = gates.obs[["type"]].rename(columns={"type": "gate/1"}).iloc[::-1]
    gates.obs_names = annotated.obs_names[::-1]
    del annotated.obs["type"]
    reference = sg.Reference.from_adata(mudata.MuData({"rna": annotated, "prot": gates}), "prot:gate/1", obs=["age"])
    reference.save(tmp_path / "atlas")
    mdata = mudata.MuData({"rna": query})
    sg.Reference.load(tmp_path / "atlas").query(mdata, unknown=0.1, key_added="new")
    pd.testing.assert_series_equal(mdata["rna"].obs["new"], expected.obs["new"])
    assert mdata["rna"].uns["new"]["params"]["embedding"]["weights_sha256"] == "abc"


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
def test_weights_are_those_of_a_slow_loop(make_cells, weights: str) -> None:
    annotated, query = make_cells(120, 1), make_cells(30, 2)
    result = sg.tl.transfer(query, annotated, "type", weights=weights, key_added="new", copy=True)

    def kernel(distances: np.ndarray) -> np.ndarray:
        return np.array([[np.exp(-(d**2) / (2 * row[-1] ** 2)) for d in row] for row in distances])

    oracle = KNeighborsClassifier(15, weights="uniform" if weights == "uniform" else kernel, algorithm="brute")
    oracle.fit(annotated.obsm["X_geneformer"], annotated.obs["type"].astype(str))
    np.testing.assert_allclose(result.obsm["new_proba"], oracle.predict_proba(query.obsm["X_geneformer"]), atol=1e-6)
    coinciding = stats.Neighbors(np.array([[0, 1, 2]]), np.zeros((1, 3)))
    np.testing.assert_allclose(coinciding.votes(np.array([0, 1, 1]), 2, weights="gaussian"), [[1 / 3, 2 / 3]])


@pytest.mark.parametrize("unknown", [None, 0.2])
def test_a_cluster_gets_the_label_with_most_votes(make_cells, unknown) -> None:
    annotated, query = make_cells(300, 1), make_cells(90, 2)
    query.obs["cluster"] = pd.Categorical(np.random.default_rng(0).choice(["p", "q", "far"], 90))
    query.obs.loc[query.obs_names[:5], "cluster"] = np.nan
    query.obsm["X_geneformer"][query.obs["cluster"] == "far"] += 20
    query.obsm["X_geneformer"][10] = np.nan
    alone = sg.tl.transfer(query, annotated, "type", unknown=unknown, key_added="new", copy=True)
    result = sg.tl.transfer(
        query, annotated, "type", unknown=unknown, majority_by="cluster", key_added="new", copy=True
    )
    shares = alone.obsm["new_proba"].set_axis(["B", "CD4+/CD25 T", "NK"], axis=1).assign(unknown=0.0)
    if unknown:
        shares.loc[alone.obs["new"] == "unknown"] = [0.0, 0.0, 0.0, 1.0]
    mean = shares.groupby(query.obs["cluster"], observed=True).mean()
    for i, name in enumerate(query.obs_names):
        cluster = query.obs["cluster"].iloc[i]
        if i == 10:
            assert pd.isna(result.obs.loc[name, "new"])
        elif pd.isna(cluster):
            assert result.obs.loc[name, "new"] == alone.obs.loc[name, "new"]
            assert np.isnan(result.obs.loc[name, "new_majority"])
        else:
            assert result.obs.loc[name, "new"] == mean.loc[cluster].idxmax()
            np.testing.assert_allclose(result.obs.loc[name, "new_majority"], mean.loc[cluster].max())
    if unknown:
        assert mean.idxmax(axis=1)["far"] == "unknown"
    raw = alone.obs["new_nearest" if unknown else "new"]
    pd.testing.assert_series_equal(result.obs["new_nearest"], raw, check_names=False)
    pd.testing.assert_series_equal(result.obs["new_score"], alone.obs["new_score"])
    sg.tl.transfer(result, annotated, "type", key_added="new")
    assert not {"new_majority", "new_nearest"} & set(result.obs)  # of the run before


def test_nearest_cells_and_what_is_known_of_them(make_cells, tmp_path) -> None:
    annotated, query = make_cells(50, 1), make_cells(10, 2)
    query.obsm["X_geneformer"][4] = np.nan
    annotated.obs["rank"] = pd.Series(["high", None] * 25, index=annotated.obs_names)
    reference = sg.Reference.from_adata(annotated, "type", donor="donor", obs=["age", "rank"])
    names = [query.obs_names[i] for i in (7, 4, 2)]
    table = sg.get.neighbors(query, reference, names, n_neighbors=4)
    assert list(table) == ["cell", "rank", "neighbor", "distance", "type", "donor", "age", "reference_rank"]
    assert table["cell"].tolist() == [query.obs_names[i] for i in (2, 2, 2, 2, 7, 7, 7, 7)]
    for i, (_, rows) in zip((2, 7), table.groupby("cell"), strict=True):
        distances = np.linalg.norm(annotated.obsm["X_geneformer"] - query.obsm["X_geneformer"][i], axis=1)
        nearest = np.argsort(distances)[:4]
        assert rows["neighbor"].tolist() == annotated.obs_names[nearest].tolist()
        np.testing.assert_allclose(rows["distance"], distances[nearest], rtol=1e-4)
        assert rows["age"].tolist() == annotated.obs["age"].iloc[nearest].tolist()
        assert rows["type"].astype(str).tolist() == annotated.obs["type"].astype(str).iloc[nearest].tolist()
    reference.save(tmp_path / "atlas")
    pd.testing.assert_frame_equal(sg.get.neighbors(query, tmp_path / "atlas", names, n_neighbors=4), table)
    assert len(sg.get.neighbors(query, reference, n_neighbors=100)) == 9 * 50
    assert sg.get.neighbors(query, reference, [query.obs_names[4]]).empty
    with pytest.raises(KeyError, match="1 of 2 cells are not in adata.obs_names, such as 'x'"):
        sg.get.neighbors(query, reference, [names[0], "x"])


def _forbidden(*_: object, **__: object) -> None:
    pytest.fail("expensive work was begun")


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda q: q.obsm.clear(), {}, KeyError, r"adata\.obsm\['X_geneformer'\].*sg\.tl\.embed\(adata, 'V2-104M', pooling='mean', emb_layer=-1\)"),
        (lambda q: q.uns["geneformer"]["params"].update(weights_sha256="x"), {}, ValueError, "weights_sha256='x' in adata, 'abc'.*sg.tl.embed"),
        (lambda q: q.obsm.update(X_geneformer=np.ones((20, 3))), {}, ValueError, "3 columns in adata, 8 in the reference"),
        (lambda q: q.obsm["X_geneformer"].fill(np.nan), {}, ValueError, "No cell of adata has a place.*no gene of the vocabulary.*gene_ids"),
        (lambda q: q.obs.insert(0, "new", 1), {}, ValueError, r"\.obs\['new'\] is not a result of scgeneformer"),
        (None, {"majority_by": "leiden"}, KeyError, "No column 'leiden' in adata.obs"),
        (None, {"unknown": 1e-3}, ValueError, "needs at least 1000 reference cells"),
        (None, {"labels": "cluster"}, ValueError, "labels='cluster' differs from the reference, which was made with 'type'"),
        (None, {"n_neighbors": 5}, ValueError, "n_neighbors=5 differs from the reference"),
        (None, {"rng": 1}, ValueError, "rng=1 differs from the reference"),
        (None, {"weights": "rank"}, ValueError, "weights='rank' must be"),
    ],
)  # fmt: skip
def test_queries_that_do_not_fit_are_refused_before_work(
    make_cells, monkeypatch, change, options, error, match
) -> None:
    reference, query = sg.Reference.from_adata(make_cells(60, 1), "type"), make_cells(20, 2)
    if change is not None:
        change(query)
    before, slots = query.obs.copy(), set(query.uns) | set(query.obsm)
    monkeypatch.setattr(stats, "NeighborIndex", _forbidden)
    with pytest.raises(error, match=match):
        sg.tl.transfer(query, reference, **{"labels": None, "key_added": "new", **options})
    pd.testing.assert_frame_equal(query.obs, before)
    assert set(query.uns) | set(query.obsm) == slots


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda a: a.obsm.clear(), {}, KeyError, r"No representation in adata\.obsm\['X_geneformer'\]"),
        (lambda a: a.obsm.update(X_geneformer=np.ones((60, 2, 2))), {}, ValueError, r"shape \(60, 2, 2\)"),
        (lambda a: a.obs.insert(0, "x", ["single", *"ab" * 29, "a"]), {"labels": "x"}, ValueError, r"single cell in \.obs\['x'\].*'single'.*missing"),
        (None, {"labels": "nothing"}, KeyError, "No column 'nothing' in adata.obs"),
        (None, {"obs": ["nothing"]}, KeyError, "No column 'nothing' in adata.obs"),
        (lambda a: a.obs.__setitem__("donor", "one"), {"donor": "donor"}, ValueError, "of one donor"),
        (None, {"n_neighbors": 0}, ValueError, "at least 1"),
    ],
)  # fmt: skip
def test_cells_that_are_no_reference_are_refused(make_cells, monkeypatch, change, options, error, match) -> None:
    annotated = make_cells(60, 1)
    if change is not None:
        change(annotated)
    monkeypatch.setattr(stats, "NeighborIndex", _forbidden)
    with pytest.raises(error, match=match):
        sg.Reference.from_adata(annotated, **{"labels": "type", **options})


def test_annotated_cells_need_a_column_of_labels(make_cells) -> None:
    with pytest.raises(ValueError, match="labels=None.*Name it"):
        sg.tl.transfer(make_cells(20, 2), make_cells(60, 1))


def test_labels_of_several_types_are_refused_before_a_file_is_written(make_cells, tmp_path) -> None:
    annotated = make_cells(60, 1)
    annotated.obs["mixed"] = pd.Categorical([1, "b"] * 30)
    with pytest.raises(ValueError, match="Column 'mixed' .* several types"):
        sg.Reference.from_adata(annotated, "mixed").save(tmp_path / "atlas")
    assert not (tmp_path / "atlas").exists()
