"""Which cells and genes are asked for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer.tl._asked import (
    check_anchor,
    check_columns,
    check_expressed,
    choose_cells,
    selected_cells,
    tokens_of_genes,
    tokens_of_sets,
)


@pytest.fixture
def task(tokenized, folder):
    """What these functions need of a task."""
    return SimpleNamespace(
        cells=tokenized, vocabulary=sg.hub.load(folder).vocabulary, token_id=tokenized.var["token_id"].to_numpy()
    )


@pytest.fixture
def cells(adata):
    adata.obs["n"] = np.arange(40)
    adata.obs["flag"] = adata.obs["n"] % 2 == 0
    adata.obs["maybe"] = pd.array([True, False] * 20, dtype="boolean")
    return adata


EVEN = np.arange(40) % 2 == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, np.ones(40, bool)),
        ("n > 30", np.arange(40) > 30),
        ("n > 30 and flag", (np.arange(40) > 30) & EVEN),
        ("flag", EVEN),
        ("maybe", EVEN),
        ("~flag", ~EVEN),
        (EVEN, EVEN),
        (EVEN.tolist(), EVEN),
        (pd.Series(EVEN), EVEN),
        (pd.array(EVEN, dtype="boolean"), EVEN),
        (["cell3", "cell1", "cell3"], np.isin(np.arange(40), [1, 3])),
        (pd.Index(["cell5"]), np.arange(40) == 5),
        (("cell5", "cell6"), np.isin(np.arange(40), [5, 6])),
    ],
    ids=str,
)
def test_cells(cells, asked, expected):
    found = selected_cells(cells, asked)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)


def test_a_query_by_state(cells):
    np.testing.assert_array_equal(selected_cells(cells, "state == 'sick'"), cells.obs["state"] == "sick")


def test_names_that_several_cells_have_take_all_of_them(cells):
    cells.obs_names = ["a", "a", *cells.obs_names[2:]]
    assert selected_cells(cells, ["a", "cell3"]).nonzero()[0].tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ("nothing > 3", ValueError, r"no query of \.obs.*'n'"),
        ("n >", ValueError, "no query"),
        ("cell3", ValueError, "no query"),
        ("n", KeyError, "neither a condition"),
        ("state", KeyError, "neither a condition"),
        ("n > 100", ValueError, "selects no cell"),
        ([], ValueError, "selects no cell"),
        (np.zeros(40, bool), ValueError, "selects no cell"),
        (np.ones(39, bool), ValueError, "39 bools, but there are 40 cells"),
        (np.ones((40, 2), bool), ValueError, "bools"),
        (["cell3", "dog"], KeyError, "has no 'dog'"),
        ([0, 1], KeyError, "neither a condition"),
    ],
    ids=str,
)
def test_cells_that_cannot_be(cells, asked, error, words):
    with pytest.raises(error, match=words):
        selected_cells(cells, asked)


def test_chosen_cells_are_members_in_their_order(cells):
    rng = np.random.default_rng
    assert choose_cells(cells, "n > 30", np.array([2, 31, 38]), None, rng(0)).tolist() == [31, 38]
    drawn = choose_cells(cells, None, None, 7, rng(3))
    assert len(set(drawn)) == 7
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, choose_cells(cells, None, None, 7, rng(3)))
    assert choose_cells(cells, None, np.arange(5), 5, rng(0)).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="No cell of the `source` is among `cells`"):
        choose_cells(cells, "n > 30", np.array([2]), None, rng(0))


def test_genes_in_their_order_and_once(task):
    names, ids = task.cells.var_names, task.token_id
    asked = ["SYM3", names[7], f"{names[2]}.11", names[3], names[7].lower()]
    np.testing.assert_array_equal(tokens_of_genes(task, asked, missing="error"), ids[[3, 7, 2]])
    for one in (names[4], pd.Index([names[4]]), np.array([names[4]]), (names[4], names[4])):
        np.testing.assert_array_equal(tokens_of_genes(task, one, missing="error"), [ids[4]])


def test_names_of_var_come_before_what_the_vocabulary_says(task):
    names = task.cells.var_names.to_list()
    names[0], names[1] = names[1], names[0]  # the table was made from other names
    task.cells.var_names = names
    assert tokens_of_genes(task, names[0], missing="error").tolist() == [task.token_id[0]]


def test_unknown_genes(task):
    names = task.cells.var_names
    asked = ["GATA4", names[29], names[2]]
    with pytest.raises(ValueError, match=f"`genes` that are not in vocabulary 'small': GATA4, {names[29]}"):
        tokens_of_genes(task, asked, missing="error")
    with pytest.warns(UserWarning, match=f"Left out of `genes`.*'small': GATA4, {names[29]}"):
        found = tokens_of_genes(task, asked, missing="ignore")
    assert found.tolist() == [task.token_id[2]]
    with pytest.raises(ValueError, match="No gene in `genes`"), pytest.warns(UserWarning, match="Left out"):
        tokens_of_genes(task, asked[:2], missing="ignore")
    with pytest.raises(ValueError, match="No gene in `genes`"):
        tokens_of_genes(task, [], missing="error")


def test_sets(task):
    names, ids = task.cells.var_names, task.token_id
    found = tokens_of_sets(task, {"a/b": [names[1], "SYM2", names[1]], 7: (names[5],)}, missing="error")
    assert {name: tokens.tolist() for name, tokens in found.items()} == {"a|b": ids[[1, 2]].tolist(), "7": [ids[5]]}
    assert list(tokens_of_sets(task, [(names[1], "SYM2")], missing="error")) == [f"{names[1]}+SYM2"]
    with pytest.warns(UserWarning, match=r"sets\['x'\].*GATA4"):
        found = tokens_of_sets(task, {"x": ["GATA4", names[1]]}, missing="ignore")
    assert found["x"].tolist() == [ids[1]]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({}, "`sets` is empty"),
        ([], "`sets` is empty"),
        ("SYM1", "must be sets of genes"),
        (["SYM1", "SYM2"], "must be sets of genes"),
        ({"x": []}, r"No gene in `sets\['x'\]`"),
        ({"x": ["GATA4"]}, r"`sets\['x'\]` that are not in vocabulary"),
        ({"a/b": ["SYM1"], "a|b": ["SYM2"]}, "differ by more than a slash and a bar"),
    ],
    ids=str,
)
def test_sets_that_cannot_be(task, sets, words):
    with pytest.raises(ValueError, match=words):
        tokens_of_sets(task, sets, missing="error")


def test_genes_without_cells_or_columns(task):
    ids = task.vocabulary.ids
    check_expressed(task, np.array([5, 6]), np.array([[6, 5, 0]]))
    with pytest.raises(ValueError, match=f"no cell that is perturbed: {ids[7]}, {ids[9]}"):
        check_expressed(task, np.array([5, 7, 9]), np.array([[6, 5, 0]]))
    column_of = np.full(40, -1)
    column_of[5] = 0
    check_columns(task, np.array([5]), column_of)
    with pytest.raises(ValueError, match=rf"without a column in \.var.*{ids[8]}.*`sets`"):
        check_columns(task, np.array([5, 8]), column_of)


def test_anchors(task):
    ids = task.vocabulary.ids
    check_anchor(task, 5, np.array([5, 6]), None)
    check_anchor(task, 5, np.array([6]), np.array([[5]]))
    with pytest.raises(ValueError, match=f"No gene goes with `anchor` {ids[5]}"):
        check_anchor(task, 5, np.array([5]), None)
    with pytest.raises(ValueError, match=f"no cell.*{ids[5]}"):
        check_anchor(task, 5, np.array([6]), np.array([[7]]))
