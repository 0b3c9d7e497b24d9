from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scgeneformer as sg


@pytest.fixture
def adata() -> AnnData:
    """A ranking written by hand: significant are b and d; c was never perturbed, e was not tested."""
    adata = AnnData(np.zeros((2, 5)), var=pd.DataFrame(index=list("abcde")))
    nan = np.nan
    adata.varm["shift"] = pd.DataFrame(
        {
            "n_cells": [9, 8, 0, 7, 1],
            "effect": [0.5, -0.2, nan, 0.1, 0.9],
            "scores": [1.0, -4.0, nan, 4.5, nan],
            "pvals": [0.3, 1e-4, nan, 1e-5, nan],
            "pvals_adj": [0.3, 0.003, nan, 0.003, nan],
            "effect_B": [0.0, 0.1, nan, 0.2, 0.3],
            "scores_B": [0.0, 1.0, nan, 2.0, nan],
            "pvals_B": [1.0, 0.3, nan, 0.04, nan],
            "pvals_adj_B": [1.0, 0.45, nan, 0.12, nan],
        },
        index=adata.var_names,
    )
    adata.uns["shift"] = {"rank": {"states": np.array(["Mono", "B"], dtype=object)}}
    return adata


def test_what_moves_cells_towards_the_state_comes_first(adata) -> None:
    frame = sg.get.shifts(adata)
    assert frame.columns.tolist() == ["names", "state", "n_cells", "effect", "scores", "pvals", "pvals_adj"]
    assert frame["names"].tolist() == [
        "d",
        "a",
        "b",
        "e",
    ]  # the worst gene is last, but for the one that was not tested
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert set(frame["state"]) == {"Mono"}
    pd.testing.assert_frame_equal(frame, sg.get.shifts(mudata.MuData({"rna": adata})))


def test_official_tables_begin_with_significant_genes(adata) -> None:
    adata.uns["shift"]["rank"]["compat"] = "official"
    assert sg.get.shifts(adata)["names"].tolist() == ["d", "b", "a", "e"]


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [
        ("effect", "eadb"),
        ("abs_effect", "eabd"),
        ("pvals", "dbae"),
        ("scores", "dabe"),
        ("n_cells", "abde"),
        ("names", "abde"),
    ],
)
def test_sort_by(adata, sort_by: str, expected: str) -> None:
    assert "".join(sg.get.shifts(adata, sort_by=sort_by)["names"]) == expected
    assert "".join(sg.get.shifts(adata, sort_by=sort_by, n_top=2)["names"]) == expected[:2]


def test_another_state_has_the_same_columns(adata) -> None:
    target, other = sg.get.shifts(adata, state="Mono"), sg.get.shifts(adata, state="B")
    assert other.columns.tolist() == target.columns.tolist()
    assert other["names"].tolist() == list("dbae")
    table = adata.varm["shift"].loc[other["names"]]
    np.testing.assert_array_equal(other[["effect", "pvals"]], table[["effect_B", "pvals_B"]])
    np.testing.assert_array_equal(other["n_cells"], table["n_cells"])


def test_symbols_are_joined(adata) -> None:
    assert "symbol" not in sg.get.shifts(adata)
    adata.var["feature_name"] = pd.Categorical(list("ABCDE"))
    adata.var["mine"] = list("vwxyz")
    assert sg.get.shifts(adata)["symbol"].tolist() == list("DABE")
    assert sg.get.shifts(adata, gene_symbols="mine")["symbol"].tolist() == list("yvwz")


def test_mixture_without_states(adata) -> None:
    adata.varm["shift"] = adata.varm["shift"][["n_cells", "effect"]].assign(impact=[0, 1, np.nan, 1, np.nan])
    adata.uns["shift"]["rank"].pop("states")
    frame = sg.get.shifts(adata)
    assert frame.columns.tolist() == ["names", "n_cells", "effect", "impact"]
    assert frame["names"].tolist() == ["d", "b", "a", "e"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "other"}, KeyError, r"\.varm\['other'\].*sg\.tl\.rank_shifts"),
        ({"state": "T"}, ValueError, "not an end state"),
        ({"sort_by": "p"}, KeyError, "Cannot sort by 'p'"),
        ({"gene_symbols": "symbol"}, KeyError, "No column 'symbol'"),
    ],
)
def test_errors(adata, options, error, match) -> None:
    with pytest.raises(error, match=match):
        sg.get.shifts(adata, **options)


