"""A classifier compares new cells with its training cells, calibrated on cells that it was not trained on."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist

import scgeneformer as sg
from scgeneformer.model._calibration import _reference, novelty_of

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "precision": "32-true"}
K = 15


@pytest.fixture
def classifier(tokenized, folder):
    """A classifier of a column of classes and a column of numbers, with 20 cells to train and 16 to validate."""
    code = np.arange(tokenized.n_obs) % 3
    tokenized.obs["type"] = pd.Categorical.from_codes(code, ["B", "T/NK", "mono"])
    tokenized.obs["age"] = 30.0 + 10 * code
    sg.model.CellClassifier.setup_anndata(tokenized, ["type", "age"])
    torch.manual_seed(0)
    model = sg.model.CellClassifier(tokenized, folder)
    model.train(1, learning_rate=3e-3, train_size=0.5, validation_size=0.4, test_size=0.1, **QUIET)
    return model


@pytest.fixture
def query(tokenized) -> ad.AnnData:
    """Cells without labels, one of them without tokens."""
    cells = tokenized[::-2].copy()
    cells.obs = cells.obs[["state", "n_tokens", "token_vocabulary"]]
    cells.obsm["geneformer_tokens"][3] = 0
    cells.obs.loc[cells.obs_names[3], "n_tokens"] = 0
    return cells


def overfitted(n: int, rng: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """States and classes of cells, in classes of which the last is the widest; training cells lie closer together than others."""
    code = rng.integers(0, 3, n)
    states = 4 * np.eye(3, 8)[code] + spread * np.array([0.5, 1, 2])[code, None] * rng.normal(size=(n, 8))
    return states.astype(np.float32), code


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_known_cells_are_unknown_at_most_as_often_as_asked_for(alpha: float) -> None:
    """Also where a network has drawn its training cells together, so that these tell nothing of new ones."""
    rng, shares, by_training = np.random.default_rng(0), [], []
    for _ in range(8):
        (states, codes), (held_out, _), (new, _) = (overfitted(n, rng, s) for n, s in ((300, 0.5), (120, 1), (500, 1)))
        centres = 4 * np.eye(3, 8)
        told, answer = (-cdist(x, centres) for x in (held_out, new))
        reference = _reference(states, codes, held_out, told.argmax(axis=1), 3)
        shares.append(np.mean(novelty_of(reference, new, answer)[1] < alpha))
        inside = np.sort(cdist(states, states), axis=1)[:, 1 : K + 1].mean(axis=1)
        far = np.sort(cdist(new, states), axis=1)[:, :K].mean(axis=1)
        by_training.append(np.mean(far > np.quantile(inside, 1 - alpha)))
    assert alpha / 3 < np.mean(shares) < alpha + 3 * np.std(shares) / np.sqrt(8)
    assert np.mean(by_training) > 2 * alpha


def test_columns_are_a_loop(classifier, query, tokenized) -> None:
    sg.tl.annotate(query, classifier, task="type")
    labels, split = classifier.labels()[:, 0].astype(int), classifier.split
    states, new = (classifier.get_latent_representation(cells).astype(float) for cells in (tokenized, query.copy()))
    train, held_out = states[split.train], states[split.validation]
    inside = cdist(train, train) + np.diag(np.full(len(train), np.inf))
    typical = np.array(
        [np.median([np.sort(inside[i])[:K].mean() for i in np.flatnonzero(labels[split.train] == c)]) for c in range(3)]
    )

    def relative(cells: np.ndarray, told: np.ndarray) -> np.ndarray:
        return np.sort(cdist(cells, train), axis=1)[:, :K].mean(axis=1) / typical[told]

    there = np.arange(query.n_obs) != 3
    known = relative(
        held_out, classifier.predict(soft=True, indices=split.validation, task="type").to_numpy().argmax(1)
    )
    distance = relative(new[there], query.obs["type_predicted"].cat.codes.to_numpy()[there])
    columns = query.obs[["type_predicted_distance", "type_predicted_novelty"]].to_numpy()
    np.testing.assert_allclose(columns[there, 0], distance / np.median(known), rtol=1e-4)
    p = [
        (1 + np.sum(known >= d * (1 - 1e-5))) / (len(known) + 1) for d in distance
    ]  # some are validation cells themselves
    np.testing.assert_allclose(columns[there, 1], p, atol=1 / 16)
    assert np.isnan(columns[3]).all()
    params = query.uns["type_predicted"]["params"]
    assert (params["n_reference"], params["n_validation"]) == (20, 16)


def test_unknown_cells_keep_their_class_beside(classifier, query, tmp_path) -> None:
    plain = sg.tl.annotate(query, classifier, task="type", copy=True).obs
    alpha = float(np.nanquantile(plain["type_predicted_novelty"], 0.3)) + 1e-6
    sg.tl.annotate(query, classifier, task="type", unknown=alpha, min_score=0.36)
    obs = query.obs
    new = (plain["type_predicted_novelty"] < alpha).to_numpy()
    assert 0 < new.sum() < len(new)
    assert (obs["type_predicted"][new] == "unknown").all()
    pd.testing.assert_series_equal(obs["type_predicted_nearest"], plain["type_predicted"], check_names=False)
    unsure = (plain["type_predicted_score"] < 0.36).to_numpy()
    assert obs["type_predicted"][unsure & ~new].isna().all()
    query.write_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(ad.read_h5ad(tmp_path / "x.h5ad").obs, obs)


def test_training_cells_are_saved_with_the_model_and_not_exported(classifier, query, tmp_path, monkeypatch) -> None:
    expected = sg.tl.annotate(query, classifier, task="type", copy=True).obs
    classifier.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(sg.tl.annotate(query, tmp_path / "saved", task="type", copy=True).obs, expected)
    classifier.export(tmp_path / "exported")
    lines = []
    monkeypatch.setattr("scanpy.logging.info", lambda line, **kwargs: lines.append(line))
    imported = sg.tl.annotate(query, tmp_path / "exported", task="type", copy=True)
    assert (
        sum("without 'type_predicted_distance' and 'type_predicted_novelty': this classifier" in line for line in lines)
        == 1
    )
    assert set(expected) - set(imported.obs) == {"type_predicted_distance", "type_predicted_novelty"}
    before = query.copy()
    with pytest.raises(ValueError, match=r"keeps no states of training cells.*model\.calibrate\(\).*sg\.tl\.transfer"):
        sg.tl.annotate(query, tmp_path / "exported", task="type", unknown=0.2)
    pd.testing.assert_frame_equal(query.obs, before.obs)


def test_other_weights_have_no_training_cells(tokenized, folder, classifier) -> None:
    pytest.importorskip("peft")
    adapted = sg.model.CellClassifier(tokenized, folder, lora=2)
    adapted.save_adapter(folder / "adapter")
    assert list(classifier.reference_) == list(classifier.temperature_) == ["type"]
    classifier.load_adapter(folder / "adapter")
    assert not classifier.reference_
    assert not classifier.temperature_


def test_what_cannot_be_told_is_refused(classifier, query) -> None:
    before = query.copy()
    for options, match in (
        ({"unknown": 1.5}, r"unknown=1\.5 must be .*between 0 and 1"),
        ({"unknown": 0.05}, "at least 20 validation cells.*this classifier had 16"),
        ({"unknown": 0.2, "task": "age"}, "is for classes, but 'age' is continuous"),
    ):
        with pytest.raises(ValueError, match=match):
            sg.tl.annotate(query, classifier, **{"task": "type"} | options)
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert set(query.uns) == set(before.uns)


def test_without_validation_cells_there_is_nothing_to_compare_by(classifier, tokenized, folder) -> None:
    model = sg.model.CellClassifier(tokenized, folder)
    model.train(1, train_size=0.8, validation_size=0.0, test_size=0.2, **QUIET)
    assert not model.reference_
