from __future__ import annotations

import anndata as ad
import dask.array as da
import mudata
import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg

CLASSES = ["B", "T/NK", "mono"]


@pytest.fixture
def classifier(tokenized, folder):
    """A classifier of three columns, trained for an epoch."""
    code = np.arange(tokenized.n_obs) % 3
    tokenized.obs["type"] = pd.Categorical.from_codes(code, CLASSES)
    tokenized.obs["stage"] = pd.Categorical.from_codes(code, ["early", "mid", "late"], ordered=True)
    tokenized.obs["age"] = 30.0 + 10 * code
    sg.model.CellClassifier.setup_anndata(tokenized, ["type", "stage", "age"])
    torch.manual_seed(0)
    model = sg.model.CellClassifier(tokenized, folder)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "precision": "32-true"}
    model.train(1, learning_rate=3e-3, train_size=0.6, validation_size=0.2, test_size=0.2, **quiet)
    return model


@pytest.fixture
def query(tokenized) -> ad.AnnData:
    """Cells without labels, one of them without tokens, in another order."""
    cells = tokenized[::-2].copy()
    cells.obs = cells.obs[["state", "n_tokens", "token_vocabulary"]]
    cells.obsm["geneformer_tokens"][3] = 0
    cells.obs.loc[cells.obs_names[3], "n_tokens"] = 0
    return cells


def test_classes_are_those_that_the_model_predicts(classifier, query) -> None:
    assert sg.tl.annotate(query, classifier, task="type") is None
    proba = classifier.predict(query.copy(), soft=True, task="type")
    np.testing.assert_array_equal(query.obsm["type_predicted_proba"], proba)
    assert query.obsm["type_predicted_proba"].columns.tolist() == ["B", "T|NK", "mono"]
    there = np.arange(query.n_obs) != 3
    labels = query.obs["type_predicted"]
    np.testing.assert_array_equal(labels.astype(object)[there], classifier.predict(query.copy(), task="type")[there])
    assert labels.cat.categories.tolist() == CLASSES
    assert (
        np.flatnonzero(labels.isna()).tolist()
        == [3]
        == np.flatnonzero(query.obs["type_predicted_score"].isna()).tolist()
    )
    np.testing.assert_array_equal(query.obs["type_predicted_score"][there], proba.max(axis=1)[there])
    params = query.uns["type_predicted"]["params"]
    assert params["weights_sha256"] == classifier.to_pretrained().sha256
    assert params["temperature"] == classifier.temperature_["type"]


def test_known_labels_stay(classifier, tokenized) -> None:
    before = tokenized.obs["type"].copy()
    sg.tl.annotate(tokenized, classifier, task="type")
    pd.testing.assert_series_equal(tokenized.obs["type"], before)


def test_ordered_classes_and_numbers(classifier, query) -> None:
    sg.tl.annotate(query, classifier, task="stage")
    sg.tl.annotate(query, classifier, task="age", key_added="years")
    assert query.obs["stage_predicted"].cat.ordered
    proba = query.obsm["stage_predicted_proba"].to_numpy()
    np.testing.assert_allclose(query.obs["stage_predicted_value"], proba[:, 1] + 2 * proba[:, 2])
    np.testing.assert_array_equal(query.obs["years"], classifier.predict(query.copy(), task="age"))
    assert np.flatnonzero(query.obs["years"].isna()).tolist() == [3]
    assert "years_proba" not in query.obsm
    assert "years_score" not in query.obs


def test_min_score_leaves_unsure_cells_without_a_label(classifier, query) -> None:
    sg.tl.annotate(query, classifier, task="type")
    least = query.obs["type_predicted_score"].median()
    sure = sg.tl.annotate(query, classifier, task="type", min_score=least, copy=True)
    unsure = (query.obs["type_predicted_score"] < least).to_numpy()
    assert unsure.sum() > 5
    assert sure.obs["type_predicted"][unsure].isna().all()
    kept = ~unsure & (np.arange(query.n_obs) != 3)
    assert sure.obs["type_predicted"][kept].equals(query.obs["type_predicted"][kept])


def test_nothing_else_is_written(classifier, query) -> None:
    before = query.copy()
    sg.tl.annotate(query, classifier, task="type")
    columns = {f"type_predicted{end}" for end in ("", "_score", "_distance", "_novelty")}
    assert set(query.obs) - set(before.obs) == columns
    assert set(query.uns) - set(before.uns) == {"type_predicted"}
    assert set(query.obsm) - set(before.obsm) == {"type_predicted_proba"}