@pytest.fixture
def affected() -> AnnData:
    """Effects on genes written by hand: of a (on b, exactly 0 too, and d) and c (on a), and of the set x|y (on b, c)."""
    adata = AnnData(np.zeros((2, 5)), var=pd.DataFrame({"symbol": list("ABCAE")}, index=list("abcde")))
    at = np.array([0, 0, 2]), np.array([3, 1, 0])
    for key, values in {"shift": [0.9, 0.0, 0.7], "shift_n": [4, 2, 3], "shift_sd": [0.1, 0.0, 0.2]}.items():
        adata.varp[key] = sparse.coo_matrix((values, at), (5, 5)).tocsr()
    nan = np.nan
    for key, values in {
        "shift_sets": [nan, 0.8, 0.6, nan, nan],
        "shift_sets_n": [0, 5, 6, 0, 0],
        "shift_sets_sd": [nan, 0.01, 0.02, nan, nan],
    }.items():
        adata.varm[key] = pd.DataFrame({"x|y": values}, index=adata.var_names)
    return adata


@pytest.mark.parametrize(
    ("perturbed", "genes", "n_cells", "cosine", "sd"),
    [
        ("a", "bd", [2, 4], [0.0, 0.9], [0.0, 0.1]),
        ("C", "a", [3], [0.7], [0.2]),  # a symbol
        ("A", "bd", [2, 4], [0.0, 0.9], [0.0, 0.1]),  # the symbol of a and d, of which only a was perturbed
        ("x|y", "cb", [6, 5], [0.6, 0.8], [0.02, 0.01]),
        ("x/y", "cb", [6, 5], [0.6, 0.8], [0.02, 0.01]),
    ],
)
def test_effects_most_affected_first(affected, perturbed, genes, n_cells, cosine, sd) -> None:
    frame = sg.get.effects(affected, perturbed)
    expected = pd.DataFrame({"names": list(genes), "n_cells": n_cells, "cosine": cosine, "sd": sd})
    expected.insert(1, "symbol", affected.var["symbol"].loc[list(genes)].to_numpy())
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)
    pd.testing.assert_frame_equal(sg.get.effects(affected, perturbed, n_top=1), frame[:1])
    pd.testing.assert_frame_equal(sg.get.effects(mudata.MuData({"rna": affected}), perturbed), frame)


def test_effects_where_only_sets_were_perturbed(affected) -> None:
    del affected.varp["shift"]
    assert len(sg.get.effects(affected, "x|y")) == 2
    with pytest.raises(KeyError, match=r"'a' on genes.*sg\.tl\.perturb"):
        sg.get.effects(affected, "a")


def with_two_genes_of_one_symbol(adata: AnnData) -> None:
    adata.var["symbol"] = list("ABADE")


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (None, {"perturbed": "b"}, KeyError, r"'b' on genes.*\.varp\['shift'\].*\.varm\['shift_sets'\]"),
        (None, {"perturbed": "a", "key": "other"}, KeyError, r"\.varp\['other'\]"),
        (None, {"perturbed": "a", "gene_symbols": "name"}, KeyError, "No column 'name'"),
        (lambda adata: adata.varp.pop("shift_sd"), {"perturbed": "a"}, KeyError, r"\.varp\['shift_sd'\]"),
        (lambda adata: adata.varm.pop("shift_sets_n"), {"perturbed": "x|y"}, KeyError, r"\.varm\['shift_sets_n'\]"),
        (with_two_genes_of_one_symbol, {"perturbed": "A"}, ValueError, "names 2 perturbed genes"),
    ],
)
def test_errors_of_effects(affected, change, options, error, match) -> None:
    if change is not None:
        change(affected)
    with pytest.raises(error, match=match):
        sg.get.effects(affected, **options)


def test_aggregated_effects_are_sorted_by_effect(adata) -> None:
    adata.varm["shift"] = adata.varm["shift"][["n_cells", "effect", "effect_B"]]
    assert sg.get.shifts(adata)["names"].tolist() == list("eadb")
    assert sg.get.shifts(adata, state="B").columns.tolist() == ["names", "state", "n_cells", "effect"]
