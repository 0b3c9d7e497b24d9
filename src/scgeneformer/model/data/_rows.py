"""Training and validation cells of a split, in batches by length, with whatever labels they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from ._batches import TokenBatches, TokenLoader, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer.evaluation import Split


@dataclass(frozen=True, eq=False)
class LabelsOfCells:
    """Gives each cell of a batch its labels; a class, since functions made on the spot cannot be sent to workers.

    Attributes
    ----------
    values
        (n_obs, tasks).
    """

    values: np.ndarray

    def __call__(self, rows: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """``labels`` (B, tasks)."""
        return {"labels": self.values[rows]}


@dataclass(frozen=True, eq=False)
class LabelsOfTokens:
    """Gives each token of a batch its class.

    Attributes
    ----------
    codes
        Class of each token of the vocabulary, -1 for those without: (V,).
    """

    codes: np.ndarray

    def __call__(self, rows: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """``labels`` (B, L)."""
        return {"labels": self.codes[tokens]}


class LabelledCells(Dataset):
    """Batches of tokens with labels; indexed by ``(epoch, rows)``, so that a batch is one gather.

    Parameters
    ----------
    tokens
        (n_obs, L) unsigned integers, right-padded.
    cells
        Row in `tokens` of each cell of this set, (n_cells,).
    lengths
        Number of tokens of each of them.
    labels
        From rows in `tokens` (B,) and their tokens (B, L) to arrays of the batch, by name. Workers get it pickled.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        cells: np.ndarray,
        lengths: np.ndarray,
        labels: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    ) -> None:
        self.tokens, self.cells, self.lengths, self.labels = tokens, cells, lengths, labels

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: tuple[int, np.ndarray]) -> dict[str, torch.Tensor]:
        """One batch: ``tokens`` int64 (B, L), ``lengths`` (B,), and what `labels` adds."""
        _, rows = key
        cells, lengths = self.cells[rows], self.lengths[rows]
        width = min(trimmed(int(lengths.max())), self.tokens.shape[1])
        tokens = self.tokens[cells, :width].astype(np.int64)
        batch = {"tokens": tokens, "lengths": lengths.astype(np.int64)} | self.labels(cells, tokens)
        return {name: torch.from_numpy(value) for name, value in batch.items()}


class SplitModule(LightningDataModule):
    """Cells of a split. Empty cells are left out.

    Parameters
    ----------
    tokens
        (n_obs, L), right-padded.
    lengths
        Of each row.
    labels
        See `LabelledCells`.
    split
        Rows of each set.
    token_budget, batch_size
        See `TokenBatches`.
    seed
        Of the order of cells.
    **loader_kwargs
        For :class:`torch.utils.data.DataLoader`, such as `num_workers`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        labels: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
        *,
        split: Split,
        token_budget: int,
        batch_size: int | None,
        seed: int,
        **loader_kwargs: Any,
    ) -> None:
        super().__init__()
        self.tokens, self.lengths, self.labels = tokens, lengths, labels
        self.train_idx, self.val_idx, self.test_idx = split.train, split.validation, split.test
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        self.token_budget, self.batch_size, self.seed, self.loader_kwargs = (
            token_budget,
            batch_size,
            seed,
            loader_kwargs,
        )

    def train_dataloader(self) -> TokenLoader:
        """Shuffled batches of the training cells."""
        return self._loader(self.train_idx, shuffle=True)

    def val_dataloader(self) -> TokenLoader | list:
        """Fixed batches of the validation cells."""
        return self._loader(self.val_idx, shuffle=False) if self.n_val else []

    def _loader(self, cells: np.ndarray, *, shuffle: bool) -> TokenLoader:
        cells = cells[self.lengths[cells] > 0]
        lengths = self.lengths[cells]
        sampler = TokenBatches(
            lengths,
            token_budget=self.token_budget,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer is not None else 0,
            world=self.trainer.world_size if self.trainer is not None else 1,
        )
        return TokenLoader(LabelledCells(self.tokens, cells, lengths, self.labels), sampler, **self.loader_kwargs)
