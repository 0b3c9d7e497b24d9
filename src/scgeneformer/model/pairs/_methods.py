"""Methods that classify pairs of genes: classifiers of the vectors of their genes, and methods without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy.special import softmax

from scgeneformer import evaluation

from ._features import cosines, pair_features

if TYPE_CHECKING:
    from ._features import Expression

Classifier = Literal["logistic", "boosting"]
Predictor: TypeAlias = Callable[[np.ndarray], np.ndarray]  # from pairs (n, 2) to probabilities (n, n_classes)
DEGREE, FAMILY, DETECTION, COEXPRESSION, RANDOM, COSINE, PROBE_ROW, MODEL = (
    "degree",
    "family",
    "detection",
    "co-expression",
    "random vectors",
    "cosine",
    "probe",
    "model",
)


def fit(
    kind: Classifier,
    vectors: np.ndarray,
    pairs: np.ndarray,
    codes: np.ndarray,
    n_classes: int,
    *,
    directed: bool,
    rng: int,
) -> Predictor:
    """Fit a classifier of pairs to the vectors of their genes.

    Parameters
    ----------
    kind
        Logistic regression, or gradient boosting of trees.
    vectors
        Of the genes of the vocabulary, (V, H).
    pairs, codes
        int64 (n, 2), and the class of each, (n,).
    n_classes
        Number of classes.
    directed
        Whether the order of genes counts.
    rng
        Seed.
    """
    features = pair_features(vectors, pairs, directed=directed)
    if kind == "logistic":
        linear = evaluation.fit_logistic(features, codes, n_classes=n_classes, rng=rng)
        return lambda pairs: softmax(linear(pair_features(vectors, pairs, directed=directed)), axis=1)
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(early_stopping=False, random_state=rng).fit(features, codes)

    def predict(pairs: np.ndarray) -> np.ndarray:
        proba = np.zeros((len(pairs), n_classes))
        proba[:, trees.classes_] = trees.predict_proba(pair_features(vectors, pairs, directed=directed))
        return proba

    return predict


@dataclass(frozen=True, eq=False)
class Task:
    """What one fold gives to every method.

    Attributes
    ----------
    train, codes
        Pairs to learn from, negatives included, int64 (n, 2), and their classes.
    test
        Pairs to predict, int64 (m, 2).
    known, known_codes
        All pairs of the table that the fold may know, from which degrees are counted, and their classes.
    n_classes
        Number of classes.
    rng
        Seed.
    """

    train: np.ndarray
    codes: np.ndarray
    test: np.ndarray
    known: np.ndarray
    known_codes: np.ndarray
    n_classes: int
    rng: int


Method: TypeAlias = Callable[[Task], np.ndarray]  # to probabilities (m, n_classes)


def baselines(
    vectors: np.ndarray,
    families: np.ndarray,
    expression: Expression | str,
    classifier: Classifier,
    *,
    directed: bool,
) -> tuple[dict[str, Method], dict[str, str]]:
    """What the model is compared with, and why something is not, by name.

    Parameters
    ----------
    vectors
        Of the genes of the vocabulary, (V, H).
    families
        Of these genes, (V,).
    expression
        Of some cells, or why there is none.
    classifier
        Of random vectors.
    directed
        Whether the order of genes counts.
    """

    def of_vectors(task: Task, vectors: np.ndarray, kind: Classifier) -> np.ndarray:
        return fit(kind, vectors, task.train, task.codes, task.n_classes, directed=directed, rng=task.rng)(task.test)

    def of_values(task: Task, values: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return _of_few(values(task.train), values(task.test), task)

    def degree(task: Task) -> np.ndarray:
        return _of_few(*degree_features(task, len(vectors), directed=directed), task)

    def random(task: Task) -> np.ndarray:
        drawn = np.random.default_rng(task.rng).normal(size=vectors.shape)
        return of_vectors(task, drawn, classifier)

    chosen: dict[str, Method] = {DEGREE: degree}
    left_out: dict[str, str] = {}
    if isinstance(expression, str):
        left_out |= {DETECTION: expression, COEXPRESSION: expression}
    if len(np.unique(families)) < len(families):
        chosen[FAMILY] = lambda task: of_values(task, lambda pairs: np.ptp(families[pairs], axis=1, keepdims=True) == 0)
    else:
        left_out[FAMILY] = "genes have no families"
    if not isinstance(expression, str):
        detection = expression.detection()
        chosen[DETECTION] = lambda task: of_vectors(task, detection, "logistic")
        chosen[COEXPRESSION] = lambda task: of_values(
            task, lambda pairs: np.abs(expression.correlations(pairs))[:, None]
        )
    chosen[RANDOM] = random
    chosen[COSINE] = lambda task: of_values(task, lambda pairs: cosines(vectors, pairs)[:, None])
    return chosen, left_out


def or_shares(proba: np.ndarray, task: Task) -> np.ndarray:
    """Probabilities and, where there are none, the shares of the classes among the pairs to learn from."""
    shares = np.bincount(task.codes, minlength=task.n_classes) / len(task.codes)
    return np.where(np.isnan(proba), shares, proba)


def _of_few(train: np.ndarray, test: np.ndarray, task: Task) -> np.ndarray:
    """Probabilities from one or a few numbers for each pair, which need no choice of a penalty."""
    linear = evaluation.fit_logistic(train, task.codes, n_classes=task.n_classes, strength=1.0)
    return softmax(linear(test), axis=1)


def degree_features(task: Task, n_genes: int, *, directed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the numbers of known partners of the genes of training and tested pairs, (n, F) and (m, F).

    One for each class of known pairs: of both genes, summed; or, if `directed`, two, of the source as source and of the target as target.
    A training pair does not count itself.
    """
    columns: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for code in np.unique(task.known_codes):
        of_class = task.known[task.known_codes == code]
        if directed:
            degrees = np.stack([np.bincount(of_class[:, end], minlength=n_genes) for end in (0, 1)])
        else:
            degrees = np.tile(np.bincount(of_class.ravel(), minlength=n_genes), (2, 1))
        for pairs, itself, found in ((task.train, task.codes == code, columns[0]), (task.test, None, columns[1])):
            of_ends = degrees[np.arange(2), pairs].astype(np.float64)  # (n, 2)
            if itself is not None:
                of_ends -= itself[:, None]
            logarithms = np.log1p(of_ends)
            found += list(logarithms.T) if directed else [logarithms.sum(axis=1)]
    return np.column_stack(columns[0]), np.column_stack(columns[1])
