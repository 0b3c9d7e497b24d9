"""Sums of scores of pairs of genes, cell by cell, and what to expect of two genes by their ranks alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from scgeneformer._cluster import in_order
from scgeneformer.engine._batching import cut_rows, for_each_batch, row_lengths, to_device
from scgeneformer.engine._device import default_token_budget, on_device, resolve_device, resolve_precision
from scgeneformer.engine._finite import check_finite
from scgeneformer.engine._parts import map_cells
from scgeneformer.tokens import token_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scgeneformer.engine._batching import Batch
    from scgeneformer.nn import Backbone

Network = TypeVar("Network", bound="Backbone")

N_BINS = 20  # of ranks within a cell
PART_SIZE = 2**17  # tokens in a part


@dataclass(frozen=True)
class PairScores:
    """Scores of S sources and G targets.

    Attributes
    ----------
    means
        float32 (S, G), mean over the cells that express both genes; NaN where none does, and for a gene with itself.
    n_cells
        int32 (S, G), number of these cells.
    """

    means: np.ndarray
    n_cells: np.ndarray


class _Sums:
    """Running sums over cells: of the pairs asked for, and of all pairs by the bins of their two ranks."""

    def __init__(
        self, sources: np.ndarray, targets: np.ndarray, n_tokens: int, n_special: int, place: torch.device
    ) -> None:
        self.n_special = n_special
        self.row_of, self.column_of = (_index(genes, n_tokens).to(place) for genes in (sources, targets))
        shape = len(sources), len(targets)
        self.total = torch.zeros(shape, device=place)
        self.n_cells = torch.zeros(shape, dtype=torch.int32, device=place)
        self.by_rank = torch.zeros(N_BINS, N_BINS, device=place)
        self.n_by_rank = torch.zeros(N_BINS, N_BINS, device=place)

    def add(self, tokens: Tensor, sources: Tensor, values: Tensor) -> None:
        """Add one cell: tokens (L,), positions of R sources (R,), their values (R, L)."""
        at, values = self._pairs(tokens, sources, values.float())
        self.total[at] += values
        self.n_cells[at] += 1

    def add_ranks(self, tokens: Tensor, sources: Tensor, values: Tensor) -> None:
        """The same for the bins of ranks, into which all genes of the cell go."""
        bins = self._bins(tokens)
        genes = bins >= 0
        of_source, of_target = (torch.nn.functional.one_hot(b, N_BINS).float() for b in (bins[sources], bins[genes]))
        other = (sources[:, None] != torch.nonzero(genes)[:, 0]).float()  # (R, L genes)
        self.by_rank += of_source.T @ (values[:, genes].float() * other) @ of_target
        self.n_by_rank += of_source.T @ other @ of_target

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All sums."""
        return self.total, self.n_cells, self.by_rank, self.n_by_rank

    def merge(self, parts: list[np.ndarray]) -> None:
        """Add the `parts` of others."""
        for mine, theirs in zip(self.parts, parts, strict=True):
            mine += torch.from_numpy(theirs)

    def subtract_expected(self, tokens: Tensor) -> None:
        """Subtract from one cell's values (L,) what pairs at the same ranks have on average."""
        expected = self.by_rank / self.n_by_rank.clamp(min=1)
        bins = self._bins(tokens)
        sources = torch.nonzero(bins >= 0)[:, 0]
        at, values = self._pairs(tokens, sources, expected[bins[sources][:, None], bins.clamp(min=0)])
        self.total[at] -= values

    def _pairs(self, tokens: Tensor, sources: Tensor, values: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Row and column of the pairs that are asked for, and their values (r, c)."""
        rows, columns = self.row_of[tokens[sources]], self.column_of[tokens]
        r, c = torch.nonzero(rows >= 0)[:, 0], torch.nonzero(columns >= 0)[:, 0]
        return (rows[r][:, None], columns[c]), values[r[:, None], c]

    def _bins(self, tokens: Tensor) -> Tensor:
        """Bin of each gene's rank relative to the number of genes, -1 for special tokens, (L,)."""
        genes = tokens >= self.n_special
        rank = genes.cumsum(0) - 1
        bins = rank * N_BINS // genes.sum().clamp(min=1)
        return torch.where(genes, bins, -1)


def _index(genes: np.ndarray, n_tokens: int) -> Tensor:
    """Place of each token in `genes`, -1 if it is not there, int64 (V,)."""
    places = np.full(n_tokens, -1)
    places[genes] = np.arange(len(genes))
    return torch.from_numpy(places)


def mean_over_cells(
    encoder: Network,
    tokens: np.ndarray,
    measure: Callable[[Network, Batch, Tensor], list[tuple[Tensor, Tensor]]],
    *,
    sources: np.ndarray,
    targets: np.ndarray,
    n_special: int,
    rank_corrected: bool,
    device: str,
    precision: str,
    token_budget: int | None,
    progress: bool,
    desc: str,
) -> PairScores:
    """Mean of what is measured of each pair over the cells that express both genes.

    Parameters
    ----------
    encoder
        The model.
    tokens
        uint16 (n, L), right-padded with 0.
    measure
        Scores of one batch: from a network, tokens (B, L) with their mask, and which positions may be sources (B, L), of each cell the positions
        of R sources (R,) and their scores with all positions (R, L).
    sources, targets
        Tokens of the genes, (S,) and (G,).
    n_special
        Token ids below this one are special.
    rank_corrected
        Subtract from each value of a cell the mean of all pairs of genes, of all cells, whose ranks within their cells lie in the same two of 20
        bins. The table of 20 x 20 means is known only at the end, so it is subtracted by a second pass over the tokens, without the model.
    device, precision, token_budget
        See `scgeneformer.settings`.
    progress, desc
        Show a progress bar, and what it says.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite numbers.
    """
    lengths = row_lengths(tokens)
    parts = list(cut_rows(lengths, PART_SIZE))
    about = sources, targets, encoder.config.vocab_size, n_special
    sums, n_done = _Sums(*about, torch.device("cpu")), 0
    job = _Job(measure, about, rank_corrected, device, precision, token_budget)
    with tqdm(total=sum(map(len, parts)), desc=desc, unit=" cells", disable=not progress) as bar:
        todo = ((number, (tokens[rows, : lengths[rows[0]]],)) for number, rows in enumerate(parts))
        added = map_cells(_sum_part, todo, encoder, job, device=device, precision=precision, here={"bar": bar})
        for rows, part in zip(parts, in_order(added), strict=True):
            sums.merge(part)
            n_done += len(rows)
            bar.update(n_done - bar.n)
    if rank_corrected:
        for row, length in zip(token_of(tokens), lengths, strict=True):
            sums.subtract_expected(torch.from_numpy(row[:length].astype(np.int64)))
    total, n_cells = sums.total.numpy(), sums.n_cells.numpy()
    check_finite(total)
    means = np.divide(total, n_cells, out=np.full_like(total, np.nan), where=n_cells > 0)
    means[sources[:, None] == targets] = np.nan
    return PairScores(means, n_cells)


@dataclass(frozen=True)
class _Job:
    """What is measured in each part; as for `mean_over_cells`. `about` are the first arguments of `_Sums`."""

    measure: Callable[..., list[tuple[Tensor, Tensor]]]
    about: tuple[np.ndarray, np.ndarray, int, int]
    rank_corrected: bool
    device: str
    precision: str
    token_budget: int | None


def _sum_part(encoder: Backbone, job: _Job, tokens: np.ndarray, *, bar: tqdm | None = None) -> list[np.ndarray]:
    """Sums over the cells of one part, as `_Sums.merge` takes them."""
    place = resolve_device(job.device)
    lengths, sums = row_lengths(tokens), _Sums(*job.about, place)
    with on_device(encoder, place, resolve_precision(job.precision, place), gradients=True) as network:

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            measured = job.measure(network, batch, sums.row_of[batch.tokens] >= 0)
            for cell, (at, values) in zip(batch.tokens, measured, strict=True):
                sums.add(cell, at, values)
                if job.rank_corrected:
                    sums.add_ranks(cell, at, values)

        for_each_batch(lengths, job.token_budget or default_token_budget(place), step, bar=bar)
    return [part.cpu().numpy() for part in sums.parts]
