"""Perturbations within groups of cells: the same as separate calls, value by value."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg

from .test_perturb_checkpoint import perturb_by
from .test_perturb_inputs import dense
from .test_perturb_oracle import GOAL

SETS = {"two": ["SYM1", "SYM2"], "one": ["SYM7"]}
RUNS = {
    "delete": GOAL,
    "decomposed": GOAL | {"decompose": True},
    "listed": GOAL | {"genes": ["SYM1", "SYM5"], "kind": "overexpress", "max_cells": 3, "max_state_cells": 2, "rng": 4},
    "screen": GOAL | {"refine": 2},
    "sets": GOAL | {"sets": SETS},
    "anchor": GOAL | {"anchor": "SYM1", "genes": ["SYM5", "SYM8", "SYM9"]},
    "no target": {"genes": ["SYM1", "SYM5"]},
}


@pytest.fixture
def typed(tokenized):
    """Cells of two types with all states, of one that lacks a state, and one without a type."""
    types = np.array(["B/NK", "T"], object)[np.arange(40) % 2]
    sick = np.flatnonzero(tokenized.obs["state"] == "sick")
    types[sick[:2]] = "only sick"
    types[sick[2]] = None
    tokenized.obs["type"] = pd.Categorical(types, categories=["T", "only sick", "B/NK", "none"])
    tokenized.obs["donor"] = pd.Categorical([f"d{i % 3}" for i in range(40)])
    return tokenized


def apart(cells, folder, name):
    """The same by a loop over groups."""
    parts = {}
    for group in ("T", "only sick", "B/NK"):
        if "target" in RUNS[name] and group == "only sick":
            continue
        parts[group] = cells[(cells.obs["type"] == group).to_numpy()].copy()
        perturb_by(parts[group], folder, **RUNS[name])
    return parts


def together(cells, folder, name):
    if "target" not in RUNS[name]:
        return perturb_by(cells, folder, **RUNS[name], within="type")
    with pytest.warns(UserWarning, match=r"\.obs\['type'\].*'only sick' lacks two cells of 'well'"):
        return perturb_by(cells, folder, **RUNS[name], within="type")


@pytest.mark.parametrize("name", RUNS)
def test_are_those_of_a_loop_over_groups(typed, folder, name):
    parts = apart(typed, folder, name)
    key = together(typed, folder, name)
    layers = [slot for slot in typed.layers if slot is not None and slot.startswith(key)]
    tables = [slot for slot in typed.obsm if slot.startswith(key)]
    assert len(tables if "sets" in RUNS[name] else layers) >= (3 if "target" in RUNS[name] else 1)
    for slot in layers:
        values, n_stored = dense(typed, slot), typed.layers[slot].nnz
        for part in parts.values():
            rows = typed.obs_names.get_indexer(part.obs_names)
            np.testing.assert_allclose(values[rows], dense(part, slot), rtol=0, atol=1e-6)
            np.testing.assert_array_equal(np.isnan(values[rows]), np.isnan(dense(part, slot)))
            n_stored -= part.layers[slot].nnz
        assert n_stored == 0
    for slot in tables:
        tables_of_parts = [pd.DataFrame(part.obsm[slot], index=part.obs_names) for part in parts.values()]
        expected = pd.concat(tables_of_parts).reindex(typed.obs_names)
        np.testing.assert_allclose(typed.obsm[slot], expected, rtol=0, atol=1e-6)
    assert typed.uns[key]["params"]["n_pairs"] == sum(part.uns[key]["params"]["n_pairs"] for part in parts.values())
    for group, part in parts.items():
        for state, vector in part.uns[key].get("centroids", {}).items():
            found = typed.uns[key]["centroids"][group.replace("/", "|")][state]
            np.testing.assert_allclose(found, vector, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "test"),
    [
        *[
            ("delete", test)
            for test in ({"test": "rank_sum"}, {"test": "donors", "donor": "donor"}, {"test": "aggregate"})
        ],
        ("sets", {}),
        ("no target", {"test": "mixture", "min_cells": 1}),
    ],
)
def test_ranked_by_group(typed, folder, name, test):
    key = together(typed, folder, name)
    sg.tl.rank_shifts(typed, key=key, **test)
    groups = list(typed.uns[key]["rank"]["groups"])
    assert groups == (["T", "B/NK"] if "target" in RUNS[name] else ["T", "only sick", "B/NK"])
    tables = []
    for group in groups:
        part = typed[(typed.obs["type"] == group).to_numpy()].copy()
        del part.uns[key]["params"]["within"]
        sg.tl.rank_shifts(part, key=key, **test)
        table = sg.get.shifts(part, key=key)
        assert "effect_elsewhere" not in table
        found = sg.get.shifts(typed, key=key, group=group)
        assert set(found.pop("group")) == {group}
        pd.testing.assert_frame_equal(found.drop(columns="effect_elsewhere", errors="ignore"), table)
        tables.append(table.assign(group=group))
    stacked = sg.get.shifts(typed, key=key)
    stacked = stacked.drop(columns="effect_elsewhere", errors="ignore")
    pd.testing.assert_frame_equal(stacked, pd.concat(tables, ignore_index=True)[list(stacked)])
    with pytest.raises(ValueError, match="group='monocyte' is not a group"):
        sg.get.shifts(typed, key=key, group="monocyte")


@pytest.mark.parametrize("centered", [False, True])
def test_effects_elsewhere_are_those_of_a_loop_over_groups(tokenized, folder, centered):
    tokenized.obs["type"] = np.array(["a", "b/c", "d"])[np.arange(40) % 3]
    tokenized.obs["state"] = np.array(["sick", "well", "odd"])[np.arange(40) // 3 % 3]
    sg.tl.screen(tokenized, folder, **GOAL, within="type", allow_poor=True)
    shifts = dense(tokenized)
    shifts[tokenized.obs["type"] != "d", 3] = np.nan  # in one group only
    at = tokenized.layers["shift"].tocoo()
    tokenized.layers["shift"].data = shifts[at.row, at.col]
    sg.tl.rank_shifts(tokenized, test="aggregate", min_cells=1, centered=centered)
    tables = {group: tokenized.varm[f"shift_{group.replace('/', '|')}"] for group in ("a", "b/c", "d")}
    for group, table in tables.items():
        for gene in range(30):
            effects = [other["effect"].iloc[gene] for name, other in tables.items() if name != group]
            effects = [abs(effect) for effect in effects if not np.isnan(effect)]
            expected = sum(effects) / len(effects) if effects else np.nan
            np.testing.assert_allclose(table["effect_elsewhere"].iloc[gene], expected, rtol=1e-12)
    assert np.isfinite(tables["a"]["effect_elsewhere"].iloc[3])
    assert np.isnan(tables["d"]["effect_elsewhere"].iloc[3])
    assert np.isfinite(tables["d"]["effect"].iloc[3])
    assert "effect_elsewhere" in sg.get.shifts(tokenized, group="d")
    assert "effect_elsewhere" not in sg.get.shifts(tokenized, group="d", state="sick")


def test_a_state_elsewhere_and_a_single_group(tokenized, folder):
    tokenized.obs["type"] = "one"
    tokenized.obs["state"] = tokenized.obs["state"].cat.rename_categories({"odd": "elsewhere"})
    sg.tl.screen(tokenized, folder, **GOAL | {"others": ["elsewhere"]}, within="type", allow_poor=True)
    sg.tl.rank_shifts(tokenized, min_cells=1, centered=False)
    table = tokenized.varm["shift_one"]
    assert table["effect_elsewhere"].isna().all()
    of_state = sg.get.shifts(tokenized, state="elsewhere").set_index("names")["effect"].loc[tokenized.var_names[:28]]
    np.testing.assert_allclose(of_state, table.loc[of_state.index, "effect_state_elsewhere"])
    np.testing.assert_allclose(of_state, np.nanmean(dense(tokenized, "shift_elsewhere")[:, :28], axis=0))


def test_a_ranking_is_valid_after_subsetting(typed, folder):
    together(typed, folder, "delete")
    sg.tl.rank_shifts(typed, min_cells=1)
    expected = sg.get.shifts(typed, group="T")
    some = typed[::3, 3:].copy()
    found = sg.get.shifts(some, group="T")
    assert typed.uns["shift"]["rank"]["test"] == "states"
    pd.testing.assert_frame_equal(found, expected[expected["names"].isin(some.var_names)].reset_index(drop=True))
    sg.tl.rank_shifts(some, min_cells=1)
    assert some.uns["shift"]["rank"]["test"] == "rank_sum"
    assert sg.get.shifts(some, group="T")["n_cells"].max() < expected["n_cells"].max()


def test_the_heatmap_shows_genes_by_groups(typed, folder):
    import matplotlib.pyplot as plt

    together(typed, folder, "delete")
    sg.tl.rank_shifts(typed, min_cells=1)
    ax = sg.pl.shift_heatmap(typed, n_top=5, min_cells=1, show=False)
    assert {"T", "B/NK"} <= {text.get_text() for text in ax.get_xticklabels()}
    names = [text.get_text() for text in ax.get_yticklabels()]
    frame = sg.get.shifts(typed)
    strongest = frame.assign(scores=frame["scores"].abs()).groupby("symbol")["scores"].max().nlargest(5)
    assert set(names) == set(strongest.index)
    plt.close("all")


@pytest.mark.parametrize("method", ["exact", "screen"])
def test_given_centroids_need_no_cells(tokenized, folder, method):
    """Patients only, with the position of healthy cells from elsewhere."""
    verb = {"exact": sg.tl.perturb, "screen": sg.tl.screen}[method]
    healthy = {"healthy": np.random.default_rng(0).normal(size=16), "sick": np.ones(16)}
    tokenized.obs["type"] = np.array(["a", "b"])[np.arange(40) % 2]
    options = {"source": "sick", "groupby": "state", "target": "healthy", "copy": True}
    whole = verb(tokenized, folder, centroids=healthy, **options)
    assert set(whole.layers) - {None} == {"shift", "shift_sick"}
    np.testing.assert_array_equal(whole.uns["shift"]["centroids"]["healthy"], healthy["healthy"])
    sg.tl.rank_shifts(whole, min_cells=1)
    assert "log2fc" not in whole.varm["shift"]  # without cells of the target there is no expression to compare
    grouped = verb(tokenized, folder, centroids={"a": healthy, "b": healthy}, within="type", **options)
    np.testing.assert_allclose(dense(grouped), dense(whole), rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match="'b' lacks given centroids"):
        part = verb(tokenized, folder, centroids={"a": healthy}, within="type", **options)
    np.testing.assert_allclose(dense(part)[::2], dense(whole)[::2], rtol=0, atol=1e-6)
    assert np.isnan(dense(part)[1::2]).all()
    anywhere = verb(tokenized, folder, target="healthy", centroids=healthy, copy=True)  # no column of states at all
    assert anywhere.uns["shift"]["params"]["n_cells"] == 40


def test_cells_one_by_one(typed, folder):
    together(typed, folder, "delete")
    frame = sg.get.cell_shifts(typed)
    assert list(frame) == ["cell", "gene", "group", "state", "value"]
    for state, layer in (("well", "shift"), ("sick", "shift_sick"), ("odd", "shift_odd")):
        part = frame[frame["state"] == state]
        values = np.full(typed.shape, np.nan)
        at = typed.obs_names.get_indexer(part["cell"]), typed.var_names.get_indexer(part["gene"])
        values[at] = part["value"]
        np.testing.assert_array_equal(values, dense(typed, layer))
        assert (typed.obs["type"].astype(str).to_numpy()[at[0]] == part["group"]).all()
    of_some = sg.get.cell_shifts(typed, ["SYM3", typed.var_names[5]])
    assert set(of_some["gene"]) == set(typed.var_names[[3, 5]])
    with pytest.raises(KeyError, match="'GATA4'"):
        sg.get.cell_shifts(typed, "GATA4")
    key = together(typed, folder, "sets")
    of_sets = sg.get.cell_shifts(typed, "two", key=key)
    assert len(of_sets) == 3 * typed.obsm[key]["two"].notna().sum()


def test_zeros_are_measurements(tokenized, folder):
    sg.tl.perturb(tokenized, folder, ["SYM1"])
    tokenized.layers["shift"].data[:] = 0
    assert len(sg.get.cell_shifts(tokenized)) == tokenized.layers["shift"].nnz > 0
    assert isinstance(tokenized.layers["shift"], sparse.csr_matrix | sparse.csr_array)


def test_a_checkpoint_has_a_folder_for_each_group(typed, folder, tmp_path):
    options = GOAL | {"genes": ["SYM1"], "within": "type", "checkpoint": tmp_path / "parts"}
    with pytest.warns(UserWarning, match="left out"):
        sg.tl.perturb(typed, folder, **options)
    folders = sorted(path.name for path in (tmp_path / "parts" / "genes").iterdir())
    assert folders == ["group-000", "group-002"]
    again = ad.AnnData(
        typed.X,
        obs=typed.obs,
        var=typed.var,
        obsm={"geneformer_tokens": typed.obsm["geneformer_tokens"]},
        uns={"geneformer_tokens": typed.uns["geneformer_tokens"]},
    )
    with pytest.warns(UserWarning, match="left out"):
        sg.tl.perturb(again, folder, **options)
    np.testing.assert_array_equal(dense(again), dense(typed))
