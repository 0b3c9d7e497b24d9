"""Blocks of cells, read and ranked in threads, and the batches made from them."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scgeneformer.model.data._batches import make_batch, trimmed
from scgeneformer.model.data._masking import FIXED_EPOCH

from ._files import open_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from scgeneformer.model.data._masking import Masking

    from ._files import CorpusFile
    from ._order import BlockBatches, Step

_OPEN_FILES = 64
_THREADS = 4
_BATCHES_AHEAD = 4

T = TypeVar("T")


class Blocks:
    """Blocks of cells of several files, numbered consecutively.

    Parameters
    ----------
    files
        Files of the corpus.
    block_cells
        Number of cells in each block, except for the last one of a file.
    """

    def __init__(self, files: Sequence[CorpusFile], block_cells: int) -> None:
        self.files = files
        sizes = [np.diff(np.r_[np.arange(0, len(file.bounds), block_cells), len(file.bounds)]) for file in files]
        self.starts = np.r_[0, np.cumsum(np.concatenate(sizes))]  # of blocks, in the numbers of cells of the corpus
        self.file_of = np.repeat(np.arange(len(files)), [len(size) for size in sizes])
        self._first = np.r_[0, np.cumsum([len(file.bounds) for file in files])]  # of files

    def __len__(self) -> int:
        return len(self.file_of)

    def read(self, steps: Iterator[Step]) -> Iterator[tuple[Step, dict[int, np.ndarray]]]:
        """Each step, with the tokens of its cells that lie in its blocks, by the number of the cell in the corpus."""
        opened = lru_cache(_OPEN_FILES)(open_file)
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for step in steps:
                wanted = np.concatenate([*step.batches, step.waiting])
                rows: dict[int, np.ndarray] = {}
                for of_block in pool.map(lambda block, wanted=wanted: self._read(opened, block, wanted), step.blocks):
                    rows |= of_block
                yield step, rows

    def _read(self, opened: Any, block: int, wanted: np.ndarray) -> dict[int, np.ndarray]:
        number = self.file_of[block]
        start, stop = self.starts[block : block + 2].tolist()
        file, first = self.files[number], int(self._first[number])
        matrix, lengths = file.read(opened(file.path), start - first, stop - first)
        rows = np.flatnonzero(np.isin(np.arange(start, stop), wanted))
        return {start + row: matrix[row, : lengths[row]].copy() for row in rows.tolist()}


class CorpusLoader:
    """Masked batches of a corpus, prepared ahead in threads. Like `TokenLoader`, it remembers its place within the epoch.

    Each batch is a dict like those of `TokenDataset`. A process without a cell in the last batch gets a batch of a single ``<mask>``
    without a target.

    Parameters
    ----------
    blocks, sampler
        Blocks of cells, and the order in which they are read and batched.
    masking
        Rule by which tokens are masked.
    longest
        Maximum number of tokens of a cell, and so the maximum width of a batch.
    """

    batch_sampler = None  # Lightning looks for it where there is a sampler

    def __init__(self, blocks: Blocks, sampler: BlockBatches, masking: Masking, longest: int) -> None:
        self.blocks, self.sampler, self.masking, self.longest = blocks, sampler, masking, longest
        self._place = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        sampler, self._place = self.sampler, self.sampler.skip
        sampler.skip = 0
        steps = ahead(self.blocks.read(sampler.remaining(sampler.epoch, self._place)), 1)
        for batch in ahead(self._batches(steps, sampler.epoch if sampler.shuffle else FIXED_EPOCH), _BATCHES_AHEAD):
            self._place += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Number of batches yielded in this epoch."""
        return {"place": self._place % max(len(self), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass after the batches that were already yielded."""
        self.sampler.skip = state["place"]

    def _batches(
        self, steps: Iterator[tuple[Step, dict[int, np.ndarray]]], epoch: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        tokens: dict[int, np.ndarray] = {}
        for step, read in steps:
            tokens |= read
            for cells in step.batches:
                share = cells[self.sampler.rank :: self.sampler.world].tolist()
                yield self._batch({cell: tokens[cell] for cell in share if len(tokens[cell])}, epoch)
            tokens = {cell: tokens[cell] for cell in step.waiting.tolist()}

    def _batch(self, rows: dict[int, np.ndarray], epoch: int) -> dict[str, torch.Tensor]:
        rows = rows or {0: np.array([self.masking.mask_id], dtype=np.uint16)}
        lengths = np.array([len(row) for row in rows.values()])
        width = min(trimmed(int(lengths.max())), self.longest)
        tokens = np.zeros((len(rows), width), dtype=np.uint16)  # (B, L)
        for place, row in zip(tokens, rows.values(), strict=True):
            place[: len(row)] = row
        return make_batch(tokens, lengths, np.array(list(rows)), epoch, self.masking.targets)


def ahead(items: Iterator[T], n: int) -> Iterator[T]:
    """The same items, while a thread prepares the next `n`."""
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(_at_most_one, items) for _ in range(n))
        while item := coming.popleft().result():
            coming.append(pool.submit(_at_most_one, items))
            yield from item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _at_most_one(items: Iterator[T]) -> list[T]:
    return list(islice(items, 1))
