"""Predictors of edges without the model: expression, the vectors of tokens, degrees of the true network, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer.tl._expression import log_profile

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.random import Generator

    from scgeneformer.evaluation import CandidatePairs
    from scgeneformer.tl._model_inputs import ModelInputs

N_TREES = 100


def expression_of(cells: AnnData, rows: np.ndarray, genes: np.ndarray, *, tokens_key: str) -> np.ndarray:
    """log1p of counts per 10,000 of some cells and genes, float32 (n_cells, n_genes)."""
    cure = "Leave the counts there, or name other `baselines`."
    profile = log_profile(cells, rows, layer=None, tokens_key=tokens_key, cure=cure)
    return profile.X[:, genes].toarray()


def coexpression(expression: np.ndarray, pairs: CandidatePairs) -> np.ndarray:
    """Absolute Pearson correlation of the expression (n_cells, n_genes) of each pair, (n,); 0 for a gene that does not vary."""
    centred = expression - expression.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    scaled = centred / np.where(length > 0, length, 1)
    return np.abs(scaled.T @ scaled)[pairs.source, pairs.target]


def detection(expression: np.ndarray, pairs: CandidatePairs) -> np.ndarray:
    """Product of the fractions of cells that express each gene of the pair, (n,)."""
    rate = (expression > 0).mean(axis=0)
    return rate[pairs.source] * rate[pairs.target]


def trees(expression: np.ndarray, pairs: CandidatePairs, targets: np.ndarray, rng: Generator) -> np.ndarray:
    """Importance of the source in a regression of the target's expression on that of all sources, (n,).

    Parameters
    ----------
    expression
        Of the genes that `pairs` number, (n_cells, n_genes).
    pairs
        Candidate pairs. For unordered ones, the mean of the importances in both directions, where there are both.
    targets
        Genes for which trees are grown; pairs without one of them have NaN.
    rng
        Seeds the trees.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    sources = pairs.genes()
    n_genes = expression.shape[1]
    importance = np.full((n_genes, n_genes), np.nan, dtype=np.float32)
    for target in targets:
        others = sources[sources != target]
        forest = ExtraTreesRegressor(N_TREES, max_features="sqrt", random_state=int(rng.integers(2**31)))
        forest.fit(expression[:, others], expression[:, target])
        importance[others, target] = forest.feature_importances_
    both = importance[pairs.source, pairs.target]
    if pairs.directed:
        return both
    return _mean_of_both(both, importance[pairs.target, pairs.source])


def _mean_of_both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of two arrays, where one is NaN the other."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, (a + b) / 2))


def token_cosine(inputs: ModelInputs, pairs: CandidatePairs, columns: np.ndarray) -> np.ndarray:
    """Cosine similarity of the token embeddings of both genes of each pair; NaN where one has no token, (n,)."""
    from scgeneformer import engine

    genes = np.unique(np.concatenate([pairs.source, pairs.target]))
    token = inputs.token_id[columns[genes]].astype(np.int64)
    genes, token = genes[token >= 0], token[token >= 0]
    table = np.full((len(columns), len(columns)), np.nan, dtype=np.float32)
    table[np.ix_(genes, genes)] = engine.network.token(inputs.pretrained.encoder, sources=token, targets=token)
    return table[pairs.source, pairs.target]
