"""Pairs of genes in the context of cells: where both are, and features of their states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scgeneformer.tokens import token_of

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from scgeneformer.nn import PairClassifier

_ROWS_AT_ONCE = 1024


class PairFeatures(NamedTuple):
    """What `pair_features` returns.

    Attributes
    ----------
    features
        float64 (n_pairs, F), mean over the cells in which both genes occur, NaN where there are none.
    n_cells
        int64 (n_pairs,), number of these cells.
    """

    features: np.ndarray
    n_cells: np.ndarray


def find_pairs(tokens: np.ndarray, pairs: np.ndarray, n_tokens: int) -> np.ndarray:
    """Where both genes of pairs are, int64 (M, 4): row, position of the source, position of the target, number of the pair.

    Parameters
    ----------
    tokens
        (n, L), right-padded with 0; each gene at most once in a row.
    pairs
        int64 (n_pairs, 2), tokens of genes.
    n_tokens
        Size of the vocabulary.
    """
    tokens = token_of(tokens)
    position = np.full((len(tokens), n_tokens), -1, dtype=np.int32)
    row, column = np.nonzero(tokens)
    position[row, tokens[row, column]] = column
    source, target = position[:, pairs[:, 0]], position[:, pairs[:, 1]]  # (n, n_pairs)
    row, pair = np.nonzero((source >= 0) & (target >= 0))
    return np.column_stack([row, source[row, pair], target[row, pair], pair]).astype(np.int64)


def count_pairs(tokens: np.ndarray, pairs: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have both genes of any pair, bool (n,), and how many rows have both genes of each, int64 (n_pairs,)."""
    rows, n_cells = np.zeros(len(tokens), dtype=bool), np.zeros(len(pairs), dtype=np.int64)
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        some = token_of(tokens[start : start + _ROWS_AT_ONCE])
        present = np.zeros((len(some), n_tokens), dtype=bool)
        present[np.arange(len(some))[:, None], some] = True
        both = present[:, pairs[:, 0]] & present[:, pairs[:, 1]]
        rows[start : start + len(some)] = both.any(axis=1)
        n_cells += both.sum(axis=0)
    return rows, n_cells


def pair_features(
    network: PairClassifier,
    tokens: np.ndarray,
    pairs: np.ndarray,
    *,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> PairFeatures:
    """Average the features of each pair over the cells in which both genes occur, in one pass.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    tokens
        uint16 (n, L), right-padded with 0. Cells without any of the pairs are not computed.
    pairs
        int64 (n_pairs, 2), tokens of genes.
    device, precision, token_budget, progress
        As in `embed`.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite numbers.
    """
    place, n_tokens = resolve_device(device), network.encoder.config.vocab_size
    exact = torch.float32 if place.type == "mps" else torch.float64
    rows, n_cells = count_pairs(tokens, pairs, n_tokens)
    lengths = np.where(rows, row_lengths(tokens), 0)
    sums = torch.zeros(len(pairs), network.classifier.in_features, dtype=exact, device=place)
    with on_device(network, place, resolve_precision(precision, place)) as working:

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            where = torch.from_numpy(find_pairs(tokens[rows], pairs, n_tokens)).to(place)
            features = batch.states(working.features, where=where[:, :3]).to(exact)  # (M, F)
            sums.index_add_(0, where[:, 3], features)

        for_each_batch(lengths, token_budget or default_token_budget(place), step, progress=progress, desc="read pairs")
    with np.errstate(invalid="ignore"):
        features = sums.double().cpu().numpy() / n_cells[:, None]
    check_finite(features, n_cells > 0)
    return PairFeatures(features, n_cells)
