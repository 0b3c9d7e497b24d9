"""Training on more cells than fit in memory: counts are read from files and ranked while the model trains."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from scgeneformer import hub
from scgeneformer._arguments import checked
from scgeneformer.model.data._digest import digest, digest_of_all
from scgeneformer.model.data._masking import Masking
from scgeneformer.model.training._train import token_budget_of
from scgeneformer.tokens import Vocabulary

from ._files import CorpusFile, find_files
from ._loader import Blocks, CorpusLoader
from ._order import BlockBatches, classes_of, length_classes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Corpus(LightningDataModule):
    """Counts of many cells in h5ad and zarr files, streamed to :meth:`Geneformer.train`.

    Only an index of five bytes per cell is kept in memory. Files are divided into blocks of consecutive cells. In each epoch the blocks are
    read in a new order, `blocks_in_memory` at a time; their cells are ranked as by :func:`scgeneformer.pp.tokenize` and shuffled into
    batches of similar length. Reading and ranking run in threads while the model trains. Every cell occurs exactly once per
    epoch, except for cells in which no gene is detected. The order depends only on `rng` and the epoch, and a run resumes at
    the batch at which it stopped. With several processes, each reads all blocks and trains on its part of every batch.

    Parameters
    ----------
    files
        Files with raw counts as CSR, folders that hold them, or patterns such as ``"atlas/*.h5ad"``. If the cells of a file are
        ordered (by donor, by cell type), they are mixed well only if there are many more blocks than `blocks_in_memory`.
    vocabulary
        Gene vocabulary, model to be trained, or name in the hub.
    layer, gene_ids, counts, max_length
        As in :func:`scgeneformer.pp.tokenize`. Genes are looked up once per file. Values are checked on a sample of each
        file, and must be non-negative and finite whenever they are read.
    validation
        Fraction of the blocks to hold out, drawn at random; or files, as for `files`; 0 for none.
    batch_size
        Number of cells per step and process; overrides `token_budget`.
    token_budget
        Maximum number of tokens per step and process, padding included, if every detected gene is in the vocabulary; batches of cells with
        other genes have fewer. Defaults to 8,192, on CUDA to 65,536.
    block_cells
        Number of cells in a block. Smaller blocks mix cells better and are slower to read.
    blocks_in_memory
        Number of blocks whose cells are shuffled together, while the same number of blocks is being read.
    rng
        Seed of the validation blocks and of the order of cells. Masks are drawn by the `rng` of ``train``.

    Attributes
    ----------
    files
        Paths of all files.
    n_train, n_val
        Number of cells in each set.
    longest
        Maximum number of tokens of a cell.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    KeyError
        If a file lacks the layer or the column of ``.var``.
    ValueError
        If values are not counts or not stored as CSR, if their genes are not in the vocabulary, or if there are too few blocks to hold any
        out.

    Examples
    --------
    >>> adata[:16].write_h5ad("study_1.h5ad")
    >>> adata[16:].write_h5ad("study_2.h5ad")
    >>> model = sg.model.Geneformer.from_pretrained("default")
    >>> corpus = sg.model.Corpus("study_*.h5ad", model, block_cells=8)
    >>> corpus
    Corpus of 2 files: 24 cells to train on, 8 to validate
    >>> model.train(max_epochs=1, datamodule=corpus)
    """

    @checked
    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        vocabulary: Vocabulary | str | Path | Any,
        *,
        layer: str | None = None,
        gene_ids: str | None = None,
        counts: Literal["raw", "linear", "log1p"] = "raw",
        max_length: int | None = None,
        validation: float | str | Path | Sequence[str | Path] = 0.05,
        batch_size: int | None = None,
        token_budget: int | None = None,
        block_cells: int = 1024,
        blocks_in_memory: int = 16,
        rng: int = 0,
    ) -> None:
        super().__init__()
        self.vocabulary = _vocabulary(vocabulary)
        self.batch_size, self.token_budget = batch_size, token_budget
        self.blocks_in_memory, self.rng = blocks_in_memory, rng
        self.files = find_files(files)
        n_training = len(self.files)
        if not isinstance(validation, int | float):
            self.files = find_files([*self.files, *find_files(validation)])
        check = partial(CorpusFile.checked, vocabulary=self.vocabulary, layer=layer, gene_ids=gene_ids)
        checked = list(map(partial(check, counts=counts, max_length=max_length), self.files))
        self._blocks = Blocks(checked, block_cells)
        self.longest = max(int(file.bounds.max(initial=0)) for file in checked)
        self._widths = length_classes(self.longest)
        self._classes = np.concatenate([classes_of(file.bounds, self._widths) for file in checked])
        everything = np.arange(len(self._blocks))
        if isinstance(validation, int | float):
            held_out = _draw_blocks(len(everything), float(validation), np.random.default_rng(rng), block_cells)
        else:
            held_out = np.flatnonzero(self._blocks.file_of >= n_training)
        self._train_blocks, self._validation_blocks = np.setdiff1d(everything, held_out), held_out
        self.n_train = self._batches(self._train_blocks).n_cells
        self.n_val = self._batches(self._validation_blocks).n_cells
        if self.n_train == 0:
            msg = "No training cell of the corpus has a detected gene: there is nothing to train on."
            raise ValueError(msg)

    def __repr__(self) -> str:
        return f"Corpus of {len(self.files):,} files: {self.n_train:,} cells to train on, {self.n_val:,} to validate"

    __str__ = __repr__

    @checked
    def set_batch_size(self, batch_size: int) -> None:
        """Set the `batch_size` given to ``train``, as for data modules of scvi-tools."""
        self.batch_size = batch_size

    def check_fits(self, vocabulary: Vocabulary, n_positions: int) -> None:
        """Raise if a model has another vocabulary, or too few positions for the cells.

        Raises
        ------
        ValueError
            In these cases; the message names what differs.
        """
        if vocabulary != self.vocabulary:
            msg = (
                f"This corpus is tokenized with vocabulary {self.vocabulary.name!r}, but the model has {vocabulary.name!r}. "
                "Make it with `Corpus(files, model)`."
            )
            raise ValueError(msg)
        if self.longest > n_positions:
            msg = (
                f"Cells of this corpus may have {self.longest} tokens, but the model has {n_positions} positions. "
                f"Make it with `Corpus(files, model, max_length={n_positions})`."
            )
            raise ValueError(msg)

    def fingerprint(self) -> dict[str, Any]:
        """What the batches depend on; of each file, what was read of it when the corpus was made."""
        size = {"batch_size": self.batch_size} if self.batch_size else {"token_budget": self._budget()}
        files = digest_of_all(file.digest for file in self._blocks.files)
        blocks = digest(self._blocks.starts, self._train_blocks, self._validation_blocks)
        reading = {"blocks_in_memory": self.blocks_in_memory, "rng of the corpus": self.rng}
        return size | {"files of the corpus": files, "blocks of the corpus": blocks} | reading

    def train_dataloader(self) -> CorpusLoader:
        """Batches of the training cells, shuffled."""
        return self._loader(self._train_blocks, shuffle=True)

    def val_dataloader(self) -> CorpusLoader | None:
        """Batches of the validation cells, the same at every check."""
        return self._loader(self._validation_blocks, shuffle=False) if self.n_val else None

    def _loader(self, blocks: np.ndarray, *, shuffle: bool) -> CorpusLoader:
        plan = getattr(self.trainer, "lightning_module", None)
        objective = getattr(plan, "objective", None)
        masking = getattr(objective, "masking", None) or Masking.over(self.vocabulary, seed=self.rng)
        return CorpusLoader(self._blocks, self._batches(blocks, shuffle=shuffle), masking, self.longest)

    def _budget(self) -> int:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return self.token_budget or token_budget_of(device)

    def _batches(self, blocks: np.ndarray, *, shuffle: bool = False) -> BlockBatches:
        trainer = self.trainer
        return BlockBatches(
            self._blocks.starts,
            self._classes,
            self._widths,
            blocks,
            token_budget=self._budget(),
            batch_size=self.batch_size,
            blocks_in_memory=self.blocks_in_memory,
            shuffle=shuffle,
            seed=self.rng,
            rank=0 if trainer is None else trainer.global_rank,
            world=1 if trainer is None else trainer.world_size,
        )


def _draw_blocks(n_blocks: int, share: float, rng: np.random.Generator, block_cells: int) -> np.ndarray:
    """Numbers of the blocks that validate, drawn at random."""
    n = max(round(share * n_blocks), 1) if share else 0
    if 0 < n >= n_blocks:
        msg = (
            f"The corpus has {n_blocks} block(s) of {block_cells:,} cells: none can be held out. Lower block_cells, name files for "
            "`validation`, or set it to 0."
        )
        raise ValueError(msg)
    return np.sort(rng.permutation(n_blocks)[:n])


def _vocabulary(vocabulary: Vocabulary | str | Path | Any) -> Vocabulary:
    """The vocabulary itself, that of a model, or that with a name in the hub."""
    named = getattr(vocabulary, "vocabulary", vocabulary)
    return named if isinstance(named, Vocabulary) else hub.vocabulary(named)
