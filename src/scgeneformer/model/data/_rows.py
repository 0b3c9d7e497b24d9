"""Cells in memory, in batches by length, with the targets of whatever is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningDataModule

from ._batches import TokenBatches, TokenDataset, TokenLoader
from ._digest import digest_of_cells

if TYPE_CHECKING:
    from ._batches import Targets


class TokenRows(LightningDataModule):
    """Training and validation cells of a token matrix. Cells without tokens are left out.

    Parameters
    ----------
    tokens
        (n_obs, L), right-padded.
    lengths
        Number of tokens of each row.
    sets
        Rows of ``"train"``, ``"validation"`` and ``"test"``.
    targets
        Targets of ``"train"`` and ``"validation"``, see `TokenDataset`.
    token_budget, batch_size
        See `TokenBatches`.
    seed
        Seed of the order of cells.
    **loader_kwargs
        For :class:`torch.utils.data.DataLoader`, such as `num_workers`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        *,
        sets: dict[str, np.ndarray],
        targets: dict[str, Targets],
        token_budget: int,
        batch_size: int | None,
        seed: int,
        **loader_kwargs: Any,
    ) -> None:
        super().__init__()
        self.tokens, self.lengths, self.targets = tokens, lengths, targets
        self.train_idx, self.val_idx, self.test_idx = (sets[name] for name in ("train", "validation", "test"))
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        self.token_budget, self.batch_size, self.seed = token_budget, batch_size, seed
        self.loader_kwargs = loader_kwargs

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of the cells of each set, and the size of batches."""
        size = {"batch_size": self.batch_size} if self.batch_size else {"token_budget": self.token_budget}
        sets = {"training cells": self.train_idx, "validation cells": self.val_idx}
        return size | {
            name: digest_of_cells(self.tokens, self.lengths, self._chosen(rows)) for name, rows in sets.items()
        }

    def train_dataloader(self) -> TokenLoader:
        """Shuffled batches of the training cells."""
        return self._loader(self.train_idx, self.targets["train"], shuffle=True)

    def val_dataloader(self) -> TokenLoader | list[TokenLoader]:
        """Fixed batches of the validation cells."""
        return self._loader(self.val_idx, self.targets["validation"], shuffle=False) if self.n_val else []

    def _chosen(self, cells: np.ndarray) -> np.ndarray:
        """Those that have tokens, in the order of the data."""
        cells = np.sort(np.asarray(cells, dtype=np.int64))
        return cells[self.lengths[cells] > 0]

    def _loader(self, cells: np.ndarray, targets: Targets, *, shuffle: bool) -> TokenLoader:
        cells = self._chosen(cells)
        lengths = self.lengths[cells]
        sampler = TokenBatches(
            lengths,
            token_budget=self.token_budget,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world=1 if self.trainer is None else self.trainer.world_size,
        )
        return TokenLoader(TokenDataset(self.tokens, cells, lengths, targets), sampler, **self.loader_kwargs)
