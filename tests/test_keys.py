"""Slots are resolved and parameters written so that every file format keeps them."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

from scgeneformer import _keys


@pytest.fixture
def adata():
    return ad.AnnData(np.ones((3, 2), dtype=np.float32))


def test_as_adata(adata):
    assert _keys.as_adata(adata) is adata
    mdata = md.MuData({"rna": adata})
    assert _keys.as_adata(mdata) is mdata["rna"]
    with pytest.raises(KeyError, match=r"No modality 'atac'.*\['rna'\]"):
        _keys.as_adata(mdata, "atac")
    with pytest.raises(TypeError, match="ndarray"):
        _keys.as_adata(np.ones(3))
    with pytest.raises(TypeError, match="DataFrame"):
        _keys.as_adata(adata.obs)


def test_params_survive_files(adata, tmp_path):
    values = {"a": 1, "b": 2.5, "c": "x", "none": None, "names": ["p", "q"], "empty": [], "numbers": (1, 2)}
    _keys.write_params(adata, "k", scalar=np.float32(0.5), nested={"in": None, "out": np.int64(3)}, **values)
    adata.write_h5ad(tmp_path / "x.h5ad")
    again = _keys.params(ad.read_h5ad(tmp_path / "x.h5ad"), "k", cure="nothing")
    assert "none" not in again
    assert (again["a"], again["b"], again["c"], again["scalar"]) == (1, 2.5, "x", 0.5)
    assert (list(again["names"]), list(again["empty"]), list(again["numbers"])) == (["p", "q"], [], [1, 2])
    assert dict(again["nested"]) == {"out": 3}


def test_missing_params_name_slot_and_cure(adata):
    with pytest.raises(KeyError, match=r"\.uns\[.*k.*\].*Run `sg\.f\(adata\)`"):
        _keys.params(adata, "k", cure="sg.f(adata)")


def test_names_of_slots():
    assert (_keys.lengths_key("geneformer_tokens"), _keys.token_id_key("geneformer_tokens")) == ("n_tokens", "token_id")
    assert (_keys.lengths_key("v1"), _keys.token_id_key("v1")) == ("v1_n_tokens", "v1_token_id")
    assert _keys.state_layer("shift", "CD4+/CD25 T") == "shift_CD4+|CD25 T"
    assert _keys.state_column("effect", "elsewhere") == "effect_state_elsewhere"


@pytest.fixture
def mdata():
    """Five cells of RNA; three of them, in another order, have proteins too."""
    rna = ad.AnnData(np.ones((5, 2), np.float32), obs=pd.DataFrame({"type": list("aabbb")}, index=list("vwxyz")))
    gates = pd.Categorical(["low", "high", "low"], categories=["low", "high"])
    prot = ad.AnnData(np.ones((3, 1), np.float32), obs=pd.DataFrame({"gate": gates, "type": "p"}, index=list("zxq")))
    mdata = md.MuData({"rna": rna, "prot": prot})
    mdata.obs["donor"] = [f"donor of {name}" for name in mdata.obs_names]
    return mdata


def test_a_column_of_obs_is_found_wherever_a_mudata_has_it(mdata):
    cells = mdata["rna"]
    for name, expected in {
        "type": ["a", "a", "b", "b", "b"],
        "rna:type": ["a", "a", "b", "b", "b"],
        "prot:type": [np.nan, np.nan, "p", np.nan, "p"],
        "prot:gate": [np.nan, np.nan, "high", np.nan, "low"],
        "donor": [f"donor of {name}" for name in "vwxyz"],
    }.items():
        column = _keys.obs_column(mdata, name, "rna")
        assert column.index.equals(cells.obs_names)
        pd.testing.assert_series_equal(
            column.astype(object), pd.Series(expected, cells.obs_names, dtype=object), check_names=False
        )
        pd.testing.assert_series_equal(_keys.obs_frame(mdata, "rna")[name], column, check_names=False)
    assert _keys.obs_column(mdata, "prot:gate", "rna").cat.categories.tolist() == ["low", "high"]
    assert _keys.obs_column(mdata, "gate", "prot").tolist() == ["low", "high", "low"]
    assert _keys.obs_column(cells, "type").tolist() == list("aabbb")
    assert _keys.obs_frame(cells) is cells.obs


def test_a_modality_is_read_itself_not_what_was_pulled_from_it(mdata):
    mdata.pull_obs()
    assert "prot:gate" in mdata.obs
    mdata["prot"].obs["gate"] = "new"
    assert _keys.obs_column(mdata, "prot:gate", "rna").dropna().tolist() == ["new", "new"]


def test_a_missing_column_is_told_with_all_that_there_are(mdata):
    with pytest.raises(KeyError, match=r"No column 'gate' in \.obs, which has 'type'.* 'prot:gate', .*'donor'"):
        _keys.obs_column(mdata, "gate", "rna")
    with pytest.raises(KeyError, match=r"No column 'atac:gate' in \.obs, which has 'type'\."):
        _keys.obs_column(mdata["rna"], "atac:gate")


def test_names_of_cells_must_tell_them_apart(mdata):
    mdata["prot"].obs_names = ["x", "x", "q"]
    with pytest.raises(ValueError, match=r"'prot:gate'.*obs_names.*unique"):
        _keys.obs_column(mdata, "prot:gate", "rna")
