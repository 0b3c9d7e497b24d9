from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from scgeneformer import evaluation
from scgeneformer.evaluation._linear import STRENGTHS, STRENGTHS_UNSCALED


def data(n: int = 200, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    labels[:n_classes] = np.arange(n_classes)
    features = rng.normal(size=(n, 10)) * np.logspace(-2, 2, 10)
    features[:, :n_classes] += 1.5 * np.eye(n_classes)[labels] * np.logspace(-2, 2, 10)[:n_classes]
    return features, labels


def test_logistic_is_one_of_sklearns_and_predicts() -> None:
    (train, labels), (cells, truth) = data(), data(seed=1)
    proba = evaluation.logistic(train, labels, cells)
    scaler = StandardScaler().fit(train)
    candidates = [
        LogisticRegression(C=c, max_iter=1000)
        .fit(scaler.transform(train), labels)
        .predict_proba(scaler.transform(cells))
        for c in STRENGTHS
    ]
    distance = [np.abs(candidate - proba).max() for candidate in candidates]
    assert min(distance) < 1e-9
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert np.mean(proba.argmax(axis=1) == truth) > 0.6
    np.testing.assert_array_equal(evaluation.logistic(train, labels, cells, rng=0), proba)


def test_the_strength_follows_the_data() -> None:
    """Noise leads to a strong penalty, and the predictions are then the class frequencies."""
    rng = np.random.default_rng(0)
    proba = evaluation.logistic(rng.normal(size=(150, 60)), np.arange(150) % 3, rng.normal(size=(50, 60)))
    np.testing.assert_allclose(proba, 1 / 3, atol=0.1)


def test_units_of_features_do_not_matter() -> None:
    (train, labels), (cells, _) = data(), data(seed=1)
    scale = np.logspace(3, -3, 10)
    expected = evaluation.logistic(train, labels, cells)
    np.testing.assert_allclose(evaluation.logistic(scale * train, labels, scale * cells), expected, atol=1e-4)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_sparse_features_of_a_single_precision(kind) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    counts = rng.poisson(1 + 2 * labels[:, None] * (np.arange(8) < 4)).astype(np.float32)
    proba = evaluation.logistic(kind(counts[:150]), labels[:150], kind(counts[150:]))
    dense = evaluation.logistic(counts[:150], labels[:150], counts[150:])
    np.testing.assert_allclose(proba, dense, atol=0.02)  # not centred, so that the intercept stands elsewhere
    assert np.mean(proba.argmax(axis=1) == labels[150:]) > 0.85


def test_unlabelled_items_rare_classes_and_classes_not_learned() -> None:
    train, labels = data()
    labels[labels == 1] = 3
    labels[50:60] = -1
    labels[0] = 2
    labels[(labels == 2) & (np.arange(200) > 20)] = -1
    proba = evaluation.logistic(train, labels, train, n_classes=6)
    assert proba.shape == (200, 6)
    assert (proba[:, [1, 4, 5]] == 0).all()
    assert (proba[:, [0, 2, 3]].sum(axis=0) > 0).all()
    changed = train.copy()
    changed[labels == -1] = 1e6
    np.testing.assert_array_equal(evaluation.logistic(changed, labels, train, n_classes=6), proba)


def test_groups_keep_the_penalty_from_being_chosen_by_what_tells_donors() -> None:
    """Features that identify the donor predict its label, but not that of another donor."""
    donor = np.repeat(np.arange(20), 10)
    features, labels = np.eye(20)[donor], donor % 2
    fooled = evaluation.logistic(features, labels, features)
    careful = evaluation.logistic(features, labels, features, groups=donor)
    assert fooled.max(axis=1).min() > 0.9
    assert careful.max() < 0.6


def test_two_groups_cannot_be_kept_together_in_three_folds() -> None:
    train, labels = data()
    proba = evaluation.logistic(train, labels, train, groups=np.arange(200) % 2)
    np.testing.assert_array_equal(proba, evaluation.logistic(train, labels, train))


def test_too_few_members_to_choose_by() -> None:
    proba = evaluation.logistic(np.eye(3), np.array([0, 0, 1]), np.eye(3))
    assert proba.argmax(axis=1).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="two classes"):
        evaluation.logistic(np.eye(3), np.array([1, 1, -1]), np.eye(3))


def test_ridge_is_one_of_sklearns_and_leaves_unlabelled_out() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 6)) * np.logspace(-2, 2, 6)
    values = features @ np.logspace(2, -2, 6) + rng.normal(size=120) + 40
    values[:20] = np.nan
    predicted = evaluation.ridge(features, values, features)
    scaled = StandardScaler().fit(features[20:]).transform(features)
    fits = [Ridge(100 * a).fit(scaled[20:], values[20:]).predict(scaled) for a in np.logspace(-4, 2, 7)]
    assert min(np.abs(fit - predicted).max() for fit in fits) < 1e-8
    assert np.corrcoef(predicted[20:], values[20:])[0, 1] > 0.8
    sparse_too = evaluation.ridge(sparse.csr_matrix(features), values, sparse.csr_matrix(features))
    np.testing.assert_allclose(sparse_too, predicted, atol=0.05)
    with pytest.raises(ValueError, match="5 labelled"):
        evaluation.ridge(features[:22], values[:22], features)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_without_scaling_the_features_are_taken_as_they_are(make) -> None:
    (train, labels), (cells, _) = data(), data(seed=1)
    train, cells = make(train / 10), make(cells / 10)
    proba = evaluation.logistic(train, labels, cells, scaled=False)
    fits = [LogisticRegression(C=c, max_iter=1000).fit(train, labels).predict_proba(cells) for c in STRENGTHS_UNSCALED]
    assert min(np.abs(fit - proba).max() for fit in fits) < 1e-6
    values = np.asarray(train[:, [9]].sum(1)).ravel() + labels
    predicted = evaluation.ridge(train, values, cells, scaled=False)
    solver = "cholesky" if isinstance(train, np.ndarray) else "sparse_cg"
    fits = [Ridge(200 * a, solver=solver).fit(train, values).predict(cells) for a in np.logspace(-6, 2, 9)]
    assert min(np.abs(fit - predicted).max() for fit in fits) < 1e-6


def test_a_fitted_model_is_sklearns_for_features_as_they_are() -> None:
    (train, labels), (cells, _) = data(), data(seed=1)
    scaler, weights = StandardScaler().fit(train), np.array([1.0, 5.0, 2.0])
    model = evaluation.fit_logistic(train, labels, n_classes=4, strength=0.3, weights=10 * weights[labels])
    sample_weight = weights[labels] / weights[labels].mean()
    theirs = LogisticRegression(C=0.3, max_iter=1000).fit(scaler.transform(train), labels, sample_weight)
    scores = model(cells)
    np.testing.assert_allclose(scores[:, :3], theirs.decision_function(scaler.transform(cells)), atol=1e-8)
    assert (scores[:, 3] == -np.inf).all()
    assert model.strength == 0.3
    two = evaluation.fit_logistic(train, labels % 2, strength=0.3)
    theirs = LogisticRegression(C=0.3, max_iter=1000).fit(scaler.transform(train), labels % 2)
    np.testing.assert_allclose(np.diff(two(cells))[:, 0], theirs.decision_function(scaler.transform(cells)), atol=1e-8)
    values = train @ np.logspace(2, -2, 10)
    ridge = evaluation.fit_ridge(train, values, strength=7.0)
    expected = Ridge(7.0).fit(scaler.transform(train), values).predict(scaler.transform(cells))
    np.testing.assert_allclose(ridge(cells)[:, 0], expected)
