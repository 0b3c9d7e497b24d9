from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn import metrics

from scgeneformer import evaluation


def predictions(n_classes: int, n: int = 300, seed: int = 0, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    truth[:n_classes] = np.arange(n_classes)
    logits = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[truth]
    return truth, softmax(np.round(logits) if ties else logits, axis=1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 12])
def test_report_is_sklearns(n_classes: int, ties: bool) -> None:
    truth, proba = predictions(n_classes, ties=ties)
    report = evaluation.classification(truth, proba, list(range(n_classes)))
    predicted = proba.argmax(axis=1)
    score = proba[:, 1] if n_classes == 2 else proba
    hot = (truth == 1) if n_classes == 2 else np.eye(n_classes)[truth]
    expected = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, predicted),
        "macro_f1": metrics.f1_score(truth, predicted, average="macro"),
        "auc": metrics.roc_auc_score(truth, score, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(hot, score),
        "log_loss": metrics.log_loss(truth, proba),
    }
    pd.testing.assert_series_equal(report.scores[list(expected)], pd.Series(expected), rtol=1e-10)
    table = metrics.precision_recall_fscore_support(truth, predicted, zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1", "support"), table, strict=True):
        np.testing.assert_allclose(report.per_class[name], values, rtol=1e-12)
    aucs = [metrics.roc_auc_score(truth == c, proba[:, c]) for c in range(n_classes)]
    np.testing.assert_allclose(report.per_class["auc"], aucs, rtol=1e-10)
    np.testing.assert_array_equal(report.confusion, metrics.confusion_matrix(truth, predicted))
    assert report.confusion.index.tolist() == [str(c) for c in range(n_classes)] == report.per_class.index.tolist()
    assert report.reason is None


def test_unlabelled_items_do_not_count() -> None:
    truth, proba = predictions(3)
    with_more = evaluation.classification(
        np.append(truth, [-1, -1]), np.vstack([proba, np.full((2, 3), np.nan)]), "abc"
    )
    pd.testing.assert_series_equal(with_more.scores, evaluation.classification(truth, proba, "abc").scores)


def test_a_missing_class_makes_auc_undefined_and_is_named() -> None:
    truth, proba = predictions(4)
    kept = truth != 2
    report = evaluation.classification(truth[kept], proba[kept], ["a", "b", "c", "d"])
    assert np.isnan(report.scores[["auc", "average_precision"]]).all()
    assert report.scores.drop(["auc", "average_precision"]).notna().all()
    assert "'c'" in report.reason
    assert np.isnan(report.per_class.loc["c", ["recall", "auc"]].astype(float)).all()
    assert report.per_class.loc[["a", "b", "d"], "auc"].notna().all()
    predicted = proba[kept].argmax(axis=1)
    assert 2 in predicted
    expected = metrics.f1_score(truth[kept], predicted, average="macro", zero_division=0)
    np.testing.assert_allclose(report.scores["macro_f1"], expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, p: (t, p[:, :2], "abc"), "up to class 2"),
        (lambda t, p: (t, p, "ab"), "2 classes"),
        (lambda t, p: (t, p * 2, "abc"), "sum to 1"),
        (lambda t, p: (t[:5], p, "abc"), "do not fit"),
        (lambda t, p: (t * 0 - 1, p, "abc"), "Nothing is labelled"),
        (lambda t, p: (t, np.where(np.arange(len(p))[:, None] == 4, np.nan, p), "abc"), "1 labelled items.*NaN"),
    ],
)
def test_bad_probabilities(change, match) -> None:
    with pytest.raises(ValueError, match=match):
        evaluation.classification(*change(*predictions(3)))


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_curves_are_sklearns(pairs) -> None:
    positive, score = np.array([p for p, _ in pairs]), np.array([s for _, s in pairs], dtype=float)
    if positive.all() or not positive.any():
        assert np.isnan(evaluation.roc(positive, score).area)
        return
    curve = evaluation.roc(positive, score)
    x, y, threshold = metrics.roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(np.stack([curve.x, curve.y, curve.threshold]), np.stack([x, y, threshold]))
    np.testing.assert_allclose(curve.area, metrics.roc_auc_score(positive, score))
    above = np.sign(score[positive][:, None] - score[~positive])  # each positive beside each negative
    np.testing.assert_allclose(curve.area, np.mean((above + 1) / 2))
    curve = evaluation.precision_recall(positive, score)
    precision, recall, threshold = metrics.precision_recall_curve(positive, score)
    np.testing.assert_allclose(np.stack([curve.x, curve.y]), np.stack([recall, precision])[:, ::-1])
    np.testing.assert_allclose(curve.threshold[1:], threshold[::-1])
    np.testing.assert_allclose(curve.area, metrics.average_precision_score(positive, score))


def test_curves_refuse_nan_and_shapes() -> None:
    with pytest.raises(ValueError, match="1 scores are NaN"):
        evaluation.roc(np.array([True, False]), np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="must have the same shape"):
        evaluation.precision_recall(np.array([True]), np.array([0.1, 0.2]))


def test_regression_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    truth = np.round(rng.normal(size=100), 1)
    predicted = truth + rng.normal(size=100)
    scores = evaluation.regression(np.append(truth, np.nan), np.append(predicted, 5))
    expected = [
        metrics.mean_absolute_error(truth, predicted),
        metrics.root_mean_squared_error(truth, predicted),
        metrics.r2_score(truth, predicted),
        spearmanr(truth, predicted).statistic,
    ]
    np.testing.assert_allclose(scores, expected)
    assert list(scores.index) == ["mae", "rmse", "r2", "spearman"]
    constant = evaluation.regression(np.ones(3), np.ones(3))
    assert np.isnan(constant[["r2", "spearman"]]).all()


def test_ordinal_scores_are_sklearns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 200)
    predicted = truth + rng.normal(size=200)
    nearest = np.clip(np.rint(predicted), 0, 4).astype(int)
    scores = evaluation.regression(np.append(truth, -1), np.append(predicted, np.nan), n_levels=5)
    np.testing.assert_allclose(scores["kappa"], metrics.cohen_kappa_score(truth, nearest, weights="quadratic"))
    np.testing.assert_allclose(scores["accuracy"], np.mean(truth == nearest))
    np.testing.assert_allclose(scores["mae"], np.mean(np.abs(predicted - truth)))


@pytest.mark.parametrize(
    ("truth", "predicted", "match"),
    [
        ([1.0, 2.0], [1.0], "must have the same shape"),
        ([np.nan], [1.0], "Nothing"),
        ([1.0], [np.nan], "1 predictions are NaN"),
    ],
)
def test_bad_numbers(truth, predicted, match) -> None:
    with pytest.raises(ValueError, match=match):
        evaluation.regression(np.array(truth), np.array(predicted))
