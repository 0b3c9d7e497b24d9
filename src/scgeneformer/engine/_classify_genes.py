"""What a classifier predicts for genes, in the context of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
import torch
from torch.nn import ModuleList

from scgeneformer.tokens import token_of

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from torch import Tensor

    from scgeneformer.nn import GeneClassifier

_ROWS_AT_ONCE = 4096


class Options(TypedDict, total=False):
    """Further arguments of `classify_genes`."""

    occurrences: bool
    states: bool
    device: str
    precision: str
    token_budget: int | None
    progress: bool


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
    temperature: float = 1.0,
    **options: Unpack[Options],
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
    temperature
        What the scores of a linear head are divided by before they become probabilities.
    **options
        Of :func:`classify_genes_together`.

    Returns
    -------
    The scores; they do not depend on batches, padding or the order of rows beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite scores for genes that occur.
    """
    return classify_genes_together([network], tokens, wanted=[wanted], temperatures=[temperature], **options)[0]


def classify_genes_together(
    networks: Sequence[GeneClassifier],
    tokens: np.ndarray,
    *,
    wanted: Sequence[np.ndarray],
    temperatures: Sequence[float],
    occurrences: bool = False,
    states: bool = False,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> list[GeneScores]:
    """The same of several networks that have one encoder in common, each for genes of its own, in one pass of the encoder.

    Parameters
    ----------
    networks
        Left as they are. All have the same encoder.
    tokens
        uint16 (n, L), right-padded with 0.
    wanted, temperatures
        As of :func:`classify_genes`, for each network.
    occurrences
        Also return the probabilities at each single position.
    states
        Also average the states of genes over cells.
    device, precision, token_budget, progress
        As in `embed`.

    Returns
    -------
    The scores of each network.
    """
    place = resolve_device(device)
    lengths = np.where(rows_with(tokens, np.any(wanted, axis=0)), row_lengths(tokens), 0)
    sums = [_Sums(place, which, network, states=states) for network, which in zip(networks, wanted, strict=True)]
    shared = ModuleList(networks)
    shared.training = networks[0].training

    with on_device(shared, place, resolve_precision(precision, place)) as moved:
        working = cast("Sequence[GeneClassifier]", moved)

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            hidden = batch.states(working[0].encoder)  # (B, L, H)
            read = [
                of_network.read(network, batch.tokens, hidden)
                for network, of_network in zip(working, sums, strict=True)
            ]
            # nothing is written before all is computed, since memory may not suffice
            for of_network, temperature, (where, there, scores, averaged, of_states) in zip(
                sums, temperatures, read, strict=True
            ):
                of_network.add(there, averaged, of_states)
                if occurrences:
                    of_network.note(rows, where, scores, temperature)

        for_each_batch(
            lengths, token_budget or default_token_budget(place), step, progress=progress, desc="classify genes"
        )
        return [
            of_network.scores(network, temperature)
            for network, of_network, temperature in zip(networks, sums, temperatures, strict=True)
        ]


class _Sums:
    """Running sums of what a network predicts for the tokens that are `wanted`."""

    def __init__(self, place: torch.device, wanted: np.ndarray, network: GeneClassifier, *, states: bool) -> None:
        self.exact = torch.float32 if place.type == "mps" else torch.float64
        self.n_classes, width = network.classifier.out_features, network.encoder.config.width
        self.of_scores = torch.zeros(len(wanted), self.n_classes, dtype=self.exact, device=place)
        self.of_states = torch.zeros(len(wanted) if states else 0, width, dtype=self.exact, device=place)
        self.counts = torch.zeros(len(wanted), dtype=torch.int64, device=place)
        self.table = torch.from_numpy(wanted).to(place)
        self.found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def read(self, network: GeneClassifier, batch: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        """Where the wanted tokens of a batch are, (B, L), which they are, (M,), their scores, (M, C), and what is summed of them."""
        where = self.table[batch]
        states = hidden[where]
        scores = network.scores(states).float()
        of_states = states[: len(states) if len(self.of_states) else 0].to(self.exact)
        return where, batch[where], scores, network.averaged(scores).to(self.exact), of_states

    def add(self, tokens: Tensor, averaged: Tensor, states: Tensor) -> None:
        """Add what was read."""
        self.of_scores.index_add_(0, tokens, averaged)
        if len(self.of_states):
            self.of_states.index_add_(0, tokens, states)
        self.counts.index_add_(0, tokens, torch.ones_like(tokens))

    def note(self, rows: np.ndarray, where: Tensor, scores: Tensor, temperature: float) -> None:
        """Keep the probabilities at each position of the cells `rows`."""
        row, position = (part.cpu().numpy() for part in torch.nonzero(where, as_tuple=True))
        self.found.append((rows[row], position, (scores / temperature).softmax(-1).cpu().numpy()))

    def scores(self, network: GeneClassifier, temperature: float) -> GeneScores:
        """Their means, and what was noted of single positions in order."""
        occurs = torch.where(self.counts > 0, self.counts.to(self.exact), torch.nan)[:, None]
        means, states = ((part / occurs[: len(part)]).double().cpu() for part in (self.of_scores, self.of_states))
        n_cells = self.counts.cpu().numpy()
        check_finite(means.numpy(), n_cells > 0)
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, self.n_classes), np.float32))
        rows, positions, proba = (np.concatenate(parts) for parts in zip(nothing, *self.found, strict=True))
        order = np.lexsort((positions, rows))
        of_genes = means.numpy(), network.proba(means, temperature).numpy(), states.numpy()
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
