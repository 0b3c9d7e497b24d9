"""Models that commands train are those that the classes train."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

from .conftest import SIZES


def test_a_classifier_of_cells(run, embedded, model, classifier) -> None:
    ours = ad.read_h5ad(embedded)
    sg.model.CellClassifier.setup_anndata(ours, "state", sample_key="donor")
    trained = sg.model.CellClassifier(ours, model)
    trained.train(recipe="probe", train_size=0.5, validation_size=0.25, test_size=0.25)
    loaded = sg.model.CellClassifier.load(classifier, ours)
    np.testing.assert_array_equal(loaded.split.test, trained.split.test)
    pd.testing.assert_frame_equal(loaded.predict(soft=True), trained.predict(soft=True))


def test_weights_of_classes_on_the_command_line(run, embedded, model) -> None:
    words = ["train", "cells", embedded, "out", "--labels-key", "state", "--model", model, "--recipe", "plain", *SIZES]
    options = ["--class-weights", "{a: 2, b: 1, c: 1}", "--max-epochs", "1", "--freeze", "all", "--accelerator", "cpu"]
    ran = run(*words, *options)
    assert ran.status == 0, ran.err
    assert ran.out == ""


def test_a_classifier_of_genes(run, embedded, model) -> None:
    classes = {"first": [f"G{i}" for i in range(20)], "second": [f"G{i}" for i in range(20, 40)]}
    rows = [(name, gene) for name, genes in classes.items() for gene in genes]
    pd.DataFrame(rows, columns=["source", "target"]).to_csv("classes.csv", index=False)
    sizes = ["--train-size", "0.5", "--validation-size", "0.3", "--test-size", "0.2"]
    words = ["train", "genes", embedded, "out", "--classes", "classes.csv", "--model", model, "--recipe", "probe"]
    ran = run(*words, *sizes)
    assert ran.status == 0, ran.err
    assert run("classify-genes", embedded, "classified.h5ad", "--model", "out").status == 0
    ours = ad.read_h5ad(embedded)
    sg.tl.classify_genes(ours, sg.model.GeneClassifier.load("out"))
    pd.testing.assert_frame_equal(ad.read_h5ad("classified.h5ad").varm["gene_classes"], ours.varm["gene_classes"])


def test_a_vocabulary_a_new_model_and_a_model_trained_further(run, counts) -> None:
    ran = run("vocabulary", counts, "vocabulary.json", "--name", "tiny", "--max-length", "64")
    assert ran.status == 0, ran.err
    expected = sg.Vocabulary.from_adata(ad.read_h5ad(counts), name="tiny", max_length=64)
    assert sg.Vocabulary.load("vocabulary.json") == expected
    sizes = ["--n-layers", "2", "--width", "16", "--n-heads", "2", "--feed-forward", "32", "--block-cells", "8"]
    training = ["--max-epochs", "1", "--accelerator", "cpu", "--validation", "0.2"]
    ran = run("pretrain", counts, "new", "--vocabulary", "vocabulary.json", *sizes, *training)
    assert ran.status == 0, ran.err
    assert "40 cells to train on, 8 to validate" in ran.err
    first = sg.model.Geneformer.load("new")
    assert first.module.network.encoder.config.n_layers == 2
    ran = run("pretrain", counts, "further", "--model", "new", "--block-cells", "8", *training, "--jobs", "1")
    assert ran.status == 0, ran.err
    assert len(sg.model.Geneformer.load("further").history["train_loss"]) == 1


def test_a_preset_has_a_size_and_a_recipe(run, counts, monkeypatch) -> None:
    monkeypatch.setattr(
        sg.model.Geneformer, "train", wraps(sg.model.Geneformer.train)(lambda self, **options: seen.update(options))
    )
    monkeypatch.setattr(sg.model.Geneformer, "save", lambda self, folder, **options: seen.update(model=self))
    monkeypatch.setattr(sg.model.Corpus, "check_fits", lambda *args: None)
    seen = {}
    assert run("vocabulary", counts, "vocabulary.json", "--name", "tiny", "--max-length", "64").status == 0
    words = ["--preset", "V1-10M", "--vocabulary", "vocabulary.json", "--width", "32", "--learning-rate", "1e-4"]
    ran = run("pretrain", counts, "new", *words, "--validation", "0", "--max-epochs", "1")
    assert ran.status == 0, ran.err
    published = sg.model.recipe("V1-10M")
    assert seen["learning_rate"] == 1e-4
    assert seen["warmup"] == published["warmup"]
    assert seen["model"].module.network.encoder.config.width == 32


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "Nothing to train"),
        (["--model", "default", "--width", "32"], "has its own size and vocabulary"),
    ],
)
def test_pretraining_without_sense_is_refused(refused, counts, words, match) -> None:
    assert match in refused("pretrain", counts, "out", *words)


def test_tuning(run, embedded, model, monkeypatch) -> None:
    """The tests of `tune` cover its run on Ray."""
    seen = {}

    @wraps(sg.model.tune)
    def tune(model_cls, adata, space=None, *, folder, n_trials=16, model_params=None, train_params=None):
        seen.update(space=space, n_trials=n_trials, model_params=model_params, train_params=train_params)
        best = model_cls(adata, **model_params)
        best.is_trained_ = True
        return sg.model.TuneResult(pd.DataFrame({"learning_rate": [1e-4]}), best, {"learning_rate": 1e-4}, folder)

    monkeypatch.setattr(sg.model, "tune", tune)
    text = (
        f"tune:\n  space: {{learning_rate: [0.0001, 0.001]}}\n  model-params: {{pretrained: {model}}}\n  n_trials: 2\n"
    )
    Path("run.yaml").write_text(text)
    words = ["tune", embedded, "best", "--search", "search", "--labels-key", "state", "--config", "run.yaml"]
    ran = run(*words, "--table", "trials.csv")
    assert ran.status == 0, ran.err
    assert seen["space"] == {"learning_rate": [1e-4, 1e-3]}
    assert seen["n_trials"] == 2
    assert pd.read_csv("trials.csv")["learning_rate"].tolist() == [1e-4]
    assert sg.hub.load("best").vocabulary.name == "tiny"
