"""Properties of every model class: set up, train, save, load, resume, export, predict, cross-validate."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from scgeneformer import hub, settings
from scgeneformer.model import CellClassifier, GeneClassifier, Geneformer, StateShift, TrajectoryModel
from scgeneformer.model._classifier import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

TOKENS = "geneformer_tokens"
KINDS = (
    "masked",
    "cells",
    "genes",
    "genes, BERT's head",
    "cells, decoder",
    "genes, decoder",
    "cells, values",
    "genes, values",
)
CLASSIFIERS = KINDS[1:]


@dataclass
class Case:
    """A model class, how its data are set up and how a model of it is made."""

    cls: type
    setup: Callable[[ad.AnnData], None]
    make: Callable[[ad.AnnData], Any]
    prepare: Callable[[ad.AnnData], None] = lambda cells: None

    def new(self, cells: ad.AnnData) -> Any:
        torch.manual_seed(0)
        self.prepare(cells)
        self.setup(cells)
        return self.make(cells)

    def says(self, model: Any, cells: ad.AnnData | None = None) -> np.ndarray:
        """What a model of this class is asked for."""
        if self.cls is GeneClassifier:
            return model.predict_genes(cells).iloc[:, 1:3].to_numpy(float)
        if self.cls is CellClassifier:
            return model.predict(cells, soft=True).to_numpy()
        return model.get_latent_representation(cells)


@pytest.fixture
def cells(ranked) -> ad.AnnData:
    ranked.obs["half"] = np.where(ranked.obsm[TOKENS][:, 1] < 10, "low", "high")
    ranked.obs["third"] = pd.Categorical(list("abc") * 16)
    return ranked


@pytest.fixture
def quick(quick, case) -> dict:
    """One run of each class, though classifiers may train several times, or not at all."""
    return quick | ({} if case.cls is Geneformer else {"recipe": "plain"})


@pytest.fixture(params=KINDS)
def case(request, vocabulary, start, decoder, valued) -> Case:
    lists = {"late": vocabulary.ids[16:28].tolist(), "early": vocabulary.ids[4:16].tolist()}
    shape = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 16, "dropout": 0.1}

    def of_cells(backbone: Any) -> Case:
        def make(cells: ad.AnnData) -> CellClassifier:
            return CellClassifier(cells, backbone)

        return Case(CellClassifier, lambda cells: CellClassifier.setup_anndata(cells, "half"), make)

    def of_genes(backbone: Any, head: str) -> Case:
        def make(cells: ad.AnnData) -> GeneClassifier:
            return GeneClassifier(cells, lists, backbone, head=head)

        return Case(GeneClassifier, GeneClassifier.setup_anndata, make)

    of_values, with_values = valued
    return {
        "masked": Case(
            Geneformer, Geneformer.setup_anndata, lambda cells: Geneformer(cells, vocabulary=vocabulary, **shape)
        ),
        "cells": of_cells(start),
        "genes": of_genes(start, "linear"),
        "genes, BERT's head": of_genes(start, "bert"),
        "cells, decoder": of_cells(decoder),
        "genes, decoder": of_genes(decoder, "linear"),
        "cells, values": replace(of_cells(of_values), prepare=with_values),
        "genes, values": replace(of_genes(of_values, "linear"), prepare=with_values),
    }[request.param]


classifiers = pytest.mark.parametrize("case", CLASSIFIERS, indirect=True)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_training_changes_weights_and_leaves_the_data(case, cells, quick):
    model = case.new(cells)
    before, columns, keys = weights(model), list(cells.obs), set(cells.uns)
    model.train(max_epochs=1, **quick)
    assert model.is_trained_
    assert not model.module.training
    assert not same(before, weights(model))
    assert list(cells.obs) == columns
    assert set(cells.uns) - {"_scvi_uuid", "_scvi_manager_uuid"} == keys - {"_scvi_uuid", "_scvi_manager_uuid"}
    assert {"train_loss_step", "learning_rate", "train_loss", "validation_loss"} <= set(model.history)


@pytest.mark.parametrize("setting", ["float32", "bfloat16"])
@pytest.mark.parametrize("given", [None, "auto"])
def test_precision_of_training_is_the_setting_unless_given(case, cells, quick, given, setting):
    model = case.new(cells)
    with settings.override(precision=setting):
        model.train(max_steps=1, **quick | {"precision": given})
    if given is None:
        assert model.trainer.precision == {"float32": "32-true", "bfloat16": "bf16-mixed"}[setting]
    else:
        assert model.trainer.precision in {"32-true", "bf16-mixed"}


@pytest.mark.parametrize("name", ["precision", "device", "token_budget"])
def test_none_is_the_setting_for_predictions(case, cells, name):
    model = case.new(cells)
    model.is_trained_ = True
    np.testing.assert_array_equal(case.says(model), case.says(model, None))
    expected = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(**{name: None}), expected)


@classifiers
def test_split_before_and_after_training(case, cells, quick):
    model = case.new(cells)
    with pytest.raises(AttributeError, match="`train` first"):
        _ = model.split
    model.train(max_steps=1, **quick)
    first = model.split
    assert len(first.train)
    assert len(first.validation)
    model.train(max_steps=1, rng=5, **quick)
    np.testing.assert_array_equal(model.split.train, first.train)


def test_saved_and_loaded(case, cells, quick, tmp_path):
    model = case.new(cells)
    model.train(max_steps=2, **quick)
    model.save(tmp_path / "model")
    again = case.cls.load(tmp_path / "model", cells)
    assert same(weights(model), weights(again))
    np.testing.assert_array_equal(case.says(again), case.says(model))
    assert set(again.history) == set(model.history)
    if hasattr(model, "split"):
        np.testing.assert_array_equal(again.split.test, model.split.test)
    again.train(max_steps=1, **quick)


def test_untrained_model_can_be_saved(case, cells, tmp_path):
    model = case.new(cells)
    model.save(tmp_path / "model")
    again = case.cls.load(tmp_path / "model", cells)
    assert not again.is_trained_
    assert same(weights(model), weights(again))


def test_resumed_run_ends_as_one_that_never_stopped(case, cells, quick, tmp_path):
    ends = []
    for stops in ([None], [2, None]):
        folder = tmp_path / str(len(stops))
        for stop in stops:
            model = case.new(cells)
            torch.manual_seed(1)
            checkpoint = folder / "last.ckpt"
            options = {"checkpoints": folder, "checkpoint_every": 1, "plan_kwargs": {"total_steps": 6}}
            resumed = {"ckpt_path": checkpoint} if checkpoint.is_file() else {}
            model.train(max_epochs=2, max_steps=stop or 6, batch_size=16, **options | resumed | quick)
        ends.append(weights(model))
    assert same(*ends)


def test_export_is_read_by_the_hub(case, cells, quick, tmp_path):
    model = case.new(cells)
    model.train(max_steps=1, **quick)
    model.export(tmp_path / "folder")
    pretrained = hub.load(tmp_path / "folder")
    assert pretrained.vocabulary == model.vocabulary
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, pretrained.encoder.state_dict()[name]), name


@classifiers
def test_an_untrained_classifier_does_not_predict(case, cells):
    model = case.new(cells)
    with pytest.raises(ValueError, match=r"not trained.*`model\.train\(\)`"):
        case.says(model)
    assert model.get_latent_representation().shape == (48, 16)


@classifiers
def test_from_pretrained_predicts_alike(case, cells, quick, tmp_path):
    model = case.new(cells)
    model.train(max_steps=1, **quick)
    model.export(tmp_path / "folder")
    again = case.cls.from_pretrained(tmp_path / "folder", cells)
    np.testing.assert_array_equal(case.says(again), case.says(model))


def test_new_cells_of_the_same_vocabulary_need_no_setup(case, cells, toy):
    model = case.new(cells)
    model.is_trained_ = True
    make_vocabulary, make_cells = toy
    new = make_cells(9, model.vocabulary, seed=3, width=40)
    case.prepare(new)
    result = case.says(model, new)
    assert len(result) == (9 if case.cls is not GeneClassifier else len(model.predict_genes(new)))
    assert np.isfinite(result).all()
    other = make_cells(9, make_vocabulary("other", 30))
    with pytest.raises(ValueError, match="vocabulary 'other'"):
        case.says(model, other)


def test_cells_that_are_too_long_are_refused_by_public_means(case, cells):
    model = case.new(cells)
    model.check_tokens(cells.obsm[TOKENS])
    with pytest.raises(ValueError, match="65 tokens, but this model has 64 positions"):
        model.check_tokens(np.ones((2, 65), np.uint16))


@classifiers
def test_model_keeps_the_labels_it_was_made_for(case, cells, quick):
    """A second setup of the same object does not affect an earlier model, which trains and is copied as before."""
    model = case.new(cells)
    if case.cls is CellClassifier:
        CellClassifier.setup_anndata(cells, "third")
    else:
        GeneClassifier.setup_anndata(cells)
    copy = model.untrained()
    assert copy.registry["setup_args"] == model.registry["setup_args"]
    model.train(max_steps=1, **quick)
    assert len(case.says(model).T) == 2
    if case.cls is CellClassifier:
        newest = CellClassifier(cells, copy.to_pretrained())
        assert [task.name for task in newest.tasks] == ["third"]


@classifiers
def test_every_item_is_predicted_once_in_a_cross_validation(case, cells, quick):
    model = case.new(cells)
    before = weights(model)
    result = model.cross_validate(2, max_steps=2, **quick)
    assert same(before, weights(model))
    assert result.predictions.notna().all(axis=None)
    assert set(result.table["fold"]) == {0, 1}
    assert {"classifier", "linear probe"} <= set(result.scores.index.get_level_values("model"))
    again = model.cross_validate(2, max_steps=2, **quick)
    pd.testing.assert_frame_equal(again.predictions, result.predictions)


@classifiers
def test_folds_decide_what_is_trained_on(case, cells):
    model = case.new(cells)
    with pytest.raises(ValueError, match="train_size.* no meaning in a cross-validation"):
        model.cross_validate(2, train_size=0.5)


def test_trainer_gets_further_options_and_typos_are_refused(case, cells, quick):
    model = case.new(cells)
    model.train(max_steps=1, limit_val_batches=1, **quick)
    with pytest.raises(TypeError, match="learning_rates.* Did you mean 'learning_rate'"):
        model.train(learning_rates=1.0, **quick)
    with pytest.raises(TypeError, match="lr.* 'learning_rate'"):
        model.train(lr=1.0, **quick)


def test_words_of_scvi_tools_for_the_plan(case, cells, quick):
    model = case.new(cells)
    model.train(max_steps=2, warmup=0, schedule="constant", plan_kwargs={"lr": 3e-5}, **quick)
    assert model.history["learning_rate"]["learning_rate"].tolist() == [3e-5, 3e-5]
    with pytest.raises(TypeError, match="n_epochs_kl_warmup"):
        model.train(plan_kwargs={"n_epochs_kl_warmup": 4}, **quick)


def test_words_of_scvi_tools_for_the_setup(case, cells):
    required = ("half",) if case.cls is CellClassifier else ()
    cure = r" Use sample_key\." if case.cls is CellClassifier else r"$"
    with pytest.raises(TypeError, match=rf"{case.cls.__name__} sets up no 'batch_key'\.{cure}"):
        case.cls.setup_anndata(cells, *required, batch_key="half")


def test_signature_and_help_show_every_option_of_training(case):
    import inspect

    parameters = inspect.signature(case.cls.train).parameters
    text = inspect.getdoc(case.cls.train)
    assert {"learning_rate", "precision", "checkpoints", "rng", "plan_kwargs"} <= set(parameters)
    documented = {
        name.strip()
        for line in text.splitlines()
        if line and not line.startswith((" ", "-", "."))
        for name in line.split(",")
    }
    assert set(parameters) - {"self"} <= documented | {name.removeprefix("**") for name in documented}


def test_a_classifier_that_does_not_name_its_outputs_cannot_be_made():
    assert "_exported" in Classifier.__abstractmethods__
    assert not CellClassifier.__abstractmethods__ | GeneClassifier.__abstractmethods__


@pytest.mark.parametrize("cls", [CellClassifier, GeneClassifier, Geneformer, StateShift, TrajectoryModel])
def test_a_mudata_is_set_up_with_the_arguments_of_an_anndata(cls):
    of_anndata, of_mudata = (
        list(inspect.signature(getattr(cls, name)).parameters) for name in ("setup_anndata", "setup_mudata")
    )
    assert of_mudata[1:] == [*of_anndata[1:-1], "modalities", "kwargs"]
