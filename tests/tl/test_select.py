"""Which cells and genes are asked for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg
from scgeneformer.tl._perturbation._select import (
    check_anchor,
    check_columns,
    check_expressed,
    choose_cells,
    selected_cells,
    tokens_of_genes,
    tokens_of_sets,
)


@pytest.fixture
def inputs(tokenized, folder):
    """What these functions need of a model's inputs."""
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
        ("nothing > 3", ValueError, r"not a valid query of \.obs.*'n'"),
        ("n >", ValueError, "not a valid query"),
        ("cell3", ValueError, "not a valid query"),
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
    assert choose_cells(cells, "n > 30", np.array([2, 31, 38])).tolist() == [31, 38]
    assert choose_cells(cells, None, None).tolist() == list(range(40))
    with pytest.raises(ValueError, match="No cell of the `source` is among `cells`"):
        choose_cells(cells, "n > 30", np.array([2]))


def test_genes_in_their_order_and_once(inputs):
    names, ids = inputs.cells.var_names, inputs.token_id
    asked = ["SYM3", names[7], f"{names[2]}.11", names[3], names[7].lower()]
    np.testing.assert_array_equal(tokens_of_genes(inputs, asked, missing="error"), ids[[3, 7, 2]])
    for one in (names[4], pd.Index([names[4]]), np.array([names[4]]), (names[4], names[4])):
        np.testing.assert_array_equal(tokens_of_genes(inputs, one, missing="error"), [ids[4]])


def test_names_of_var_come_before_what_the_vocabulary_says(inputs):
    names = inputs.cells.var_names.to_list()
    names[0], names[1] = names[1], names[0]  # the table was made from other names
    inputs.cells.var_names = names
    assert tokens_of_genes(inputs, names[0], missing="error").tolist() == [inputs.token_id[0]]


def test_unknown_genes(inputs):
    names = inputs.cells.var_names
    asked = ["GATA4", names[29], names[2]]
    with pytest.raises(ValueError, match=f"`genes` that are not in vocabulary 'small': GATA4, {names[29]}"):
        tokens_of_genes(inputs, asked, missing="error")
    with pytest.warns(UserWarning, match=f"Left out of `genes`.*'small': GATA4, {names[29]}"):
        found = tokens_of_genes(inputs, asked, missing="ignore")
    assert found.tolist() == [inputs.token_id[2]]
    with pytest.raises(ValueError, match="No gene in `genes`"), pytest.warns(UserWarning, match="Left out"):
        tokens_of_genes(inputs, asked[:2], missing="ignore")
    with pytest.raises(ValueError, match="No gene in `genes`"):
        tokens_of_genes(inputs, [], missing="error")


def test_a_gene_of_the_data_without_a_token_is_not_looked_up_by_its_name(inputs):
    """It has an id that the vocabulary does not know; its symbol would lead to a token that no column of `var` has."""
    symbol = "SYM5"
    inputs.cells.var_names = [symbol if i == 29 else name for i, name in enumerate(inputs.cells.var_names)]
    assert inputs.token_id[29] == -1
    with pytest.warns(UserWarning, match="Left out of `genes`.*SYM5"):
        tokens = tokens_of_genes(inputs, [symbol, inputs.cells.var_names[2]], missing="ignore")
    assert tokens.tolist() == [inputs.token_id[2]]


def test_sets(inputs):
    names, ids = inputs.cells.var_names, inputs.token_id
    found = tokens_of_sets(inputs, {"a/b": [names[1], "SYM2", names[1]], 7: (names[5],)}, missing="error")
    assert {name: tokens.tolist() for name, tokens in found.items()} == {"a|b": ids[[1, 2]].tolist(), "7": [ids[5]]}
    assert list(tokens_of_sets(inputs, [(names[1], "SYM2")], missing="error")) == [f"{names[1]}+SYM2"]
    with pytest.warns(UserWarning, match=r"sets\['x'\].*GATA4"):
        found = tokens_of_sets(inputs, {"x": ["GATA4", names[1]]}, missing="ignore")
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
        ({"a/b": ["SYM1"], "a|b": ["SYM2"]}, "Sets 'a/b' and 'a\\|b' differ only by a slash and a bar"),
    ],
    ids=str,
)
def test_sets_that_cannot_be(inputs, sets, words):
    with pytest.raises(ValueError, match=words):
        tokens_of_sets(inputs, sets, missing="error")


def test_genes_without_cells_or_columns(inputs):
    ids = inputs.vocabulary.ids
    check_expressed(inputs, np.array([5, 6]), [np.array([[6, 0]]), np.array([[5, 0]])])
    with pytest.raises(ValueError, match=rf"no perturbed cell: SYM3 \({ids[7]}\), SYM5 \({ids[9]}\)"):
        check_expressed(inputs, np.array([5, 7, 9]), [np.array([[6, 5, 0]])])
    column_of = np.full(40, -1)
    column_of[5] = 0
    check_columns(inputs, np.array([5]), column_of)
    with pytest.raises(ValueError, match=rf"without a column in \.var.*{ids[8]}.*perturb_sets"):
        check_columns(inputs, np.array([5, 8]), column_of)


def test_anchors(inputs):
    ids = inputs.vocabulary.ids
    check_anchor(inputs, 5, np.array([5, 6]), None)
    check_anchor(inputs, 5, np.array([6]), [np.array([[5]])])
    with pytest.raises(ValueError, match=f"No gene goes with `anchor` {ids[5]}"):
        check_anchor(inputs, 5, np.array([5]), None)
    with pytest.raises(ValueError, match=f"no perturbed cell.*{ids[5]}"):
        check_anchor(inputs, 5, np.array([6]), [np.array([[7]])])
