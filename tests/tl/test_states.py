"""States of cells and where they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer.tl._model_inputs import model_inputs
from scgeneformer.tl._perturbation._states import (
    check_centroids,
    compute_centroids,
    draw_members,
    embed_states,
    state_members,
)


@pytest.fixture
def inputs(tokenized, folder):
    return model_inputs(tokenized, folder, tokens_key="geneformer_tokens", pooling="mean", emb_layer=None)


def test_members_target_first(adata):
    found = state_members(adata, "state", "sick", "well", ["odd"])
    assert list(found) == ["well", "sick", "odd"]
    for state, rows in found.items():
        np.testing.assert_array_equal(rows, np.flatnonzero(adata.obs["state"] == state))
    assert list(state_members(adata, "state", None, "well", [])) == ["well"]
    assert list(state_members(adata, "state", "sick", None, [])) == ["sick"]
    assert state_members(adata, None, None, None, []) == {}


def test_states_with_given_centroids_need_no_cells(adata):
    given = {"healthy": np.ones(4), "sick": np.ones(4)}
    found = state_members(adata, "state", "sick", "healthy", [], centroids=given)
    assert len(found["healthy"]) == 0
    assert len(found["sick"])
    assert len(state_members(adata, None, None, "healthy", [], centroids=given)["healthy"]) == 0
    with pytest.raises(ValueError, match="equal to 'gone'"):
        state_members(adata, "state", "gone", "healthy", [], centroids=given | {"gone": np.ones(4)})
    with pytest.raises(ValueError, match="need `groupby`"):
        state_members(adata, None, "sick", "healthy", [], centroids=given)


@pytest.mark.parametrize("values", ["int", "bool", "missing"])
def test_columns_of_any_type(adata, values):
    column = np.arange(40) % 2
    adata.obs["x"] = {"int": column, "bool": column > 0, "missing": pd.Categorical(np.where(column, "1", None))}[values]
    found = state_members(adata, "x", None, {"bool": "True"}.get(values, "1"), [])
    np.testing.assert_array_equal(next(iter(found.values())), np.arange(1, 40, 2))


@pytest.mark.parametrize(
    ("column", "source", "target", "names"),
    [
        (np.arange(40) % 2, 1, np.int64(0), ("1", "0")),
        (np.arange(40) % 2 > 0, True, False, ("True", "False")),
        (np.arange(40) % 2 / 2, 0.5, 0, ("0.5", "0.0")),
        (np.arange(40) % 2, "1", "0", ("1", "0")),
        (pd.array(np.arange(40) % 2, dtype="Int64"), 1, 0, ("1", "0")),
        (pd.Categorical.from_codes(np.arange(40) % 2, [7, 9]), 9, 7, ("9", "7")),
    ],
    ids=["int", "bool", "float", "text", "Int64", "categorical"],
)
def test_states_are_values_of_the_column(adata, folder, column, source, target, names):
    adata.obs["x"] = column
    sg.pp.tokenize(adata, folder)
    given = {target: np.ones(16), source: np.arange(16.0)}
    for centroids in ("mean", given):
        goal = {"groupby": "x", "source": source, "target": target, "centroids": centroids, "max_cells": 2}
        sg.tl.perturb(adata, folder, [adata.var_names[0]], **goal)
        run = adata.uns["shift"]["params"]
        assert (run["source"], run["target"]) == names
        assert f"shift_{names[0]}" in adata.layers
        tested = np.unique(adata.layers["shift"].nonzero()[0])
        assert (np.asarray(column)[tested].astype(str) == names[0]).all()
    sg.tl.rank_shifts(adata, min_cells=1)
    assert sg.get.shifts(adata, state=names[0])["names"].notna().all()


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_missing_values_are_no_state(adata, folder, missing):
    labels = np.array(["sick", missing] * 20, dtype=object)
    adata.obs["x"] = labels
    sg.pp.tokenize(adata, folder)
    with pytest.raises(ValueError, match=r"No cell has .* equal to '(nan|None|<NA>)'. It holds 'sick'"):
        sg.tl.perturb(adata, folder, groupby="x", source="sick", target=str(missing))
    if missing is not None:
        with pytest.raises(ValueError, match=r"missing value .* is not a state"):
            sg.tl.perturb(adata, folder, groupby="x", source="sick", target=missing)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("state", None, None, []), ValueError, "needs a `source`"),
        ((None, None, "well", []), ValueError, r"\['well'\] need `groupby`"),
        (("batch", None, "well", []), KeyError, r"'batch' in \.obs.*state"),
        (("state", "sick", None, ["odd"]), ValueError, "beside a `target`"),
        (("state", "sick", "sick", []), ValueError, "twice"),
        (("state", "sick", "well", ["well"]), ValueError, "twice"),
        (("state", "a/b", "a|b", []), ValueError, r"States 'a\|b' and 'a/b' differ only by a slash"),
        (("state", "sick", "dead", []), ValueError, "equal to 'dead'. It holds 'odd', 'sick', 'well'"),
        (("state", 1, "well", []), ValueError, "equal to 1"),
    ],
    ids=str,
)
def test_members_that_cannot_be(adata, arguments, error, words):
    with pytest.raises(error, match=words):
        state_members(adata, *arguments)


def test_categories_without_cells_are_none(adata):
    adata.obs["state"] = adata.obs["state"].cat.add_categories("none")
    with pytest.raises(ValueError, match="'none'"):
        state_members(adata, "state", None, "none", [])


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ("mean", r"\['b'\] have a single cell"),
        ({"a": np.ones(4)}, "no centroid of 'b'"),
        ({"a": np.ones(4), "b": np.ones(3)}, r"\['b'\] must be 4 finite"),
        ({"a": np.ones(4), "b": np.ones((1, 4))}, r"\['b'\] must be 4 finite"),
        ({"a": np.ones(4), "b": [1, 2, 3, np.nan]}, "finite"),
        ({"a": [1, 2, np.inf, 3], "b": np.ones(4)}, r"\['a'\] .*finite"),
        ({"a": np.zeros(4), "b": np.ones(4)}, "not all 0"),
    ],
    ids=str,
)
def test_centroids_that_cannot_be(positions, words):
    with pytest.raises(ValueError, match=words):
        check_centroids({"a": np.arange(3), "b": np.array([5])}, positions, 4)


def test_given_centroids_of_states_with_one_cell_and_of_more_states():
    given = {"a": np.ones(4, np.float32), "b": [1, 0, 0, 0], "c": "anything"}
    check_centroids({"a": np.arange(3), "b": np.array([5])}, given, 4)


def test_drawn_cells():
    members = {"a": np.arange(5, 30), "b": np.array([1, 3])}
    drawn = draw_members(members, 10, np.random.default_rng(0))
    assert drawn["b"].tolist() == [1, 3]
    assert len(np.unique(drawn["a"])) == 10
    assert np.isin(drawn["a"], members["a"]).all()
    assert (np.diff(drawn["a"]) > 0).all()
    assert draw_members(members, None, np.random.default_rng(0)) is members


@pytest.mark.parametrize(("name", "summary"), [("mean", np.mean), ("median", np.median)])
def test_centroids_are_summaries_of_embeddings(inputs, name, summary):
    members = {"one": np.array([3, 5, 30]), "two": np.array([1, 2])}
    sg.tl.embed(inputs.cells, inputs.pretrained, pooling="mean")
    embedded = inputs.cells.obsm["X_geneformer"].astype(float)
    found = compute_centroids(embed_states(inputs, members), name)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [summary(embedded[rows], axis=0) for rows in members.values()], atol=1e-6)


def test_cells_without_genes_have_no_place(inputs):
    inputs.tokens[[5, 30]] = 0
    np.testing.assert_allclose(
        compute_centroids(embed_states(inputs, {"one": np.array([3, 5, 30])}), "mean"),
        compute_centroids(embed_states(inputs, {"one": np.array([3])}), "mean"),
    )
    with pytest.raises(ValueError, match="No cell of state 'gone' has a gene of vocabulary 'small'"):
        embed_states(inputs, {"gone": np.array([5, 30])})
