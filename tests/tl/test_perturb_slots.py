"""The results of each kind of run can be ranked, listed and plotted, and are kept in files."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg

from .test_perturb_checkpoint import perturb_by
from .test_perturb_oracle import GOAL

SETS = {"a/b": ["SYM1", "SYM2"], "c": ["SYM3", "SYM9"]}
RUNS = {
    "alone": {},
    "goal": GOAL,
    "only a source": {"groupby": "state", "source": "sick"},
    "only a target": {"groupby": "state", "target": "well", "others": []},
    "listed": GOAL | {"genes": ["SYM1", "SYM5"], "centroids": "median"},
    "sets": GOAL | {"sets": SETS},
    "sets alone": {"sets": SETS, "kind": "overexpress"},
    "anchor": {"anchor": "SYM1"},
    "effects": GOAL | {"genes": ["SYM1", "SYM5"], "effects": True},
    "effects of sets": GOAL | {"sets": SETS, "effects": True},
    "inhibit": GOAL | {"kind": "inhibit", "quartiles": 2},
    "in": {"kind": "overexpress", "genes": "vocabulary"},
    "screen": GOAL | {"refine": 0},
    "refined": GOAL | {"refine": 3},
    "decomposed": GOAL | {"genes": ["SYM1", "SYM5"], "decompose": True},
    "positions kept": GOAL | {"positions": "kept"},
    "within": GOAL | {"within": "type"},
    "sets within": GOAL | {"sets": SETS, "within": "type"},
    "only within": {"within": "type"},
}


@pytest.fixture
def tokenized(tokenized):
    tokenized.obs["type"] = pd.Categorical(np.array(["B/NK", "T"])[np.arange(40) % 2])
    return tokenized


def names(adata):
    return {
        slot: sorted(name for name in getattr(adata, slot) if name is not None and name.startswith("shift"))
        for slot in ("layers", "obsm", "varm", "varp", "uns")
    }


def assert_same(found, expected):
    assert type(found) is type(expected)
    if sparse.issparse(expected):
        assert found.dtype == expected.dtype
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
    else:
        pd.testing.assert_frame_equal(found, expected, check_index_type=False, check_column_type=False)


def assert_same_vectors(found, expected):
    """Of states, or of groups and states."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        (assert_same_vectors if isinstance(value, dict) else np.testing.assert_array_equal)(found[name], value)


def plain(value):
    return list(value) if isinstance(value, np.ndarray) else value


def read_back(adata, path):
    if path.suffix == ".h5mu":
        md.MuData({"rna": adata}).write(path)
        return md.read(path)["rna"]
    getattr(adata, f"write_{path.suffix[1:]}")(path)
    return getattr(ad, f"read_{path.suffix[1:]}")(path)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        *[(name, "h5ad") for name in RUNS],
        *[(name, e) for name in ("effects", "refined", "within", "sets within") for e in ("zarr", "h5mu")],
    ],
)
def test_files_and_what_follows(tokenized, folder, tmp_path, name, ending):
    key = perturb_by(tokenized, folder, **RUNS[name])
    again = read_back(tokenized, tmp_path / f"x.{ending}")
    assert names(again) == names(tokenized)
    for slot in ("layers", "obsm", "varm", "varp"):
        for written in names(tokenized)[slot]:
            assert_same(getattr(again, slot)[written], getattr(tokenized, slot)[written])
    assert set(again.uns[key]) == set(tokenized.uns[key])
    params, before = again.uns[key]["params"], tokenized.uns[key]["params"]
    assert {k: plain(value) for k, value in params.items()} == {k: plain(value) for k, value in before.items()}
    assert_same_vectors(again.uns[key].get("centroids", {}), tokenized.uns[key].get("centroids", {}))
    for adata in (again, tokenized):
        sg.tl.rank_shifts(adata, key=key, min_cells=1)
    expected = sg.get.shifts(tokenized, key=key)
    pd.testing.assert_frame_equal(sg.get.shifts(again, key=key), expected)
    assert len(expected)
    pd.testing.assert_frame_equal(sg.get.cell_shifts(again, key=key), sg.get.cell_shifts(tokenized, key=key))
    third = read_back(again, tmp_path / f"y.{ending}")
    pd.testing.assert_frame_equal(sg.get.shifts(third, key=key), expected)
    # what was read is taken for what it is, and replaced
    again = {"target": "well", "groupby": "state"} if "refine" in RUNS[name] else {}
    again |= {option: RUNS[name][option] for option in ("sets", "anchor", "refine") if option in RUNS[name]}
    perturb_by(third, folder, max_cells=2, **again)
    slot = "obsm" if "sets" in again else "layers"
    further = [f"{key}__random"] if "sets" in again else [f"{key}__method"] if again.get("refine") else []
    assert names(third)[slot] == [key, *further]
    assert names(third)["varm"] == names(third)["varp"] == []


