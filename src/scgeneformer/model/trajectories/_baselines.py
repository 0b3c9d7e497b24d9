"""What needs no transformer: the most common interval, and a ridge regression of time on ranks of genes; scores beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _log as logg
from scgeneformer import evaluation
from scgeneformer.evaluation._intervals import groups_to_resample

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL, COMMON, RIDGE, NEAREST = "model", "most common interval", "ridge regression", "nearest time to it"
_N_COMPONENTS, _MOST_CELLS = 50, 2000  # of the regression
_N_BOOTSTRAP = 500
CONSTANT = 0.1  # predictions that vary by less than this share of the truth are called constant


@dataclass(frozen=True, eq=False)
class TimeRegression:
    """Ridge regression of time on principal components of the ranks of genes.

    Attributes
    ----------
    components
        (n_components, n_tokens).
    linear
        Time by components.
    known
        The times of the cells that it was fitted to, ascending.
    n_special
        Tokens below it are not genes.
    """

    components: np.ndarray
    linear: evaluation.LinearModel
    known: np.ndarray
    n_special: int

    @classmethod
    def fit(cls, matrix: np.ndarray, times: np.ndarray, n_tokens: int, n_special: int) -> TimeRegression:
        """Fit it to cells, at most 2,000 of them."""
        from sklearn.decomposition import TruncatedSVD

        some = np.sort(np.random.default_rng(0).permutation(len(matrix))[:_MOST_CELLS])
        ranks = rank_features(matrix[some], n_tokens, n_special)
        n_components = min(_N_COMPONENTS, min(ranks.shape) - 1)
        components = TruncatedSVD(n_components, random_state=0).fit(ranks).components_
        linear = evaluation.fit_ridge(ranks @ components.T, times[some], scaled=False)
        return cls(components, linear, np.unique(times), n_special)

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Times of cells, float64 (n,)."""
        ranks = rank_features(matrix, self.components.shape[1], self.n_special)
        return self.linear(ranks @ self.components.T)[:, 0]

    def nearest(self, told: np.ndarray) -> np.ndarray:
        """The known time nearest to each prediction, which is fairer where there are few times."""
        return self.known[np.abs(told[:, None] - self.known).argmin(axis=1)]


def rank_features(matrix: np.ndarray, n_tokens: int, n_special: int) -> sparse.csr_matrix:
    """From 1 for the first gene of a cell towards 0 for its last, 0 for those that it lacks, CSR (n, n_tokens)."""
    row, place = np.nonzero(matrix >= n_special)
    n_genes = np.bincount(row, minlength=len(matrix))
    rank = place - (matrix < n_special).argmin(axis=1)[row]  # after <cls>
    return sparse.csr_matrix((1 - rank / n_genes[row], (row, matrix[row, place])), shape=(len(matrix), n_tokens))


def most_common(steps: np.ndarray) -> int:
    """The most common number of steps, the smallest of equally common ones."""
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()])


def with_interval(values: pd.DataFrame, name: str, samples: np.ndarray) -> pd.DataFrame:
    """Mean of each column, called `name`, with its 95 % interval, ``low`` and ``high``.

    Parameters
    ----------
    values
        Of each method (columns) for each query (rows).
    name
        Of the means.
    samples
        What the interval draws as a whole, such as the donor of each query, (n_queries,); the queries themselves if there are fewer than
        three.
    """
    groups = groups_to_resample(samples)
    intervals = evaluation.bootstrap(
        lambda rows: values.iloc[rows].mean(), len(values), groups=groups, n_bootstrap=_N_BOOTSTRAP
    )
    return pd.DataFrame({name: values.mean()}).join(intervals).rename_axis("method")


def score_elapsed(
    times: np.ndarray, last: np.ndarray, elapsed: Mapping[str, np.ndarray], samples: np.ndarray
) -> pd.DataFrame:
    """Mean absolute error of elapsed times, its interval, and how much predictions vary.

    Parameters
    ----------
    times
        True time of each query, (n_queries,).
    last
        Time of the last cell of each of its contexts, (n_queries, n_contexts).
    elapsed
        Time from that cell to the query that each method predicts, of the same shape.
    samples
        As of `with_interval`.
    """
    truth = times[:, None] - last
    errors = {name: np.abs(values - truth).mean(axis=1) for name, values in elapsed.items()}
    table = with_interval(pd.DataFrame(errors), "mae", samples)
    table["sd"] = [float(np.std(values)) for values in elapsed.values()]
    table["sd_time"] = [float(np.std((last + values).mean(axis=1))) for values in elapsed.values()]
    return table.assign(sd_true=float(np.std(truth)), sd_true_time=float(np.std(times)), n_queries=len(times))


def report(scores: pd.DataFrame | None) -> None:
    """Log how well a model and its baselines told elapsed times of held-out cells, and warn of what speaks against the model."""
    if scores is None:
        logg.warning("This model was trained without test cells: the error of its times is not known.")
        return
    errors = [f"{name} {row['mae']:.3g} ({row['low']:.3g} to {row['high']:.3g})" for name, row in scores.iterrows()]
    logg.info(f"mean absolute error of elapsed time on held-out cells, with 95 % interval: {', '.join(errors)}")
    for note in verdict(scores):
        logg.warning(note)


def verdict(scores: pd.DataFrame) -> list[str]:
    """What a reader of predictions must know, in sentences; none if the model is better than its baselines."""
    model, others = scores.loc[MODEL], scores.drop(index=MODEL)
    best = others["mae"].idxmin()
    notes: list[str] = []
    for what, told, true in (("elapsed time", "sd", "sd_true"), ("time", "sd_time", "sd_true_time")):
        if model[told] < CONSTANT * model[true] and not notes:
            notes.append(
                f"The model predicts nearly the same {what} for every cell: on held-out cells it varies by "
                f"{model[told]:.3g} (standard deviation), the true one by {model[true]:.3g}."
            )
    if model["mae"] >= others.loc[best, "mae"]:
        notes.append(
            f"The model is no better than a baseline: on held-out cells its mean absolute error is {model['mae']:.3g} "
            f"({model['low']:.3g} to {model['high']:.3g}), that of the {best} {others.loc[best, 'mae']:.3g}."
        )
    return notes
