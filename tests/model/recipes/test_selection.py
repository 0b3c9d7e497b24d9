"""The classifier that is kept is never worse than the probe on the validation cells, and the model reports the reason."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy
import torch

from scgeneformer import evaluation
from scgeneformer.model import CellClassifier
from scgeneformer.model.data._cell_labels import CellTask
from scgeneformer.model.recipes._selection import Judge, Selection

from .conftest import balanced_loss


def scored(model, name: str, cells: np.ndarray) -> tuple[CellTask, np.ndarray, np.ndarray]:
    """A column, the scores of its labelled cells, and their codes."""
    task = model.task(name)
    labels = model.labels()[cells, model.tasks.index(task)]
    known = ~np.isnan(labels)
    return task, model.scores(indices=cells[known], task=name), labels[known].astype(int)


@pytest.mark.parametrize("labels", ["half", "type", ["half", "dose"]])
@pytest.mark.parametrize("rng", [0, 1])
@pytest.mark.parametrize("kwargs", [{}, {"pooling": "attention"}, {"lora": 2}])
def test_the_criterion_is_never_above_the_probes(make, short, labels, rng, kwargs):
    if "lora" in kwargs:
        pytest.importorskip("peft")
    model = make(labels, **kwargs)
    model.train(rng=rng, **short)
    selected = model.selected
    table = selected.table
    assert table.loc[selected.kept, "criterion"] <= table.loc["probe", "criterion"]
    names = [task.name for task in model.tasks]
    found = np.mean([balanced_loss(*scored(model, name, model.split.validation)) for name in names])
    assert table.loc[selected.kept, "criterion"] == pytest.approx(found, rel=1e-4)
    assert list(table.index) == ["probe", "B" if labels == "half" else "A"]  # of two classes, or of four
    runs = table.drop(index="probe")
    beat = runs.index[runs["difference"] < -runs["standard_error"]]
    assert selected.kept == (runs.loc[beat, "criterion"].idxmin() if len(beat) else "probe")
    assert set(selected.histories) == set(runs.index)
    kept = selected.histories.get(selected.kept, {})
    assert set(model.history) == set(kept)
    for name, frame in kept.items():
        pd.testing.assert_frame_equal(model.history[name], frame)


def test_a_run_that_learns_nothing_is_the_probe(make, short):
    """At a learning rate of 0, the losses of validation cells are those of the probe."""
    model = make()
    model.train(learning_rate=0.0, **short)
    table = model.selected.table
    assert list(table.index) == ["probe", "A"]
    assert table.loc["A", "steps"] == 2 * 10
    assert abs(table.loc["A", "difference"]) < 1e-6
    probe = make()
    probe.train(recipe="probe", split=short["split"])
    np.testing.assert_allclose(model.scores(), probe.scores(), atol=1e-6)


def test_a_run_that_finds_more_is_kept(cells, make, short):
    """The classes differ in the order of genes, which mean states show less clearly before training than after it."""
    tokens = cells.obsm["geneformer_tokens"]
    swap = np.random.default_rng(0).random(260) < 0.5
    for row in np.flatnonzero(swap):
        n = int((tokens[row] != 0).sum())
        tokens[row, 1 : n - 1] = tokens[row, 1 : n - 1][::-1].copy()
    cells.obs["order"] = np.where(swap, "down", "up")
    model = make("order", pooling="mean", dropout=0.0)
    model.train(**short | {"max_epochs": 40, "learning_rate": 5e-3})
    selected = model.selected
    assert selected.kept == "A"
    assert selected.table.loc["A", "accuracy"] > selected.table.loc["probe", "accuracy"] + 0.03
    assert "validation loss" in selected.reason
    assert len(model.history["train_loss"])
    predicted = model.predict(indices=model.split.validation)
    right = np.mean(predicted == cells.obs["order"].to_numpy()[model.split.validation])
    assert right == pytest.approx(selected.table.loc["A", "accuracy"], abs=1e-6)


def test_selection_and_probabilities_survive_files(cells, make, short, tmp_path):
    model = make()
    model.train(**short)
    expected, selected = model.predict(soft=True), model.selected
    model.save(tmp_path / "saved")
    model.export(tmp_path / "exported")
    for again in (CellClassifier.load(tmp_path / "saved"), CellClassifier.from_pretrained(tmp_path / "exported")):
        pd.testing.assert_frame_equal(again.predict(cells, soft=True), expected, rtol=1e-6)
        assert (again.selected.kept, again.selected.reason) == (selected.kept, selected.reason)
        pd.testing.assert_frame_equal(again.selected.table, selected.table)
    loaded = CellClassifier.load(tmp_path / "saved")
    assert set(loaded.selected.histories) == set(selected.histories)
    (run,) = selected.histories
    pd.testing.assert_frame_equal(loaded.selected.histories[run]["train_loss"], selected.histories[run]["train_loss"])


@pytest.mark.parametrize(
    ("kwargs", "split", "reason"),
    [
        ({"freeze": "all"}, (160, 240), "only the head is trained"),
        ({}, (160, 200), r"too few validation cells to tell \(40; it takes 50"),
        ({}, (160, 160), r"too few validation cells to tell \(0;"),
    ],
)
def test_the_probe_is_kept_without_a_run_where_none_could_tell(make, short, kwargs, split, reason, monkeypatch):
    model = make(**kwargs)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    sets = evaluation.Split(np.arange(split[0]), np.arange(*split), np.arange(240, 260))
    lines: list[str] = []
    monkeypatch.setattr(scanpy.logging, "info", lambda text, **_: lines.append(text))
    model.train(**short | {"split": sets})
    assert model.selected.kept == "probe"
    assert pd.Series(model.selected.reason).str.contains(reason).all()
    assert lines == [f"kept the linear probe: {model.selected.reason}"]
    assert not model.history
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


def test_rare_classes_take_no_part_in_the_choice(make, cells, short):
    """Two validation cells of a class say little of it, and do not stop the others from choosing."""
    cells.obs["rare"] = np.where(np.arange(260) % 40 == 0, "rare", cells.obs["half"])
    model = make("rare")
    model.train(**short)
    assert "on 78 validation cells, without 1 class of fewer than 3" in model.selected.reason
    assert list(model.selected.table.index) == ["probe", "B"]
    common = model.split.validation[model.split.validation % 40 != 0]
    found = balanced_loss(*scored(model, "rare", common))
    assert model.selected.table.loc[model.selected.kept, "criterion"] == pytest.approx(found, rel=1e-4)


def test_one_class_with_enough_cells_makes_no_choice(make, cells, short):
    cells.obs["rare"] = np.where(np.arange(260) % 40 == 0, "rare", "frequent")
    model = make("rare")
    model.train(**short)
    assert model.selected.reason == "too few validation cells to tell (80; it takes 50, and 3 of each of two classes)"


def test_frozen_layers_stay_where_they_are(make, short):
    model = make(freeze=1)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.train(**short)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


@pytest.mark.parametrize("kind", ["categorical", "ordinal"])
def test_it_does_not_matter_how_frequent_a_classifier_takes_its_classes_to_be(kind):
    """A regression on all items and one on items weighted to balanced classes differ in their offset: neither is a better classifier."""
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.15).astype(float)
    features = rng.normal(size=(400, 3)) + 0.5 * labels[:, None]
    task = CellTask("a", kind, ("other", "rare"))
    judge = Judge([task], labels[:, None], {"a": 1.0}, (50, 3))
    of_weights = [
        evaluation.fit_logistic(features, labels.astype(int), strength=1.0, weights=weights)(features)
        for weights in (None, np.where(labels == 1, 1 / 0.15, 1 / 0.85))
    ]
    plain, balanced = (scores if kind == "categorical" else scores[:, 1:] - scores[:, :1] for scores in of_weights)
    found = [judge.losses(scores) for scores in (plain, balanced, plain + 1.5 * np.arange(plain.shape[1]), plain - 2.0)]
    assert judge.criterion(found[1]) == pytest.approx(judge.criterion(found[0]), rel=0.01)
    np.testing.assert_allclose(found[2], found[0], atol=1e-4)
    np.testing.assert_allclose(found[3], found[0], atol=1e-4)
    classes = [np.flatnonzero(labels == code) for code in (0, 1)]
    uncalibrated = -task.log_proba(torch.from_numpy(plain)).numpy()[np.arange(400), labels.astype(int)]
    assert judge.criterion(found[0]) < np.mean([uncalibrated[items].mean() for items in classes]) - 0.2


def test_standard_errors_are_those_of_paired_differences_within_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat([0.0, 1.0, 2.0], [10, 20, 50])[:, None]
    task = CellTask("a", "categorical", ("x", "y", "z"))
    judge = Judge([task], labels, {"a": 3.0}, (50, 3))
    difference = rng.normal(size=(80, 1))
    by_class = pd.Series(difference[:, 0]).groupby(labels[:, 0])
    assert judge.criterion(difference) == pytest.approx(by_class.mean().mean())
    assert judge.standard_error(difference) == pytest.approx(np.sqrt((by_class.var() / by_class.size()).sum()) / 3)
    tasks = [task, CellTask("b", "categorical", ("x", "y", "z"))]
    twice = Judge(tasks, np.repeat(labels, 2, 1), {"a": 1.0, "b": 1.0}, (50, 3))  # the same cells, not twice as many
    assert twice.standard_error(np.repeat(difference, 2, 1)) == pytest.approx(judge.standard_error(difference))


def test_surer_than_the_cells_allow_is_calibrated_before_it_is_judged():
    """Scores that are too large have the loss at the best temperature, but never less than without one."""
    labels = np.repeat([0.0, 1.0], 50)[:, None]
    judge = Judge([CellTask("a", "categorical", ("x", "y"))], labels, {"a": 1.0}, (50, 3))
    scores = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    scores[np.arange(100), labels[:, 0].astype(int)] += 2
    once, twice = (judge.criterion(judge.losses(factor * scores)) for factor in (8, 16))
    assert twice == pytest.approx(once, rel=1e-4)
    perfect = 5 * np.eye(2, dtype=np.float32)[labels[:, 0].astype(int)]
    assert judge.criterion(judge.losses(perfect)) == pytest.approx(np.log1p(np.exp(-5.0)))


def test_a_selection_is_plain_values():
    table = pd.DataFrame({"criterion": [0.5, 0.4], "difference": [np.nan, -0.1]}, index=["probe", "A"])
    state = Selection("A", "why", 60, table).state
    assert state["table"]["probe"]["difference"] is None
    pd.testing.assert_frame_equal(Selection.restored(state, {}).table, table)