@pytest.mark.parametrize("how", ["save", "export"])
def test_from_a_folder(classifier, query, tmp_path, how) -> None:
    getattr(classifier, how)(str(tmp_path / "kept"))
    sg.tl.annotate(query, classifier, task="type")
    again = query.copy()
    sg.tl.annotate(again, tmp_path / "kept", task="type")
    pd.testing.assert_frame_equal(again.obsm["type_predicted_proba"], query.obsm["type_predicted_proba"], rtol=1e-6)


def test_a_classifier_of_transformers(folder, query, vocabulary, tmp_path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=vocabulary.max_length,
        hidden_act="relu",
        pad_token_id=0,
        id2label={0: "nf", 1: "hcm", 2: "dcm"},
        label2id={"nf": 0, "hcm": 1, "dcm": 2},
    )
    theirs = BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    vocabulary.save(tmp_path / "theirs" / "vocabulary.json")
    sg.tl.annotate(query, tmp_path / "theirs")
    tokens = torch.from_numpy(query.obsm["geneformer_tokens"].astype(np.int64))
    with torch.no_grad():
        proba = theirs(input_ids=tokens, attention_mask=(tokens != 0).long()).logits.softmax(1).numpy()
    there = np.arange(query.n_obs) != 3
    np.testing.assert_allclose(query.obsm["label_predicted_proba"].to_numpy()[there], proba[there], atol=1e-5)
    assert query.obs["label_predicted"].cat.categories.tolist() == ["nf", "hcm", "dcm"]


def test_lazy_tokens_mudata_and_another_slot(classifier, query) -> None:
    sg.tl.annotate(query, classifier, task="type")
    lazy = query.copy()
    lazy.obsm["mine"] = da.from_array(lazy.obsm.pop("geneformer_tokens"), chunks=(7, -1))
    lazy.uns["mine"] = lazy.uns.pop("geneformer_tokens")
    mdata = mudata.MuData({"cells": lazy})
    sg.tl.annotate(mdata, classifier, task="type", tokens_key="mine", mod="cells")
    pd.testing.assert_frame_equal(
        mdata["cells"].obsm["type_predicted_proba"], query.obsm["type_predicted_proba"], rtol=1e-5
    )


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_round_trip(classifier, query, tmp_path, suffix) -> None:
    sg.tl.annotate(query, classifier, task="stage")
    getattr(query, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    back = getattr(ad, f"read_{suffix}")(tmp_path / f"x.{suffix}")
    pd.testing.assert_frame_equal(back.obsm["stage_predicted_proba"], query.obsm["stage_predicted_proba"])
    pd.testing.assert_series_equal(back.obs["stage_predicted"], query.obs["stage_predicted"])


def test_bad_input(classifier, query, tokenized, folder) -> None:
    before = query.copy()
    with pytest.raises(ValueError, match="name one of"):
        sg.tl.annotate(query, classifier)
    with pytest.raises(ValueError, match=r"min_score=0\.5 is a probability"):
        sg.tl.annotate(query, classifier, task="age", min_score=0.5)
    with pytest.raises(KeyError, match=r"No tokens in .*other.*sg\.pp\.tokenize"):
        sg.tl.annotate(query, classifier, task="type", tokens_key="other")
    with pytest.raises(TypeError, match="not a CellClassifier"):
        sg.tl.annotate(query, sg.hub.load(folder))
    with pytest.raises(ValueError, match="No model 'nowhere': there is no such folder, and the names are"):
        sg.tl.annotate(query, "nowhere")
    with pytest.raises(ValueError, match="not trained"):
        sg.tl.annotate(query, sg.model.CellClassifier(tokenized, folder), task="type")
    query.obs["token_vocabulary"] = "other:x"
    with pytest.raises(ValueError, match="made with vocabulary"):
        sg.tl.annotate(query, classifier, task="type")
    query.obs["token_vocabulary"] = before.obs["token_vocabulary"]
    query.obsm["geneformer_tokens"] = np.full((query.n_obs, 128), 5, np.uint16)
    with pytest.raises(ValueError, match="was changed after tokenizing"):
        sg.tl.annotate(query, classifier, task="type")
    assert list(query.obs) == list(before.obs)
    assert set(query.obsm) == set(before.obsm)
