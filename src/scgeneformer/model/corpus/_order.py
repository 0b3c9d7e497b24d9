"""Plan of the batches of an epoch of a corpus, made from bounds of the lengths of cells before any file is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgeneformer.model.data._batches import SHRINK, cells_per_batch, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT_OUT = 255  # class of cells in which no gene is detected


def length_classes(longest: int) -> np.ndarray:
    """Widths of batches, widest first: no cell of a batch is more than 15 % shorter than the batch is wide, as far as trimming allows."""
    widths = [trimmed(max(longest, 1))]
    while (narrower := trimmed(math.ceil(SHRINK * widths[-1]))) < widths[-1]:
        widths.append(narrower)
    while widths[-1] > trimmed(1):
        widths.append(widths[-1] - trimmed(1))
    return np.array(widths)


def classes_of(bounds: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Class of each cell, uint8: the narrowest width that a bound of its length fits in; `LEFT_OUT` where the bound is 0."""
    narrowest = len(widths) - 1 - np.searchsorted(widths[::-1], bounds)
    return np.where(bounds > 0, narrowest, LEFT_OUT).astype(np.uint8)


class Step(NamedTuple):
    """Blocks to read, and the batches that can then be made.

    Attributes
    ----------
    blocks
        Numbers of the blocks.
    batches
        Numbers of the cells in each batch of all processes together, from these blocks or left over from earlier ones.
    waiting
        Cells of these and earlier blocks that are in no batch yet.
    """

    blocks: np.ndarray
    batches: list[np.ndarray]
    waiting: np.ndarray


class BlockBatches:
    """Plan of the batches of each epoch over blocks of consecutive cells.

    Blocks are shuffled and read a few at a time. Their cells, together with those waiting, are shuffled and divided by classes
    of length into full batches; cells that do not fill a batch wait for the next blocks. At the end of an epoch the rest of each class
    joins the next longer one, so that only one batch is not full. Every cell is in one batch of an epoch. The number of batches
    depends only on the numbers of cells in the classes, and is the same in every epoch and on every process.

    Parameters
    ----------
    starts
        Number of the first cell of each block of the whole corpus and, as the last element, the number of cells; (n_blocks + 1,).
    classes
        Class of each cell of the corpus, see `classes_of`.
    widths
        Widths of the classes, widest first.
    blocks
        Numbers of the blocks of this set.
    token_budget, batch_size, shuffle, seed, rank, world
        As in `TokenBatches`, except that the part of a process may be empty if the last batch has few cells.
    blocks_in_memory
        Number of blocks that are read and shuffled together.
    """

    def __init__(
        self,
        starts: np.ndarray,
        classes: np.ndarray,
        widths: np.ndarray,
        blocks: np.ndarray,
        *,
        token_budget: int,
        batch_size: int | None = None,
        blocks_in_memory: int = 16,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.starts, self.classes, self.blocks = starts, classes, np.asarray(blocks)
        self.blocks_in_memory, self.shuffle, self.seed, self.rank, self.world = (
            blocks_in_memory,
            shuffle,
            seed,
            rank,
            world,
        )
        self.epoch = 0
        self.skip = 0
        self.sizes = [cells_per_batch(int(width), token_budget, batch_size, world) for width in widths]
        n_cells = np.zeros(LEFT_OUT + 1, dtype=np.int64)
        for block in self.blocks:
            n_cells += np.bincount(classes[starts[block] : starts[block + 1]], minlength=LEFT_OUT + 1)
        self.n_cells = int(n_cells[:LEFT_OUT].sum())
        self._n_batches, rest = 0, 0
        for size, n in zip(reversed(self.sizes), n_cells[: len(self.sizes)][::-1].tolist(), strict=True):
            # full batches while blocks are read, then batches of the rest, which includes shorter cells
            self._n_batches += n // size + (n % size + rest) // size
            rest = (n % size + rest) % size
        self._n_batches += rest > 0

    def __len__(self) -> int:
        return self._n_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle; the trainer calls this before each epoch."""
        self.epoch = epoch

    def plan(self, epoch: int) -> Iterator[Step]:
        """All steps of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        blocks = rng.permutation(self.blocks) if self.shuffle else self.blocks
        waiting = [np.empty(0, dtype=np.int64) for _ in self.sizes]
        for start in range(0, len(blocks), self.blocks_in_memory):
            read = blocks[start : start + self.blocks_in_memory]
            cells = np.concatenate([np.arange(self.starts[block], self.starts[block + 1]) for block in read])
            cells = rng.permutation(cells) if self.shuffle else cells
            batches = self._deal(cells, waiting)
            if start + self.blocks_in_memory >= len(blocks):
                batches += self._rest(waiting)
            if self.shuffle:
                batches = [batches[i] for i in rng.permutation(len(batches))]
            yield Step(read, batches, np.concatenate(waiting))

    def remaining(self, epoch: int, skip: int) -> Iterator[Step]:
        """The steps of an epoch without the first `skip` batches; blocks are read again only for cells that are still to come."""
        skipped = False
        for step in self.plan(epoch):
            if skip and skip >= len(step.batches):
                skip, skipped = skip - len(step.batches), True
                continue
            if skip or skipped:
                step = step._replace(batches=step.batches[skip:])
                needed = np.concatenate([*step.batches, step.waiting])
                blocks = np.unique(np.searchsorted(self.starts, needed, side="right") - 1)
                step, skip, skipped = step._replace(blocks=blocks), 0, False
            yield step

    def _deal(self, cells: np.ndarray, waiting: list[np.ndarray]) -> list[np.ndarray]:
        """Full batches of each class; the remaining cells are left in `waiting`."""
        batches, class_of = [], self.classes[cells]
        for number, size in enumerate(self.sizes):
            pool = np.concatenate([waiting[number], cells[class_of == number]])
            full, waiting[number] = np.split(pool, [len(pool) // size * size])
            batches += np.split(full, len(full) // size) if len(full) else []
        return batches

    def _rest(self, waiting: list[np.ndarray]) -> list[np.ndarray]:
        """Batches of all waiting cells, each as wide as its longest class allows; the last one need not be full."""
        batches, pool = [], np.empty(0, dtype=np.int64)
        for number in reversed(range(len(self.sizes))):
            pool, size = np.concatenate([pool, waiting[number]]), self.sizes[number]
            while len(pool) >= size:
                batch, pool = np.split(pool, [size])
                batches.append(batch)
            waiting[number] = pool[:0]
        return [*batches, pool] if len(pool) else batches
