"""What a run of each kind writes is ranked, listed, drawn, and kept by files."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg

from .test_perturb_oracle import GOAL

SETS = {"a/b": ["SYM1", "SYM2"], "c": ["SYM3", "SYM9"]}
RUNS = {
    "alone": {},
    "goal": GOAL,
    "only a source": {"groupby": "state", "source": "sick"},
    "only a target": {"groupby": "state", "target": "well", "others": []},
    "listed": GOAL | {"genes": ["SYM1", "SYM5"], "state_positions": "median"},
    "sets": GOAL | {"sets": SETS},
    "sets alone": {"sets": SETS, "kind": "overexpress"},
    "anchor": {"anchor": "SYM1"},
    "effects": GOAL | {"genes": ["SYM1", "SYM5"], "sets": SETS, "effects": True},
    "inhibit": GOAL | {"kind": "inhibit", "rank_shift": 2},
    "in": {"kind": "overexpress", "genes": "vocabulary"},
    "screen": GOAL | {"method": "screen"},
    "screen+exact": GOAL | {"method": "screen+exact", "n_top": 3},
}


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
    else:
        pd.testing.assert_frame_equal(found, expected, check_index_type=False, check_column_type=False)


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
        *[(name, e) for name in ("effects", "screen+exact") for e in ("zarr", "h5mu")],
    ],
)
def test_files_and_what_follows(tokenized, folder, tmp_path, name, ending):
    sg.tl.perturb(tokenized, folder, **RUNS[name])
    again = read_back(tokenized, tmp_path / f"x.{ending}")
    assert names(again) == names(tokenized)
    for slot in ("layers", "obsm", "varm", "varp"):
        for key in names(tokenized)[slot]:
            assert_same(getattr(again, slot)[key], getattr(tokenized, slot)[key])
    assert set(again.uns["shift"]) == set(tokenized.uns["shift"])
    params, before = again.uns["shift"]["params"], tokenized.uns["shift"]["params"]
    assert {key: plain(value) for key, value in params.items()} == {key: plain(value) for key, value in before.items()}
    for state, position in tokenized.uns["shift"].get("states", {}).items():
        np.testing.assert_array_equal(again.uns["shift"]["states"][state], position)
    for adata in (again, tokenized):
        sg.tl.rank_shifts(adata, min_cells=1)
    pd.testing.assert_frame_equal(sg.get.shifts(again), sg.get.shifts(tokenized))
    assert len(sg.get.shifts(again))
    third = read_back(again, tmp_path / f"y.{ending}")
    pd.testing.assert_frame_equal(sg.get.shifts(third), sg.get.shifts(tokenized))
    sg.tl.perturb(third, folder, ["SYM1"], max_cells=2)  # what was read is taken for what it is, and replaced
    assert names(third) == {"layers": ["shift"], "obsm": [], "varm": [], "varp": [], "uns": ["shift"]}


@pytest.mark.parametrize("name", RUNS)
def test_lists_and_plots(tokenized, folder, name):
    import matplotlib.pyplot as plt

    sg.tl.perturb(tokenized, folder, **RUNS[name])
    sg.tl.rank_shifts(tokenized, min_cells=1)
    states = ["well", "sick", "odd"] if RUNS[name].get("others") else [None]
    for state in states:
        for sets in [s for s, slot in ((False, "layers"), (True, "obsm")) if names(tokenized)[slot]]:
            table = sg.get.shifts(tokenized, state=state, sets=sets)
            assert np.isfinite(table["effect"]).all()
            for kind in ("volcano", "rank") if "pval" in table else ("rank",):
                assert sg.pl.shift(tokenized, kind=kind, state=state, sets=sets, show=False) is not None
                plt.close("all")
    if "effects" in RUNS[name]:
        assert len(sg.get.effects(tokenized, "SYM5"))
        assert len(sg.get.effects(tokenized, "a/b"))


@pytest.mark.parametrize("state", ["a/b", "method", "_methods", "low", "high", "sets", "n", "x y", "ü", "nan"])
def test_states_of_any_name(tokenized, folder, tmp_path, state):
    tokenized.obs["state"] = tokenized.obs["state"].cat.rename_categories({"sick": state})
    goal = GOAL | {"source": state}
    sg.tl.perturb(tokenized, folder, ["SYM1", "SYM5"], sets=SETS, **goal)
    bar = state.replace("/", "|")
    assert names(tokenized)["layers"] == sorted(["shift", "shift_odd", f"shift_{bar}"])
    assert names(tokenized)["obsm"] == sorted(["shift_sets", "shift_sets_odd", f"shift_sets_{bar}"])
    assert set(tokenized.uns["shift"]["states"]) == {"well", bar, "odd"}
    sg.tl.rank_shifts(tokenized, min_cells=1)
    again = read_back(tokenized, tmp_path / "x.h5ad")
    for sets in (True, False):
        expected = sg.get.shifts(tokenized, state=state, sets=sets)
        pd.testing.assert_frame_equal(sg.get.shifts(again, state=state, sets=sets), expected)
        assert len(expected) == 2
    sg.tl.perturb(tokenized, folder, ["SYM1"], max_cells=2)
    assert names(tokenized)["layers"] == ["shift"]
    assert names(tokenized)["obsm"] == []
