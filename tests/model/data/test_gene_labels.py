from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer import Vocabulary
from scgeneformer.model.data._gene_labels import GeneClasses, few, lists_of, tokens_of

IDS = [f"ENSG{i:011d}" for i in range(12)]
VOCABULARY = Vocabulary(
    "named",
    np.array(["<pad>", "<mask>", "<cls>", "<eos>", *IDS]),
    np.r_[[np.nan] * 4, np.ones(12)],
    32,
    {"TP53": IDS[0], "P53": IDS[0], "ENSG00000999999": IDS[1]},
    np.array([""] * 4 + ["TP53", *[f"S{i}" for i in range(1, 12)]]),
)


def test_genes_are_found_by_any_name():
    found = GeneClasses.of({"b": [IDS[5], f"{IDS[4]}.7", IDS[5]], "a": ["p53", "ENSG00000999999.2"]}, VOCABULARY)
    assert found.names == ("b", "a")  # as given, on every run: the official tool's order is that of a set of strings
    np.testing.assert_array_equal(found.tokens, [4, 5, 8, 9])
    np.testing.assert_array_equal(found.codes, [1, 1, 0, 0])
    table = found.table(VOCABULARY)
    assert table["symbol"].tolist() == ["TP53", "S1", "S4", "S5"]
    assert table["class"].tolist() == ["a", "a", "b", "b"]
    assert found.lists(VOCABULARY) == {"b": [IDS[4], IDS[5]], "a": [IDS[0], IDS[1]]}


def test_unknown_genes_are_counted_and_named_and_gone():
    with pytest.warns(UserWarning, match=r"2 of 3 genes of class 'a' are not in the vocabulary 'named'.*NOPE, NADA"):
        found = GeneClasses.of({"a": [IDS[0], "NOPE", "NADA"], "b": [IDS[1]]}, VOCABULARY)
    assert len(found) == 2  # the official tool splits unknown genes between folds, too


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"a": [IDS[0]]}, "two or more"),
        ({"a": [IDS[0]], "b": ["NOPE"]}, "Class 'b' has no gene of the vocabulary 'named'"),
        ({"a": [IDS[0]], "b": []}, "Class 'b' has no gene"),
        ({"a": [IDS[0], IDS[2]], "b": ["P53"]}, f"'b' are also in another class, such as 'a'.*{IDS[0]}"),
        ({"a": IDS[0], "b": [IDS[1]]}, "is one string"),
        ({"n_cells": [IDS[0]], "b": [IDS[1]]}, "cannot be called"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*are left out")
def test_bad_lists_are_named(classes, message):
    with pytest.raises(ValueError, match=message):
        GeneClasses.of(classes, VOCABULARY)


def test_a_column_of_var():
    var = pd.DataFrame(
        {
            "kind": pd.Categorical(["x", None, "y", "x", "y"], categories=["y", "unused", "x"]),
            "token_id": [7, 8, 4, -1, 4],
        },
        index=["g0", "g1", "g2", "g3", "g4"],
    )
    cells = ad.AnnData(var=var)
    lists = lists_of("kind", cells, "geneformer_tokens", VOCABULARY)
    assert lists == {"y": [IDS[0], IDS[0]], "x": [IDS[3], "g3"]}
    with pytest.warns(UserWarning, match="1 of 2 genes of class 'x'.*g3"):
        found = GeneClasses.of(lists, VOCABULARY)
    np.testing.assert_array_equal(found.tokens, [4, 7])
    var["text"] = ["b", None, "a", np.nan, "a"]
    assert list(lists_of("text", ad.AnnData(var=var), "geneformer_tokens", VOCABULARY)) == ["a", "b"]
    with pytest.raises(KeyError, match=r"No column 'other' in .var"):
        lists_of("other", cells, "geneformer_tokens", VOCABULARY)
    with pytest.raises(KeyError, match="sg.pp.tokenize"):
        lists_of("kind", cells, "other", VOCABULARY)
    with pytest.raises(TypeError, match="classes=None must give"):
        lists_of(None, cells, "geneformer_tokens", VOCABULARY)


@given(st.lists(st.integers(-1, 2), min_size=12, max_size=12))
def test_lists_bring_back_the_same_classes(codes):
    lists = {name: [IDS[i] for i, code in enumerate(codes) if code == k] for k, name in enumerate("abc")}
    made = GeneClasses.restored(lists, VOCABULARY)
    assert made.lists(VOCABULARY) == lists
    if all(lists.values()):
        again = GeneClasses.of(lists, VOCABULARY)
        np.testing.assert_array_equal(again.tokens, made.tokens)
        np.testing.assert_array_equal(again.codes, made.codes)
    every = np.arange(len(made))
    np.testing.assert_array_equal(made.code_of_token(16, every)[4:], codes)
    np.testing.assert_array_equal(made.wanted(16), made.code_of_token(16, every) >= 0)


def test_tokens_keep_the_order_of_genes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tokens_of(["S3", IDS[0], "TP53"][1:], VOCABULARY, "x"), [4])
        np.testing.assert_array_equal(tokens_of([IDS[3], IDS[0], IDS[3]], VOCABULARY, "x"), [7, 4])


def test_few_names_and_how_many_more():
    assert few(["a", "b"]) == "a, b"
    assert few(list("abcdefg")) == "a, b, c, d, e and 2 more"
