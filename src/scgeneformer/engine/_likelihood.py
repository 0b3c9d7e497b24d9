"""How well a model predicts the genes of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from scgeneformer.nn import MaskedGeneModel, NextGeneModel

_SCORES = 2**25  # scores of genes at positions that are held at once


@dataclass(frozen=True)
class Likelihoods:
    """What `next_gene_likelihood` and `masked_likelihood` return.

    Attributes
    ----------
    cells
        float64 (n,), mean over a cell's genes of the logarithm of their probability; NaN for cells without a gene that is guessed.
    genes
        float64 (V,), mean over the cells that express a gene; NaN for tokens that are never guessed.
    n_cells
        int64 (V,), number of these cells.
    """

    cells: np.ndarray
    genes: np.ndarray
    n_cells: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Likelihoods]) -> Likelihoods:
        """The likelihoods of all cells, of which `parts` are blocks."""
        n_cells = np.sum([part.n_cells for part in parts], axis=0)
        sums = np.sum([np.nan_to_num(part.genes) * part.n_cells for part in parts], axis=0)
        with np.errstate(invalid="ignore"):
            return cls(np.concatenate([part.cells for part in parts]), sums / n_cells, n_cells)


class _Sums:
    """Running sums over what was predicted, by cell and by token."""

    def __init__(self, n_cells: int, n_tokens: int) -> None:
        self.of_cells, self.n_of_cell = np.zeros(n_cells), np.zeros(n_cells, np.int64)
        self.of_tokens, self.n_of_token = np.zeros(n_tokens), np.zeros(n_tokens, np.int64)

    def add(self, cells: np.ndarray, row: Tensor, targets: Tensor, values: Tensor) -> None:
        """Add values (M,) of tokens (M,) in rows (M,) of a batch, whose cells are `cells` (B,), each once or several times."""
        at, tokens, found = row.cpu().numpy(), targets.cpu().numpy(), values.double().cpu().numpy()
        check_finite(found)
        np.add.at(self.of_cells, cells, np.bincount(at, found, len(cells)))
        np.add.at(self.n_of_cell, cells, np.bincount(at, minlength=len(cells)))
        self.of_tokens += np.bincount(tokens, found, len(self.of_tokens))
        self.n_of_token += np.bincount(tokens, minlength=len(self.n_of_token))

    def means(self) -> Likelihoods:
        with np.errstate(invalid="ignore"):
            return Likelihoods(self.of_cells / self.n_of_cell, self.of_tokens / self.n_of_token, self.n_of_token)


def next_gene_likelihood(
    network: NextGeneModel,
    tokens: np.ndarray,
    *,
    n_special: int,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> Likelihoods:
    """Log-probability of each gene of a cell given all that is ranked above it.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    tokens
        uint16 (n, L), right-padded with 0. Special tokens are read and not guessed, nor is the first token of a row.
    n_special
        Token ids below this one are special.
    device, precision, token_budget, progress
        As in `embed`.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite numbers.
    """
    place, lengths = resolve_device(device), row_lengths(tokens)
    sums = _Sums(len(tokens), network.encoder.config.vocab_size)
    with on_device(network, place, resolve_precision(precision, place)) as working:

        def step(rows: np.ndarray) -> None:
            batch, mask, _ = to_device(tokens[rows], lengths[rows], place)
            row, position = torch.nonzero(batch[:, 1:] >= n_special, as_tuple=True)
            targets = batch[row, position + 1]
            states = working.encoder(batch, mask)[row, position]  # (M, H)
            sums.add(rows, row, targets, _log_probabilities(states, targets, working.head, len(sums.of_tokens)))

        budget = token_budget or default_token_budget(place)
        for_each_batch(lengths, budget, step, progress=progress, desc="likelihood")
    return sums.means()


def passes_of_ranks(n_ranks: int, n_passes: int, rng: np.random.Generator) -> np.ndarray:
    """In which of `n_passes` each rank is masked, int64 (n_ranks,).

    Of every `n_passes` consecutive ranks each pass masks one, drawn at random and the same in all cells, so that what a cell gets does not
    depend on other cells.
    """
    blocks = -(-n_ranks // n_passes)
    return np.concatenate([rng.permutation(n_passes) for _ in range(blocks)])[:n_ranks]


def masked_likelihood(
    network: MaskedGeneModel,
    tokens: np.ndarray,
    *,
    n_special: int,
    mask_id: int,
    pass_of_rank: np.ndarray,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> Likelihoods:
    """Log-probability of each gene of a cell where it is masked, each in one of several passes.

    Parameters
    ----------
    network, tokens, n_special, device, precision, token_budget, progress
        As of `next_gene_likelihood`.
    mask_id
        Token of masked genes.
    pass_of_rank
        In which pass each rank is masked, (L,), of :func:`passes_of_ranks`.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite numbers.
    """
    place, lengths = resolve_device(device), row_lengths(tokens)
    n_passes, in_pass = int(pass_of_rank.max(initial=-1)) + 1, torch.from_numpy(pass_of_rank).to(place)
    sums = _Sums(len(tokens), network.encoder.config.vocab_size)
    with on_device(network, place, resolve_precision(precision, place)) as working:
        table = working.encoder.token_vectors

        def step(rows: np.ndarray) -> None:
            number, cells = np.divmod(rows, len(tokens))
            batch, mask, _ = to_device(tokens[cells], lengths[cells], place)
            of_row = torch.from_numpy(number).to(place)
            masked = (batch >= n_special) & (in_pass[: batch.shape[1]] == of_row[:, None])  # (B, L)
            targets = batch[masked]
            states = working.encoder(batch.masked_fill(masked, mask_id), mask)[masked]  # (M, H)
            found = _log_probabilities(states, targets, lambda x: working.head(x, table), len(sums.of_tokens))
            sums.add(cells, torch.nonzero(masked)[:, 0], targets, found)

        budget = token_budget or default_token_budget(place)
        for_each_batch(
            np.tile(lengths, n_passes), budget, step, progress=progress, desc="likelihood", unit="masked cells"
        )
    return sums.means()


def _log_probabilities(states: Tensor, targets: Tensor, scores: Callable[[Tensor], Tensor], n_tokens: int) -> Tensor:
    """Log-probabilities of `targets` (M,) by states (M, H), float32 (M,); scores of some positions are held at a time."""
    at_once = max(1, _SCORES // n_tokens)
    parts = [
        -F.cross_entropy(scores(some).float(), of_some, reduction="none")
        for some, of_some in zip(states.split(at_once), targets.split(at_once), strict=True)
    ]
    return torch.cat(parts)
