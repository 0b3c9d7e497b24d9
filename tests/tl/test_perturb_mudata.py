"""Columns of cells may lie in any modality of a MuData, or in its own ``.obs``: the results are those of an AnnData with all of them."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

from .test_perturb_inputs import GOAL, dense

GENES = ["SYM1", "SYM2", "SYM5"]


@pytest.fixture
def whole(tokenized):
    """Cells with all columns in one table."""
    tokenized.obs["gate"] = pd.Categorical(np.array(["T", "B"])[np.arange(40) % 2])
    tokenized.obs["donor"] = pd.Categorical([f"d{i % 3}" for i in range(40)])
    tokenized.obs["n"] = np.arange(40)
    return tokenized


@pytest.fixture
def mdata(whole):
    """The same cells: the state in the other modality, whose cells are in another order, the donor in the MuData."""
    cells = whole.copy()
    cells.obs = cells.obs.drop(columns=["state", "gate", "donor", "n"])
    other = ad.AnnData(np.ones((40, 2), np.float32), obs=whole.obs[["state", "gate", "n"]])[::-1].copy()
    both = md.MuData({"rna": cells, "prot": other})
    both.obs["donor"] = whole.obs["donor"].reindex(both.obs_names)
    return both


def test_states_groups_and_queries(whole, mdata, folder):
    options = {"kind": "delete", "max_cells": 5}
    sg.tl.perturb(whole, folder, GENES, **GOAL, within="gate", cells="n < 30", **options)
    of_other = {"groupby": "prot:state", "within": "prot:gate", "cells": "`prot:n` < 30"}
    sg.tl.perturb(mdata, folder, GENES, **(GOAL | of_other), **options)
    np.testing.assert_array_equal(dense(mdata["rna"], "shift"), dense(whole, "shift"))

    sg.tl.rank_shifts(whole, test="donors", donor="donor", min_cells=1)
    sg.tl.rank_shifts(mdata, test="donors", donor="donor", min_cells=1)
    pd.testing.assert_frame_equal(sg.get.shifts(mdata), sg.get.shifts(whole))
    pd.testing.assert_frame_equal(sg.get.cell_shifts(mdata), sg.get.cell_shifts(whole))


def test_groups_of_a_null(whole, mdata, folder):
    """A null in another MuData is cut into the groups of its own columns."""
    run = GOAL | {"within": "gate"}
    sg.tl.perturb(whole, folder, GENES, **run)
    sg.tl.perturb(mdata, folder, GENES, **(GOAL | {"groupby": "prot:state", "within": "prot:gate"}))
    null = mdata.copy()
    sg.tl.rank_shifts(mdata, test="vs_null", null=null, min_cells=1)
    sg.tl.rank_shifts(whole, test="vs_null", null=whole.copy(), min_cells=1)
    pd.testing.assert_frame_equal(sg.get.shifts(mdata), sg.get.shifts(whole))


@pytest.mark.parametrize("name", ["groupby", "within"])
def test_missing_columns_are_named(mdata, folder, name):
    with pytest.raises(KeyError, match=r"No column 'gone' in \.obs, which has .*'prot:state'"):
        sg.tl.perturb(mdata, folder, GENES, **(GOAL | {"groupby": "prot:state"} | {name: "gone"}))
    assert not mdata["rna"].layers


def test_a_missing_donor_is_named(mdata, folder):
    sg.tl.perturb(mdata, folder, GENES, **(GOAL | {"groupby": "prot:state"}))
    with pytest.raises(KeyError, match=r"No column 'gone' in \.obs, which has .*'donor'"):
        sg.tl.rank_shifts(mdata, test="donors", donor="gone")
    assert "rank" not in mdata["rna"].uns["shift"]
