from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

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
            "score": [1.0, -4.0, nan, 4.5, nan],
            "pval": [0.3, 1e-4, nan, 1e-5, nan],
            "fdr": [0.3, 0.003, nan, 0.003, nan],
            "effect_B": [0.0, 0.1, nan, 0.2, 0.3],
            "score_B": [0.0, 1.0, nan, 2.0, nan],
            "pval_B": [1.0, 0.3, nan, 0.04, nan],
            "fdr_B": [1.0, 0.45, nan, 0.12, nan],
        },
        index=adata.var_names,
    )
    adata.uns["shift"] = {"rank": {"states": np.array(["Mono", "B"], dtype=object)}}
    return adata


def test_significant_first_then_tested_then_by_effect(adata) -> None:
    frame = sg.get.shifts(adata)
    assert frame.columns.tolist() == ["gene", "state", "n_cells", "effect", "score", "pval", "fdr"]
    assert frame["gene"].tolist() == ["d", "b", "a", "e"]
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert set(frame["state"]) == {"Mono"}
    pd.testing.assert_frame_equal(frame, sg.get.shifts(mudata.MuData({"rna": adata})))


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [
        ("effect", "eadb"),
        ("abs_effect", "eabd"),
        ("pval", "dbae"),
        ("score", "dabe"),
        ("n_cells", "abde"),
        ("gene", "abde"),
    ],
)
def test_sort_by(adata, sort_by: str, expected: str) -> None:
    assert "".join(sg.get.shifts(adata, sort_by=sort_by)["gene"]) == expected
    assert "".join(sg.get.shifts(adata, sort_by=sort_by, n_top=2)["gene"]) == expected[:2]


def test_another_state_has_the_same_columns(adata) -> None:
    target, other = sg.get.shifts(adata, state="Mono"), sg.get.shifts(adata, state="B")
    assert other.columns.tolist() == target.columns.tolist()
    assert other["gene"].tolist() == list("dbae")
    table = adata.varm["shift"].loc[other["gene"]]
    np.testing.assert_array_equal(other[["effect", "pval"]], table[["effect_B", "pval_B"]])
    np.testing.assert_array_equal(other["n_cells"], table["n_cells"])


def test_symbols_are_joined(adata) -> None:
    assert "symbol" not in sg.get.shifts(adata)
    adata.var["feature_name"] = pd.Categorical(list("ABCDE"))
    adata.var["mine"] = list("vwxyz")
    assert sg.get.shifts(adata)["symbol"].tolist() == list("DBAE")
    assert sg.get.shifts(adata, gene_symbols="mine")["symbol"].tolist() == list("ywvz")


def test_mixture_without_states(adata) -> None:
    adata.varm["shift"] = adata.varm["shift"][["n_cells", "effect"]].assign(impact=[0, 1, np.nan, 1, np.nan])
    adata.uns["shift"]["rank"].pop("states")
    frame = sg.get.shifts(adata)
    assert frame.columns.tolist() == ["gene", "n_cells", "effect", "impact"]
    assert frame["gene"].tolist() == ["d", "b", "a", "e"]


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
