"""Slots are resolved and parameters written so that every file format keeps them."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
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
