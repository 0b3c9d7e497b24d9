"""Vectors of genes, features made from the vectors of two genes, and features of their expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from scgeneformer import nn
from scgeneformer.model._baselines import expression_profiles, gene_embedding
from scgeneformer.tokens import read_tokens

if TYPE_CHECKING:
    from typing import Self

    from anndata import AnnData
    from scipy import sparse

    from scgeneformer.hub import Pretrained
    from scgeneformer.tokens import Vocabulary

Features = Literal["token", "contextual"]
_CHUNK = 1024  # pairs whose profiles are multiplied at a time


def gene_vectors(kind: Features, pretrained: Pretrained, cells: AnnData | None, tokens_key: str) -> np.ndarray:
    """Vectors of the genes of the vocabulary, float32 (V, H): rows of the token table, or mean states in `cells`, NaN where there are none."""
    if kind == "token" or cells is None:
        return pretrained.encoder.token_vectors.detach().float().cpu().numpy()
    vocabulary = pretrained.vocabulary
    tokens = read_tokens(cells, tokens_key, vocabulary, model=pretrained.name)
    return gene_embedding(pretrained.encoder, tokens, np.arange(len(vocabulary)), vocabulary)


def pair_features(vectors: np.ndarray, pairs: np.ndarray, *, directed: bool) -> np.ndarray:
    """Features of pairs, float32 (n, 3 H), as of :func:`scgeneformer.nn.pair_features`.

    Parameters
    ----------
    vectors
        One for each gene, (n_genes, H).
    pairs
        Numbers of genes, (n, 2).
    directed
        Whether the order of the genes counts.
    """
    a, b = torch.from_numpy(np.asarray(vectors, dtype=np.float32)[pairs.T])
    return nn.pair_features(a, b, directed=directed).numpy()


def cosines(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosine of the vectors of two genes, (n,)."""
    a, b = vectors[pairs.T]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Expression:
    """Expression of genes in some cells.

    Attributes
    ----------
    row
        Row of each gene of the vocabulary in `profiles`, -1 for genes that were not measured, int64 (V,).
    profiles
        Log-normalised expression, CSR (n_genes, n_cells).
    """

    row: np.ndarray
    profiles: sparse.csr_matrix

    @classmethod
    def of(cls, cells: AnnData, tokens_key: str, vocabulary: Vocabulary) -> Self:
        """Read it from the counts that tokens were made from.

        Raises
        ------
        ValueError
            If there are none, or not in memory.
        """
        tokens, profiles = expression_profiles(cells, tokens_key, vocabulary, "expression")
        row = np.full(len(vocabulary), -1, dtype=np.int64)
        row[tokens] = np.arange(len(tokens))
        return cls(row, profiles)

    def detection(self) -> np.ndarray:
        """Fraction of cells in which each gene of the vocabulary is detected, 0 for genes that were not measured; (V, 1)."""
        fractions = np.append(self.profiles.getnnz(axis=1) / self.profiles.shape[1], 0.0)  # the last is for -1
        return fractions[self.row][:, None]

    def correlations(self, pairs: np.ndarray) -> np.ndarray:
        """Pearson correlation of the expression of two genes across cells, 0 where one does not vary, (n,)."""
        n_cells = self.profiles.shape[1]
        means = np.asarray(self.profiles.mean(axis=1)).ravel()
        squares = np.asarray(self.profiles.multiply(self.profiles).mean(axis=1)).ravel()
        sds = np.sqrt(np.maximum(squares - means**2, 0))
        a, b = self.row[pairs.T]
        measured = np.flatnonzero((a >= 0) & (b >= 0))
        correlations = np.zeros(len(pairs))
        for start in range(0, len(measured), _CHUNK):
            some = measured[start : start + _CHUNK]
            products = self.profiles[a[some]].multiply(self.profiles[b[some]])
            covariances = np.asarray(products.sum(axis=1)).ravel() / n_cells - means[a[some]] * means[b[some]]
            scales = sds[a[some]] * sds[b[some]]
            correlations[some] = np.divide(covariances, scales, out=np.zeros(len(some)), where=scales > 1e-12)
        return correlations


def read_expression(cells: AnnData | None, tokens_key: str, vocabulary: Vocabulary) -> Expression | str:
    """Expression of genes in cells, or the reason why there is none."""
    if cells is None:
        return "no cells were given"
    try:
        return Expression.of(cells, tokens_key, vocabulary)
    except ValueError:
        return "the counts that the cells were tokenized from are not in memory"
