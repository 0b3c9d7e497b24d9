from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from scgeneformer.model.data._cell_labels import CellTask
from scgeneformer.model.objectives._cells import _weights, score_tasks


def column(values, **kwargs) -> pd.Series:
    return pd.Series(values, name="y", **kwargs)


def test_kinds_are_told_from_the_column():
    ordered = pd.Categorical(["low", "high", "low"], categories=["low", "mid", "high"], ordered=True)
    assert CellTask.of(column(ordered)) == CellTask("y", "ordinal", ("low", "high"))
    assert CellTask.of(column(["b", "a", None])) == CellTask("y", "categorical", ("a", "b"))
    assert CellTask.of(column([3, 10, 3])).classes == ("3", "10")
    assert CellTask.of(column([True, False])).classes == ("False", "True")
    ages = CellTask.of(column([1.0, 3.0, np.nan]))
    assert (ages.kind, ages.mean, ages.sd) == ("continuous", 2.0, 1.0)
    assert CellTask.of(column([0.0, 10.0, 20.0]), "ordinal").n_outputs == 2
    assert CellTask.of(column(["a", "b", "?"]), unlabeled_category="?").classes == ("a", "b")


def test_labels_become_numbers_and_missing_ones_nan():
    task = CellTask.of(column(["b", "a", None, "?"]), unlabeled_category="?")
    np.testing.assert_array_equal(task.encode(column(["a", "?", None, "b"]), "?"), [0, np.nan, np.nan, 1])
    ages = CellTask.of(column([1.0, 3.0]))
    np.testing.assert_array_equal(ages.encode(column([5.0, np.nan])), [3, np.nan])


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ([None, None], None, "No cell has a label in .obs\\['y'\\]"),
        ([np.nan, np.nan], None, "No cell has a label"),
        (["a", "a", None], None, "one class only \\('a'\\)"),
        ([2.0, 2.0], None, "the same \\(2\\)"),
        ([1.0, np.inf], None, "1 infinite values"),
        (["a", "b"], "continuous", "not numbers"),
        (["a", "b"], "sorted", "choose one of"),
    ],
)
def test_labels_that_cannot_be_learned(values, kind, match):
    with pytest.raises(ValueError, match=match):
        CellTask.of(column(values), kind)


def test_unknown_classes_are_named():
    with pytest.raises(ValueError, match=r"not set up with: \['c'\]"):
        CellTask("y", "categorical", ("a", "b")).encode(column(["a", "c"]))


@given(st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_ordinal_chances_are_those_of_walking_up(n_classes, seed):
    task = CellTask("y", "ordinal", tuple(map(str, range(n_classes))))
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, task.n_outputs)) * 3)
    proba = task.log_proba(scores).exp().numpy()
    np.testing.assert_allclose(proba.sum(1), 1)
    for row, found in zip(scores.numpy(), proba, strict=True):
        here = 1.0  # chance to have got this far
        for k, score in enumerate(row):
            further = 1 / (1 + np.exp(-score))
            assert found[k] == pytest.approx(here * (1 - further))
            here *= further
        assert found[-1] == pytest.approx(here)


@pytest.mark.parametrize("kind", ["categorical", "ordinal"])
def test_loss_is_a_weighted_mean_over_labelled_cells(kind):
    rng = np.random.default_rng(0)
    task = CellTask("y", kind, ("a", "b", "c"))
    scores = torch.from_numpy(rng.normal(size=(7, task.n_outputs)))
    labels = np.array([0, 1, 2, np.nan, 1, 0, np.nan])
    weights = np.array([1.0, 2.0, 0.5])
    log_proba = task.log_proba(scores).numpy()
    there = [i for i in range(7) if not np.isnan(labels[i])]
    total = sum(-weights[int(labels[i])] * log_proba[i, int(labels[i])] for i in there)
    expected = total / sum(weights[int(labels[i])] for i in there)
    found = task.loss(scores, torch.from_numpy(labels), torch.from_numpy(weights))
    assert found.item() == pytest.approx(expected)


def test_no_label_no_loss_but_a_gradient():
    scores = torch.randn(3, 2, requires_grad=True)
    loss = CellTask("y", "categorical", ("a", "b")).loss(scores, torch.full((3,), torch.nan))
    loss.backward()
    assert loss == 0
    assert not scores.grad.any()


def test_balanced_weights_are_sklearn_s():
    task = CellTask("y", "categorical", ("a", "b", "c"))
    labels = np.array([0, 0, 0, 1, 2, 2, np.nan])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels[:-1])
    np.testing.assert_allclose(_weights(task, labels, "balanced"), expected, rtol=1e-6)
    np.testing.assert_allclose(_weights(task, labels, {"a": 1, "c": 3, "b": 2}), [1, 2, 3])
    with pytest.raises(ValueError, match="must be 'balanced' or give a weight to each"):
        _weights(task, labels, {"a": 1})


def test_a_score_that_one_class_cannot_have_is_missing_without_a_warning(recwarn):
    tasks = [CellTask("state", "categorical", ("a", "b")), CellTask("age", "continuous")]
    labels = np.array([[1.0, 0.5], [1.0, -0.5], [1.0, 0.0]])  # validation cells of one class
    scores = score_tasks(tasks, np.array([[0.0, 2.0, 0.5], [0.0, 1.0, -0.5], [2.0, 0.0, 0.0]]), labels)
    assert np.isnan(scores["auc"])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["r2"] == pytest.approx(1)
    assert not recwarn.list
