"""Batches of cells of similar length, each cell once per epoch, and the loader that yields them with their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from scgeneformer.tokens import token_of, value_of

from ._masking import FIXED_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Targets = Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]]

T = TypeVar("T")

_MULTIPLE = 8  # rows are trimmed to a multiple of this, which keeps the kernels aligned
SHRINK = 0.85  # cells of one bucket are at least this share of its longest, unless the bucket would be small
_BATCHES_PER_BUCKET = 8


class TokenBatches(Sampler[tuple[int, np.ndarray]]):
    """Batch sampler over buckets of cells of similar length.

    Cells are sorted by length once and cut into buckets. In each epoch, cells are shuffled within their bucket and dealt into batches
    of equal size, and the batches of all buckets are shuffled. So batches hold little padding and any two cells of similar length can
    meet, every cell is seen exactly once per epoch, and the number of batches is the same in every epoch, which learning rate
    schedules and progress bars need. All depends on `seed` and the epoch only.

    Processes that train together share each batch: `world` processes with `batch_size` cells each step through the batches of one
    process with ``world * batch_size`` cells, and the same holds for `token_budget`.

    Parameters
    ----------
    lengths
        Number of tokens of each cell, shape (n_cells,).
    token_budget
        Maximum number of tokens in a process's share of a batch, padding included. A single cell may exceed it, and
        rounding may by less than one cell.
    batch_size
        Number of cells in a process's share of a batch; overrides `token_budget`.
    shuffle
        If False, every epoch has the same batches, longest first.
    seed
        Of the shuffles.
    rank, world
        This process and the number of processes that share the batches. No share is ever empty: where the last cells are too few
        for a batch of their own, they join others.

    Raises
    ------
    ValueError
        If there are fewer cells than processes.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        token_budget: int,
        batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if 0 < len(lengths) < world:
            msg = f"There are {len(lengths)} cells for {world} processes, which need one each: use fewer devices, or a larger set of cells."
            raise ValueError(msg)
        self.shuffle, self.seed, self.rank, self.world = shuffle, seed, rank, world
        self.epoch = 0
        self.skip = 0
        self._buckets = _buckets(np.asarray(lengths), token_budget, batch_size, world)

    def __len__(self) -> int:
        return sum(n for _, n in self._buckets)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle; the trainer calls this before each epoch."""
        self.epoch = epoch

    def plan(self, epoch: int) -> list[np.ndarray]:
        """All batches of an epoch, or the share of each that this process has, as arrays of cell numbers."""
        if not self.shuffle:
            batches = [batch for cells, n in self._buckets for batch in np.array_split(cells, n)]
        else:
            rng = np.random.default_rng([self.seed, epoch])
            batches = [batch for cells, n in self._buckets for batch in np.array_split(rng.permutation(cells), n)]
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return [batch[self.rank :: self.world] for batch in batches]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        epoch = self.epoch if self.shuffle else FIXED_EPOCH
        skip, self.skip = self.skip, 0
        for batch in self.plan(self.epoch)[skip:]:
            yield epoch, batch


def _buckets(
    lengths: np.ndarray, token_budget: int, batch_size: int | None, world: int
) -> list[tuple[np.ndarray, int]]:
    """Cells of similar length, longest bucket first, each with its number of batches."""
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order]
    buckets, start = [], 0
    while start < len(order):
        longest = max(int(descending[start]), 1)
        size = cells_per_batch(longest, token_budget, batch_size, world)
        similar = int(np.searchsorted(-descending, -SHRINK * longest, side="right"))
        n = max(-(-(similar - start) // size), _BATCHES_PER_BUCKET)  # full batches, but for the last bucket's
        stop = start + n * size
        if len(order) - stop < size:  # no tiny last bucket
            stop = len(order)
            n = max(min(-(-(stop - start) // size), (stop - start) // world), 1)
        buckets.append((order[start:stop], n))
        start = stop
    return buckets


def cells_per_batch(longest: int, token_budget: int, batch_size: int | None, world: int) -> int:
    """How many cells of at most `longest` tokens make one batch for `world` processes."""
    return world * batch_size if batch_size else max(world, world * token_budget // trimmed(longest))


def trimmed(longest: int) -> int:
    """Width of a batch whose longest cell has this many tokens."""
    return -(-longest // _MULTIPLE) * _MULTIPLE


class TokenDataset(Dataset[dict[str, torch.Tensor]]):
    """Batches of a token matrix with their targets; indexed by ``(epoch, rows)``, so that a batch is one gather.

    Parameters
    ----------
    tokens
        (n_obs, L) unsigned integers, right-padded, or pairs of these and values.
    cells
        Row in `tokens` of each cell of this set, shape (n_cells,).
    lengths
        Number of tokens of each of them.
    targets
        Targets of a batch: a function from rows (B,), their tokens (B, L) and the epoch to arrays of the batch, by name. Workers
        receive it pickled.
    """

    def __init__(self, tokens: np.ndarray, cells: np.ndarray, lengths: np.ndarray, targets: Targets) -> None:
        self.tokens, self.cells, self.lengths, self.targets = tokens, cells, lengths, targets

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: tuple[int, np.ndarray]) -> dict[str, torch.Tensor]:
        """One batch, as of `make_batch`."""
        epoch, rows = key
        cells, lengths = self.cells[rows], self.lengths[rows]
        width = min(trimmed(int(lengths.max())), self.tokens.shape[1])
        return make_batch(self.tokens[cells, :width], lengths, cells, epoch, self.targets)


def make_batch(
    tokens: np.ndarray, lengths: np.ndarray, rows: np.ndarray, epoch: int, targets: Targets
) -> dict[str, torch.Tensor]:
    """Tensors ``tokens`` int64 (B, L), ``values`` float32 (B, L) of cells that have them, ``lengths`` (B,), and those of `targets`, which may replace the tokens."""
    values = value_of(tokens)
    tokens = token_of(tokens).astype(np.int64)
    batch = {"tokens": tokens, "lengths": lengths.astype(np.int64)} | targets(rows, tokens, epoch)
    batch |= {} if values is None else {"values": values.copy()}
    return {name: torch.from_numpy(value) for name, value in batch.items()}


class TokenLoader(DataLoader[dict[str, torch.Tensor]]):
    """Loader of a `TokenDataset` that remembers its place within the epoch, so that a run resumes where it stopped."""

    sampler: TokenBatches

    def __init__(self, dataset: TokenDataset, sampler: TokenBatches, **kwargs: Any) -> None:
        # its own generator: iterating draws a seed for workers, which must not move the generator that dropout draws from
        kwargs.setdefault("generator", torch.Generator())
        super().__init__(dataset, sampler=sampler, batch_size=None, collate_fn=_same, **kwargs)
        self._place = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]  # torch names its own iterator
        self._place = self.sampler.skip
        for batch in super().__iter__():
            self._place += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Number of batches given out in this epoch."""
        return {"place": self._place % len(self.sampler)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass after the batches that were given out."""
        self.sampler.skip = state["place"]


def _same(batch: T) -> T:
    return batch
