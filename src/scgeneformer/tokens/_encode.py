"""Rank value encoding: the genes of a cell in the order of their counts over the genes' medians, for some models with their values.

Only the order within a cell matters, so that the cell's total and the factor 10,000 of the published formula cancel: a gene's value is
its count times the reciprocal of its median, in float64. Values that are equal when rounded to 41 mantissa bits are ties, since smaller
differences are rounding errors; ties are broken by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._inspect import inspect
from ._matrix import as_rows, is_lazy
from ._rank import Ranker

if TYPE_CHECKING:
    import dask.array as da

    from ._inspect import Counts, Inspection
    from ._vocabulary import Vocabulary

_TARGET_SUM = 10_000.0
_DEEPEST = 100_000.0  # counts to which CellFM scales deeper cells down


@dataclass(frozen=True)
class Encoded:
    """Tokens of cells.

    Attributes
    ----------
    tokens
        Shape (n_obs, L), uint16, right-padded with 0; a dask array if the input was dask or in a file.
    lengths
        Shape (n_obs,), int32: number of tokens of each cell, special tokens included.
    counts
        Shape (n_obs, L), float32: counts per 10,000 of each token's gene, 0 for special tokens and padding; ``None`` without `keep_counts`.
    values
        Shape (n_obs, L), float32, of a vocabulary that has values: log1p of counts per 10,000 counts of genes of the vocabulary; at ``<cls>`` log1p of
        the cell's depth over 1,000; 0 for padding. Else ``None``.
    """

    tokens: np.ndarray | da.Array
    lengths: np.ndarray
    counts: np.ndarray | da.Array | None
    values: np.ndarray | da.Array | None


def encode(
    X: Any,
    token_id: np.ndarray,
    vocabulary: Vocabulary,
    *,
    counts: Counts = "raw",
    log_base: float | None = None,
    max_length: int | None = None,
    total_counts: np.ndarray | None = None,
    keep_counts: bool = False,
    seed: int | None = None,
    inspection: Inspection | None = None,
    slot: str = "X",
) -> Encoded:
    """Encode cells as ranked genes (Theodoris 2023).

    Parameters
    ----------
    X
        Cells x genes: array, sparse, dask, or data set of an open file. Explicit zeros are not expressed.
    token_id
        Shape (n_vars,): token of each gene, -1 if it has none. Values of genes with one token are summed.
    vocabulary
        Vocabulary with medians, special tokens and maximum length.
    counts
        ``"raw"`` for counts; raises if values look log-normalised. ``"linear"`` for values proportional to counts in each cell.
        ``"log1p"`` for logarithms, of which exp(x) - 1 is used.
    log_base
        Base of the logarithm, if not e.
    max_length
        Maximum number of tokens per cell, special tokens included, and width of the result; by default the vocabulary's.
    total_counts
        Shape (n_obs,): total counts by which `keep_counts` scales, by default the sums of `X`. They do not change the order.
    keep_counts
        Also return the counts, in the order of the tokens.
    seed
        Of cells with more genes than `max_length` allows, draw them in proportion to their values; ``None`` to take the highest. Only of a
        vocabulary with values.
    inspection
        Result of `inspect` for the same `X`; computed if not given.
    slot
        Name of the matrix in errors.

    Returns
    -------
    `Encoded`, of width L = `max_length` for any cells, so that tokens of several data sets can be concatenated.

    Raises
    ------
    TypeError, ValueError
        As `inspect`; also if `max_length` or `total_counts` is out of range, or `seed` or `keep_counts` does not go with the vocabulary.
    """
    token_id = np.ascontiguousarray(token_id, dtype=np.int32)
    if inspection is None:
        inspection = inspect(X, token_id, counts=counts, log_base=log_base, slot=slot)
    max_length = _check_max_length(max_length, vocabulary)
    _check_fits(vocabulary, keep_counts=keep_counts, seed=seed)
    lengths = np.minimum(inspection.n_genes + vocabulary.n_enclosing, max_length).astype(np.int32)
    ranker = Ranker(token_id, vocabulary, counts, log_base, max_length, inspection.has_duplicates, seed)
    totals = inspection.totals
    if total_counts is not None:
        are_counts = counts == "raw" and not inspection.has_fractions
        totals = _check_totals(total_counts, inspection, are_counts=are_counts)
    summed = inspection.mapped if vocabulary.values else totals
    scale = np.divide(_TARGET_SUM, summed, out=np.zeros(len(summed)), where=summed > 0)
    depth = np.log1p(np.minimum(inspection.mapped if total_counts is None else totals, _DEEPEST) / 1000)
    of_cells = np.column_stack([scale, depth, np.arange(len(scale))])

    X = as_rows(X, slot)
    with_counts = keep_counts or vocabulary.values
    if is_lazy(X):
        lazy_tokens, lazy_counts = ranker.lazily(X, of_cells, with_counts=with_counts)
        return _encoded(vocabulary, lazy_tokens, lengths, lazy_counts)
    tokens = np.zeros((X.shape[0], max_length), np.uint16)
    ranked_counts = np.zeros(tokens.shape, np.float32) if with_counts else None
    ranker.eagerly(X, tokens, of_cells, ranked_counts)
    return _encoded(vocabulary, tokens, lengths, ranked_counts)


def _encoded(vocabulary: Vocabulary, tokens: Any, lengths: np.ndarray, ranked: Any) -> Encoded:
    """With what was ranked beside the tokens: values if the vocabulary has them, else counts."""
    return Encoded(tokens, lengths, *((None, ranked) if vocabulary.values else (ranked, None)))


def _check_fits(vocabulary: Vocabulary, *, keep_counts: bool, seed: int | None) -> None:
    if keep_counts and vocabulary.values:
        msg = (
            f"Tokens of vocabulary {vocabulary.name!r} come with values, log1p of counts per 10,000. Leave out "
            "keep_counts=True."
        )
        raise ValueError(msg)
    if seed is not None and not vocabulary.values:
        msg = (
            f"rng={seed} draws genes for models that read values, but vocabulary {vocabulary.name!r} has ranks, of which the highest are taken. "
            "Leave out rng."
        )
        raise ValueError(msg)


def _check_max_length(max_length: int | None, vocabulary: Vocabulary) -> int:
    if max_length is None:
        return vocabulary.max_length
    if not vocabulary.n_special < max_length <= vocabulary.max_length:
        msg = (
            f"max_length={max_length} must be above {vocabulary.n_special} and at most {vocabulary.max_length}, the "
            "model's maximum."
        )
        raise ValueError(msg)
    return int(max_length)


def _check_totals(total_counts: np.ndarray, inspection: Inspection, *, are_counts: bool) -> np.ndarray:
    totals = np.asarray(total_counts, dtype=np.float64)
    if totals.shape != inspection.totals.shape or not (np.isfinite(totals) & (totals >= 0)).all():
        msg = "total_counts must be one non-negative finite number per cell."
        raise ValueError(msg)
    if (totals[inspection.n_genes > 0] == 0).any():
        msg = "total_counts is 0 for a cell that has counts."
        raise ValueError(msg)
    below = totals < 0.99 * inspection.totals
    if are_counts and below.mean() > 0.5:
        msg = f"total_counts is smaller than the sum of the counts in {below.sum():,} of {len(totals):,} cells: these are not their totals."
        raise ValueError(msg)
    return totals
