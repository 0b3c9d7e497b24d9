from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg
from scgeneformer.model import GeneClassifier

KEY = "gene_classes"
QUICK = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False}


@pytest.fixture
def lists(vocabulary):
    genes = vocabulary.ids[vocabulary.n_special :]
    return {"on/off": genes[:9].tolist(), "off": genes[9:16].tolist()}


@pytest.fixture
def model(tokenized, folder, lists):
    torch.manual_seed(0)
    GeneClassifier.setup_anndata(tokenized)
    made = GeneClassifier(tokenized, lists, folder)
    made.train(1, **QUICK)
    return made


def same(found: ad.AnnData, expected: ad.AnnData) -> None:
    pd.testing.assert_frame_equal(found.varm[KEY], expected.varm[KEY])
    assert found.var[KEY].astype(object).equals(expected.var[KEY].astype(object))
    assert found.uns[KEY]["params"]["vocabulary_hash"] == expected.uns[KEY]["params"]["vocabulary_hash"]


def test_out_of_fold_answers_by_gene(tokenized, model, lists, tmp_path):
    cv = model.cross_validate(3, max_epochs=1, **QUICK)
    sg.tl.classify_genes(tokenized, cv)
    table = tokenized.varm[KEY]
    assert list(table) == ["on|off", "off"]
    classified = [*lists["on/off"], *lists["off"]]
    np.testing.assert_array_equal(table.loc[classified], cv.predictions.loc[classified])
    assert table.drop(index=classified).isna().all(axis=None)
    expected = np.where(table["on|off"] >= table["off"], "on/off", "off")
    there = tokenized.var_names.isin(classified)
    assert (tokenized.var[KEY][there] == expected[there]).all()
    assert tokenized.var[KEY][~there].isna().all()
    assert tokenized.uns[KEY]["params"]["n_folds"] == 3
    pd.testing.assert_frame_equal(tokenized.uns[KEY]["scores"], cv.summary)
    pd.testing.assert_frame_equal(tokenized.uns[KEY]["pooled"], cv.pooled)
    some = sg.tl.classify_genes(tokenized, cv, genes=classified[:2], copy=True)
    assert some.var[KEY].notna().sum() == 2
    tokenized.write_h5ad(tmp_path / "a.h5ad")
    same(ad.read_h5ad(tmp_path / "a.h5ad"), tokenized)
    tokenized.write_zarr(tmp_path / "a.zarr")
    same(ad.read_zarr(tmp_path / "a.zarr"), tokenized)


def test_a_trained_model_answers_for_genes_that_it_was_not_told(tokenized, model, vocabulary):
    before = tokenized.copy()
    found = sg.tl.classify_genes(tokenized, model, copy=True)
    assert KEY not in tokenized.varm
    told = tokenized.var_names.isin(model.trained_genes)
    known = (tokenized.var["token_id"] >= 0).to_numpy()
    assert told.sum() == len(model.split.train) > 5
    np.testing.assert_array_equal(found.var[KEY].notna(), known & ~told)
    rest = found.var_names[known & ~told]
    expected = model.predict_genes(genes=rest)
    np.testing.assert_allclose(found.varm[KEY].loc[rest], expected[["on/off", "off"]], atol=1e-6)
    assert (found.var[KEY][rest] == expected["predicted"]).all()
    asked = [model.trained_genes[0], rest[3]]
    sg.tl.classify_genes(tokenized, model, genes=asked, key_added="mine")
    assert set(tokenized.var_names[tokenized.var["mine"].notna()]) == set(asked)
    assert tokenized.uns["mine"]["params"]["weights_sha256"] == model.to_pretrained().sha256
    del tokenized.varm["mine"], tokenized.var["mine"], tokenized.uns["mine"]
    assert set(tokenized.uns) == set(before.uns)


def test_folders_and_mudata(tokenized, model, tmp_path):
    expected = sg.tl.classify_genes(tokenized, model, copy=True)
    model.save(tmp_path / "saved")
    same(sg.tl.classify_genes(tokenized, tmp_path / "saved", copy=True), expected)
    model.export(tmp_path / "exported")
    exported = sg.tl.classify_genes(tokenized, str(tmp_path / "exported"), copy=True)
    classified = tokenized.var_names.isin(model.genes.index)  # a folder does not tell which of them it was told
    np.testing.assert_array_equal(exported.var[KEY].notna(), (tokenized.var["token_id"] >= 0).to_numpy() & ~classified)
    mdata = mudata.MuData({"rna": tokenized.copy(), "adt": tokenized[:, :2].copy()})
    sg.tl.classify_genes(mdata, model)
    same(mdata["rna"], expected)


def test_nothing_is_written_by_calls_that_fail(tokenized, model, lists, folder, vocabulary, tmp_path):
    untrained = GeneClassifier(tokenized, lists, folder)
    other = tokenized.copy()
    sg.pp.tokenize(other, sg.Vocabulary("other", vocabulary.ids, vocabulary.medians * 2, 64))
    slots = set(tokenized.uns), set(tokenized.var), set(tokenized.varm)
    with pytest.raises(ValueError, match="not trained"):
        sg.tl.classify_genes(tokenized, untrained)
    with pytest.raises(TypeError, match="model=3 must be a GeneClassifier"):
        sg.tl.classify_genes(tokenized, 3)
    with pytest.raises(ValueError, match="there is no such folder"):
        sg.tl.classify_genes(tokenized, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="None of genes="):
        sg.tl.classify_genes(tokenized, model, genes=["NOPE"])
    with pytest.raises(KeyError, match="No tokens"):
        sg.tl.classify_genes(tokenized, model, tokens_key="elsewhere")
    with pytest.raises(ValueError, match="'other'"):
        sg.tl.classify_genes(other, model)
    assert slots == (set(tokenized.uns), set(tokenized.var), set(tokenized.varm))
