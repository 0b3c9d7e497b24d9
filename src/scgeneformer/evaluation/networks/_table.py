from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer.evaluation._intervals import bootstrap

from ._ranked import RankedPairs
from ._rewire import rewire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.random import Generator

    from ._pairs import CandidatePairs

WITH_INTERVAL = ("auroc", "average_precision", "ap_ratio")
TESTED = ("auroc", "average_precision")
MIN_EDGES = 10  # of a gene whose own area counts in the median


def score_pairs(
    pairs: CandidatePairs,
    predictors: Mapping[str, np.ndarray],
    *,
    n_bootstrap: int = 200,
    n_permutations: int = 100,
    rng: int | Generator | None = 0,
) -> pd.DataFrame:
    """How well each predictor tells edges from other pairs.

    Parameters
    ----------
    pairs
        Candidate pairs and the true edges.
    predictors
        Scores of the pairs by name, (n,) each, larger for a likelier edge. Pairs with NaN are left out of the predictor's row.
    n_bootstrap
        Number of bootstrap samples of sources (of unordered pairs: of genes, both of a pair) for the intervals; 0 for none. All predictors
        have the same samples.
    n_permutations
        Number of networks with the same numbers of edges of every gene, see :func:`rewire`; 0 for none.
    rng
        Seed or generator.

    Returns
    -------
    One row for each predictor with

    ``auroc``, ``average_precision``, ``ap_ratio``
        See :class:`RankedPairs`; with the ends of the 95 % interval after each (``_low``, ``_high``).
    ``base_rate``
        Fraction of pairs that are edges, which is the average precision of a coin.
    ``epr``, ``odds_ratio``
        See :class:`RankedPairs`.
    ``source_auroc``, ``source_average_precision``, ``n_sources``
        Medians over the sources (of unordered pairs, genes) that have at least ten edges, each among its own pairs, and their number.
    ``null_auroc``, ``p_auroc``, ``null_average_precision``, ``p_average_precision``
        Mean over the rewired networks, and the fraction that score at least as high, the true one counted too.
    ``n_pairs``, ``n_edges``
        Of the row.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> is_edge = rng.random((20, 50)) < 0.1
    >>> pairs = sg.evaluation.CandidatePairs.of_matrix(is_edge, np.arange(20), np.arange(20, 70))
    >>> scores = {"good": pairs.is_edge + rng.normal(size=1000), "random": rng.random(1000)}
    >>> table = sg.evaluation.score_pairs(pairs, scores, n_bootstrap=50, n_permutations=20)
    >>> bool(table.loc["good", "auroc_low"] > table.loc["random", "auroc"])
    True
    """
    rng = np.random.default_rng(rng)
    seed = int(rng.integers(2**31))
    nulls = [rewire(pairs, rng=rng) for _ in range(n_permutations)]
    rows = {name: _row(pairs, np.asarray(x), nulls, n_bootstrap, seed) for name, x in predictors.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype({"n_sources": int, "n_pairs": int, "n_edges": int})


def _row(
    pairs: CandidatePairs, scores: np.ndarray, nulls: list[np.ndarray], n_bootstrap: int, seed: int
) -> dict[str, float]:
    defined = ~np.isnan(scores)
    some, scores = pairs.where(defined), scores[defined]
    ranked = RankedPairs(scores)
    found = ranked.scores(some.is_edge)
    ends = pd.DataFrame()
    if n_bootstrap:
        genes = pairs.genes()
        size = 1 + int(max(pairs.source.max(), pairs.target.max()))

        def of_sample(drawn: np.ndarray) -> pd.Series:
            n_times = np.bincount(genes[drawn], minlength=size)
            return ranked.scores(some.is_edge, some.weights(n_times))[list(WITH_INTERVAL)]

        ends = bootstrap(of_sample, len(genes), n_bootstrap=n_bootstrap, rng=seed)
    row: dict[str, float] = {}
    for name in WITH_INTERVAL:
        row[name] = found[name]
        row |= {f"{name}_{end}": ends.loc[name, end] for end in ends}
    row |= {"base_rate": some.base_rate, "epr": found["epr"], "odds_ratio": found["odds_ratio"]}
    row |= _medians(some, scores)
    if nulls:
        of_nulls = pd.DataFrame([ranked.scores(null[defined]) for null in nulls])
        for name in TESTED:
            row[f"null_{name}"] = of_nulls[name].mean()
            row[f"p_{name}"] = (1 + (of_nulls[name] >= found[name]).sum()) / (1 + len(nulls))
    return row | {"n_pairs": len(scores), "n_edges": int(some.is_edge.sum())}


def _medians(pairs: CandidatePairs, scores: np.ndarray) -> dict[str, float]:
    """Medians of the scores of each source alone."""
    parts = []
    for gene in pairs.genes():
        own = pairs.of_gene(gene)
        edges = pairs.is_edge[own]
        if MIN_EDGES <= edges.sum() < len(edges):
            parts.append(RankedPairs(scores[own]).scores(edges))
    medians = pd.DataFrame(parts, columns=list(TESTED)).median()
    return {f"source_{name}": medians[name] for name in TESTED} | {"n_sources": len(parts)}
