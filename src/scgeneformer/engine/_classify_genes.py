"""What a classifier says of genes, in the context of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer.tokens import token_of

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgeneformer.nn import GeneClassifier

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class GeneScores:
    """What `classify_genes` returns.

    Attributes
    ----------
    means
        float64 (V, C), mean over the cells in which a token occurs of its scores or, if the network has the head of BERT, its probabilities; NaN
        where it was not asked for or never occurs.
    proba
        float64 (V, C), probabilities of classes that follow from these means.
    states
        float64 (V, H), mean over these cells of the states that the head reads; (0, H) if not asked for.
    n_cells
        int64 (V,), in how many cells each token was scored.
    rows, positions
        int64 (M,), where each of M occurrences is, ordered by row and then position; M is 0 if not asked for.
    occurrences
        float32 (M, C), probabilities of classes at each of them.
    """

    means: np.ndarray
    proba: np.ndarray
    states: np.ndarray
    n_cells: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    occurrences: np.ndarray


def classify_genes(
    network: GeneClassifier,
    tokens: np.ndarray,
    *,
    wanted: np.ndarray,
    occurrences: bool = False,
    states: bool = False,
    temperature: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> GeneScores:
    """Average what the network says of each gene over cells, in one pass.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    tokens
        uint16 (n, L), right-padded with 0.
    wanted
        bool (V,), which tokens to score. Cells without any of them are not computed.
    occurrences
        Also return the probabilities at each single position.
    states
        Also average the states of genes over cells.
    temperature
        What the scores of a linear head are divided by before they become probabilities.
    device, precision, token_budget, progress
        As in `embed`.

    Returns
    -------
    The scores; they do not depend on batches, padding or the order of rows beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite scores for genes that occur.
    """
    place = resolve_device(device)
    lengths = np.where(rows_with(tokens, wanted), row_lengths(tokens), 0)
    n_classes = network.classifier.out_features
    exact = torch.float32 if place.type == "mps" else torch.float64
    sums = torch.zeros(len(wanted), n_classes, dtype=exact, device=place)
    of_states = torch.zeros(len(wanted) if states else 0, network.encoder.config.width, dtype=exact, device=place)
    counts = torch.zeros(len(wanted), dtype=torch.int64, device=place)
    table = torch.from_numpy(wanted).to(place)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    with on_device(network, place, resolve_precision(precision, place)) as working:

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            where = table[batch.tokens]  # (B, L)
            hidden, of_genes = batch.states(working.encoder)[where], batch.tokens[where]  # (M, H), (M,)
            scores = working.scores(hidden).float()  # (M, C)
            sums.index_add_(0, of_genes, working.averaged(scores).to(exact))
            if states:
                of_states.index_add_(0, of_genes, hidden.to(exact))
            counts.index_add_(0, of_genes, torch.ones_like(of_genes))
            if occurrences:
                row, position = (part.cpu().numpy() for part in torch.nonzero(where, as_tuple=True))
                proba = (scores / temperature).softmax(-1)
                found.append((rows[row], position, proba.cpu().numpy()))

        for_each_batch(
            lengths, token_budget or default_token_budget(place), step, progress=progress, desc="classify genes"
        )
        occurs = torch.where(counts > 0, counts.to(exact), torch.nan)[:, None]
        means, mean_states = ((part / occurs[: len(part)]).double().cpu() for part in (sums, of_states))
        n_cells = counts.cpu().numpy()
    check_finite(means.numpy(), n_cells > 0)
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, n_classes), np.float32))
    rows, positions, proba = (np.concatenate(parts) for parts in zip(nothing, *found, strict=True))
    order = np.lexsort((positions, rows))
    of_genes = means.numpy(), network.proba(means, temperature).numpy(), mean_states.numpy()
    return GeneScores(*of_genes, n_cells, rows[order], positions[order], proba[order])


def rows_with(tokens: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which rows have any of the tokens that are `wanted`, bool (V,): bool (n,)."""
    parts = [wanted[part].any(1) for part in _parts(tokens)]
    return np.concatenate([np.empty(0, dtype=bool), *parts])


def count_tokens(tokens: np.ndarray, n_tokens: int) -> np.ndarray:
    """How often each token occurs, which for genes is in how many rows, int64 (V,)."""
    return sum((np.bincount(part.ravel(), minlength=n_tokens) for part in _parts(tokens)), np.zeros(n_tokens, np.int64))


def _parts(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of the matrix, so that what is made of it stays small."""
    return (token_of(tokens[start : start + _ROWS_AT_ONCE]) for start in range(0, len(tokens), _ROWS_AT_ONCE))