@pytest.mark.parametrize("name", RUNS)
def test_lists_and_plots(tokenized, folder, name):
    import matplotlib.pyplot as plt

    key = perturb_by(tokenized, folder, **RUNS[name])
    sg.tl.rank_shifts(tokenized, key=key, min_cells=1)
    groups = sg.tl._perturbation._states.groups_of(tokenized, RUNS[name].get("within"))
    states = ["well", "sick", "odd"] if RUNS[name].get("others") else [None]
    for state in states:
        for group in groups:
            table = sg.get.shifts(tokenized, key=key, state=state, group=group)
            assert np.isfinite(table["effect"]).all()
            for kind in ("volcano", "rank") if "pvals" in table else ("rank",):
                assert sg.pl.shift(tokenized, key=key, kind=kind, state=state, group=group, show=False) is not None
                plt.close("all")
    if "within" in RUNS[name]:
        assert sg.pl.shift_heatmap(tokenized, key=key, show=False) is not None
        plt.close("all")
        with pytest.raises(ValueError, match="Name one: group='B/NK' or 'T'"):
            sg.pl.shift(tokenized, key=key, show=False)
    if "effects" in RUNS[name]:
        assert len(sg.get.effects(tokenized, "a/b" if "sets" in RUNS[name] else "SYM5", key=key))


@pytest.mark.parametrize("state", ["a/b", "method", "_methods", "low", "high", "sets", "n", "x y", "ü", "nan"])
def test_states_of_any_name(tokenized, folder, tmp_path, state):
    tokenized.obs["state"] = tokenized.obs["state"].cat.rename_categories({"sick": state})
    goal = GOAL | {"source": state}
    sg.tl.perturb(tokenized, folder, ["SYM1", "SYM5"], **goal)
    sg.tl.perturb_sets(tokenized, folder, SETS, **goal)
    bar = state.replace("/", "|")
    untrained = ["shift__untrained", "shift__reference__untrained"]
    moved = ["shift__embedding", "shift__movement"]
    for place, slot, beside, further in (
        ("layers", "shift", "shift__reference", untrained),
        ("obsm", "shift_sets", "shift_sets__random", moved),
    ):
        of_states = [x for y in (slot, beside) for x in (y, f"{y}_odd", f"{y}_{bar}")]
        assert names(tokenized)[place] == sorted(of_states + further)
    for key in ("shift", "shift_sets"):
        assert set(tokenized.uns[key]["centroids"]) == {"well", bar, "odd"}
        sg.tl.rank_shifts(tokenized, key=key, min_cells=1)
    again = read_back(tokenized, tmp_path / "x.h5ad")
    for key in ("shift", "shift_sets"):
        expected = sg.get.shifts(tokenized, key=key, state=state)
        pd.testing.assert_frame_equal(sg.get.shifts(again, key=key, state=state), expected)
        assert len(expected) == 2
    sg.tl.perturb(tokenized, folder, ["SYM1"], max_cells=2)
    sg.tl.perturb_sets(tokenized, folder, SETS, max_cells=2)
    assert names(tokenized)["layers"] == ["shift", "shift__reference"]
    assert names(tokenized)["obsm"] == ["shift_sets", "shift_sets__random"]
