"""The head that `recipe="probe"` leaves is scikit-learn's regression on standardised states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scgeneformer import evaluation
from scgeneformer.evaluation._linear import ALPHAS, STRENGTHS
from scgeneformer.model.data._cell_labels import CellTask
from scgeneformer.model.recipes._probe import fit_probe


def nearest(candidates, values) -> float:
    """Largest difference from the most similar candidate."""
    return min(np.abs(candidate - values).max() for candidate in candidates)


def pipelines(C=STRENGTHS):
    return [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in C]


@pytest.mark.parametrize("labels", ["half", "type"])
@pytest.mark.parametrize("sample", [None, "donor"])
def test_probabilities_are_scikit_learns(cells, make, split, labels, sample):
    model = make(labels, sample=sample)
    if sample:
        cells.obs["donor"] = np.where(np.arange(260) < 160, "a", np.where(np.arange(260) < 240, "b", "c"))
        cells.obs.loc[cells.obs_names[:160:2], "donor"] = "d"
    model.train(recipe="probe", split=split)
    states = model.get_latent_representation().astype(np.float64)
    truth = cells.obs[labels].astype(str).to_numpy()
    found = model.predict(soft=True, calibrated=False)
    fits = [each.fit(states[split.train], truth[split.train]) for each in pipelines()]
    assert list(found) == list(fits[0].classes_)
    assert nearest([each.predict_proba(states) for each in fits], found.to_numpy()) < 1e-5
    assert model.is_trained_
    assert not model.history
    assert model.selected.kept == "probe"
    assert model.selected.reason == "it was asked for"


def test_columns_of_all_kinds_have_a_regression_each(cells, make, split):
    """With missing labels, each column is learned from the cells that have it."""
    model = make(["type", "dose", "age"])
    model.train(recipe="probe", split=split)
    states = model.get_latent_representation().astype(np.float64)
    labels, train = model.labels().astype(np.float64), split.train
    found = model.scores(task="dose")
    dose = labels[train, 1]
    for k in range(3):
        at_least = train[dose >= k]
        fits = [each.fit(states[at_least], labels[at_least, 1] > k) for each in pipelines()]
        assert nearest([each.decision_function(states) for each in fits], found[:, k]) < 1e-4
    aged = train[~np.isnan(labels[train, 2])]
    fits = [
        make_pipeline(StandardScaler(), Ridge(len(aged) * a)).fit(states[aged], cells.obs["age"].iloc[aged])
        for a in ALPHAS
    ]
    assert nearest([each.predict(states) for each in fits], model.predict(task="age")) < 1e-3
    fits = [each.fit(states[train], labels[train, 0]) for each in pipelines()]
    found = model.predict(task="type", soft=True, calibrated=False).to_numpy()
    assert nearest([each.predict_proba(states) for each in fits], found) < 1e-5


def test_class_weights_weigh_the_probe(cells, make, split):
    model = make("type")
    weights = {"type 0": 5.0, "type 1": 1.0, "type 2": 1.0, "type 3": 0.5}
    model.train(recipe="probe", split=split, class_weights=weights)
    states = model.get_latent_representation().astype(np.float64)
    truth = cells.obs["type"].astype(str).to_numpy()[split.train]
    of_cells = np.array([weights[name] for name in truth])
    options = {"logisticregression__sample_weight": of_cells / of_cells.mean()}
    fits = [each.fit(states[split.train], truth, **options).predict_proba(states) for each in pipelines()]
    assert nearest(fits, model.predict(soft=True, calibrated=False).to_numpy()) < 1e-5


def test_a_shrunk_probe_has_penalties_a_hundred_times_stronger():
    rng = np.random.default_rng(0)
    tasks = [CellTask("a", "categorical", ("x", "y", "z")), CellTask("b", "ordinal", ("1", "2", "3"))]
    tasks += [CellTask("c", "continuous")]
    states = rng.normal(3, 2, (90, 4))
    labels = np.stack([np.arange(90) % 3, np.arange(90) // 30, states[:, 0]], 1)
    first = fit_probe(tasks, states, labels, groups=None, class_weights={}, rng=0)
    assert len(first.strengths) == 4
    second = fit_probe(tasks, states, labels, groups=None, class_weights={}, rng=0, shrunk=first)
    expected = [s / 100 for s in first.strengths[:3]] + [100 * first.strengths[3]]
    np.testing.assert_allclose(second.strengths, expected)
    model = evaluation.fit_logistic(states, labels[:, 0].astype(int), strength=expected[0])
    z = (states - second.mean) / second.sd
    np.testing.assert_allclose((z @ second.weight.T + second.bias)[:, :3], model(states), atol=1e-9)


def test_what_training_cells_do_not_show_is_improbable_but_finite():
    """A class without training cells, a column with one class only, and too few numbers for a regression."""
    rng = np.random.default_rng(0)
    tasks = [CellTask("a", "categorical", ("x", "y", "z")), CellTask("b", "ordinal", ("1", "2", "3"))]
    tasks += [CellTask("c", "categorical", ("u", "v")), CellTask("d", "continuous")]
    states, labels = rng.normal(size=(60, 4)), np.full((60, 4), np.nan)
    labels[:, 0], labels[:, 1], labels[:, 2] = np.arange(60) % 2, np.arange(60) % 2, 1
    labels[:4, 3] = 2.0
    probe = fit_probe(tasks, states, labels, groups=None, class_weights={}, rng=0)
    scores = torch.from_numpy((states - probe.mean) / probe.sd @ probe.weight.T + probe.bias)
    by_task = scores.split([3, 2, 2, 1], 1)
    assert scores.isfinite().all()
    assert tasks[0].log_proba(by_task[0])[:, 2].exp().max() < 1e-3
    assert tasks[1].log_proba(by_task[1])[:, 2].exp().max() < 1e-3
    assert tasks[2].log_proba(by_task[2])[:, 1].exp().min() > 0.999
    np.testing.assert_allclose(by_task[3], 2.0)
