from __future__ import annotations

import numpy as np
import pandas as pd


class RankedPairs:
    """Pairs sorted by a score once, to be scored against many truths or samples of pairs.

    Pairs of the same score are neither before nor after each other: area and average precision are those of
    scikit-learn.

    Parameters
    ----------
    scores
        Shape (n,), larger for a likelier edge.

    Examples
    --------
    >>> ranked = sg.evaluation.RankedPairs([0.9, 0.8, 0.3, 0.1])
    >>> ranked.scores(np.array([True, False, True, False])).round(2).to_dict()
    {'auroc': 0.75, 'average_precision': 0.83, 'ap_ratio': 1.67, 'epr': 1.0, 'odds_ratio': 1.0}
    """

    def __init__(self, scores: np.ndarray | list[float]) -> None:
        values = np.asarray(scores, dtype=np.float64)
        self.order = np.argsort(-values, kind="stable")
        in_order = values[self.order]
        self.ends = np.r_[np.flatnonzero(np.diff(in_order)), len(values) - 1]  # last of each group of ties

    def scores(self, is_edge: np.ndarray, weights: np.ndarray | None = None) -> pd.Series:
        """How well edges come first.

        Parameters
        ----------
        is_edge
            Boolean array of shape (n,).
        weights
            How often each pair counts, (n,).

        Returns
        -------
        ``auroc``; ``average_precision``; ``ap_ratio``, the average precision divided by the fraction of edges; ``epr``, the early precision
        ratio: the precision of as many first pairs as there are edges, divided by that fraction; ``odds_ratio`` of being an edge between
        these pairs and the others, half a pair added to each of the four numbers. NaN if all pairs are edges, or none is.
        """
        weight = np.ones(len(self.order)) if weights is None else np.asarray(weights, dtype=np.float64)[self.order]
        n = np.cumsum(weight)[self.ends]
        hits = np.cumsum(weight * np.asarray(is_edge, dtype=bool)[self.order])[self.ends]
        n_edges, n_others = hits[-1], n[-1] - hits[-1]
        if n_edges <= 0 or n_others <= 0:
            return pd.Series(np.nan, index=["auroc", "average_precision", "ap_ratio", "epr", "odds_ratio"])
        before = np.r_[0, hits[:-1]]
        precision = hits / np.maximum(n, np.finfo(float).tiny)
        average_precision = float(np.sum((hits - before) * precision) / n_edges)
        auroc = float(np.sum(np.diff(n - hits, prepend=0) * (before + hits)) / (2 * n_edges * n_others))
        base_rate = n_edges / n[-1]
        first = float(
            np.interp(n_edges, np.r_[0, n], np.r_[0, hits])
        )  # edges among as many first pairs as there are edges
        wrong = n_edges - first
        odds = (first + 0.5) * (n_others - wrong + 0.5) / (wrong + 0.5) ** 2
        return pd.Series(
            {
                "auroc": auroc,
                "average_precision": average_precision,
                "ap_ratio": average_precision / base_rate,
                "epr": first / n_edges / base_rate,
                "odds_ratio": odds,
            }
        )
