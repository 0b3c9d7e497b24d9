"""Recipes by name, what they refuse, and runs that are resumed."""

from __future__ import annotations

from contextlib import suppress

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

from scgeneformer._run_folder import locked
from scgeneformer.model import CellClassifier
from scgeneformer.model.recipes._portfolio import EPOCHS, LEAST_STEPS

from .conftest import save_as_before_heads


class PowerFailure(Exception):
    """Ends a run without warning."""


class Fail(pl.Callback):
    """Fails at this batch, counted over all runs."""

    def __init__(self, at: int | None, error: type[BaseException] = PowerFailure) -> None:
        self.left, self.error = at, error

    def on_train_batch_start(self, *args) -> None:
        if self.left == 0:
            raise self.error
        self.left = None if self.left is None else self.left - 1


def test_defaults_follow_the_head(make, short):
    assert make().module.network.head == "linear"
    linear, bert = make(), make(head="bert")
    linear.train(**short)
    bert.train(**short)
    assert linear.selected is not None
    assert bert.selected is None
    assert "validation_loss" in bert.history
    assert bert.history["learning_rate"].max().item() == pytest.approx(2e-4)
    for recipe in ("auto", "probe"):
        with pytest.raises(ValueError, match=rf"recipe='{recipe}' needs a linear head.*head='linear'.*recipe='plain'"):
            bert.train(recipe=recipe)


def test_the_length_of_a_run(make, quick, split):
    """Eight epochs, but no fewer than 250 steps, of 16 cells."""
    model = make()
    model.train(split=split, **quick | {"token_budget": None})
    assert max(EPOCHS * 10, LEAST_STEPS) == 250
    assert model.selected.table.loc["B", ["steps", "learning_rate"]].tolist() == [250, 2e-4]
    rates = model.selected.histories["B"]["learning_rate"]["learning_rate"].to_numpy()
    assert rates.argmax() == 25
    assert rates.max() == pytest.approx(2e-4)
    assert rates[-1] < 2e-6
    model.train(max_steps=7, **quick)
    assert model.selected.table.loc["B", "steps"] == 7


def test_the_official_options(make, short):
    options = {name: value for name, value in short.items() if name != "max_epochs"}
    model = make(head="bert")
    model.train(recipe="official", **options)
    rates = model.history["learning_rate"]["learning_rate"]
    assert rates.max() == pytest.approx(5e-5)
    assert len(rates) == -(-160 // 12)
    model.train(recipe="official", learning_rate=1e-3, batch_size=40, **options)
    rates = model.history["learning_rate"]["learning_rate"].to_numpy()[-4:]
    assert rates.max() == pytest.approx(1e-3)


def test_a_plain_run_of_a_linear_head_standardises(make, short):
    model = make()
    model.train(recipe="plain", **short)
    states = make().get_latent_representation(indices=short["split"].train).astype(np.float64)
    np.testing.assert_allclose(model.module.network.standardise.mean, states.mean(0), atol=1e-5)
    np.testing.assert_allclose(model.module.network.standardise.sd, states.std(0), rtol=1e-4)
    assert model.selected is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"recipe": "best"}, "recipe='best' must be"),
        ({"keep_best": "validation_loss"}, "leave out keep_best.*recipe='plain'"),
        ({"early_stopping": True}, "leave out keep_best and early_stopping"),
        ({"devices": 2}, "one device, not on devices=2.*recipe='plain'"),
        ({"recipe": "probe", "learning_rate": 1e-3, "max_epochs": 3}, r"\['max_epochs', 'learning_rate'\] would apply"),
    ],
)
def test_options_without_a_meaning_are_refused(make, split, options, match):
    model = make()
    with pytest.raises(ValueError, match=match):
        model.train(split=split, **options)
    assert not model.is_trained_


def test_a_folder_without_checkpoints_is_refused(make, short, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no A/last\.ckpt.*recipe='plain'"):
        make().train(ckpt_path=tmp_path, **short)


def test_another_run_in_the_folder_is_named(make, short, tmp_path):
    with locked(tmp_path, "checkpoints"), pytest.raises(BlockingIOError, match="is in use by process"):
        make().train(checkpoints=tmp_path, **short)


@pytest.mark.parametrize("stops", [[5], [17], [5, 9, 3]])
def test_interrupted_it_ends_as_one_that_never_stopped(make, short, tmp_path, stops):
    whole = make()
    whole.train(checkpoints=tmp_path / "whole", **short)
    options = short | {"checkpoints": tmp_path / "parts", "checkpoint_every": 1}
    for stop in [*stops, None]:
        model = make()
        resumed = {"ckpt_path": tmp_path / "parts"} if (tmp_path / "parts").is_dir() else {}
        with suppress(PowerFailure):
            model.train(callbacks=[Fail(stop)], **options | resumed)
    pd.testing.assert_frame_equal(model.selected.table, whole.selected.table, check_exact=True)
    assert model.selected.kept == whole.selected.kept
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, model.module.state_dict()[name]), name
    for name, history in whole.selected.histories.items():
        pd.testing.assert_frame_equal(
            model.selected.histories[name]["train_loss_step"], history["train_loss_step"], check_exact=True
        )


@pytest.mark.parametrize("error", [PowerFailure, KeyboardInterrupt])
def test_a_run_that_fails_leaves_the_probe(make, short, error):
    model, probe = make(), make()
    probe.train(recipe="probe", split=short["split"])
    words = "in run B. The model is the best classifier so far, the linear probe" if error is KeyboardInterrupt else ""
    with pytest.raises(error, match=words):
        model.train(callbacks=[Fail(7, error)], **short)
    np.testing.assert_allclose(model.scores(), probe.scores(), atol=1e-6)


def test_folds_use_the_recipe(make, short):
    model = make()
    cv = model.cross_validate(2, validation_size=0, recipe="probe")
    assert cv.params["train"] == {"recipe": "probe"}
    assert cv.summary.loc["classifier", "accuracy"] > 0.7
    short = {name: value for name, value in short.items() if name != "split"}
    again = model.cross_validate(2, validation_size=0.4, **short | {"max_epochs": 1})
    assert again.predictions.notna().all(axis=None)


def test_models_saved_when_all_heads_were_berts(make, cells, short, tmp_path):
    model = make(head="bert")
    model.train(**short)
    save_as_before_heads(model, tmp_path / "saved", ("selected_", "histories_"))
    again = CellClassifier.load(tmp_path / "saved")
    assert again.module.network.head == "bert"
    assert again.selected is None
    np.testing.assert_array_equal(again.scores(cells), model.scores())
