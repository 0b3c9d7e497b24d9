"""How classifiers of genes are trained: judged by gene at every validation, and whose labels are seen when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from scgeneformer import evaluation
from scgeneformer.model.data._rows import LabelsOfTokens, SplitModule
from scgeneformer.model.training._plan import Plan

from ._cell_plan import SCORES

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import EVAL_DATALOADERS
    from torch import Tensor

    from scgeneformer.model.data._gene_labels import GeneClasses


class GenePlan(Plan):
    """Training of a `GeneClassifierModule`.

    At each validation, scores over genes are logged, each gene's probabilities being averaged over the cells in which it occurs:
    ``validation_accuracy``, ``validation_macro_f1`` and ``validation_auc``. The loss is that of occurrences.

    Parameters
    ----------
    module
        What is trained.
    genes
        The classified genes.
    split
        Numbers of the genes of each set.
    cells
        Rows of tokens that are trained on, which a resumed run must share, as it must share `split`.
    **kwargs
        See `Plan`.
    """

    def __init__(
        self, module: Any, *, genes: GeneClasses, split: evaluation.Split, cells: np.ndarray, **kwargs: Any
    ) -> None:
        super().__init__(module, **kwargs)
        self.genes, self.split, self.cells = genes, split, cells
        self._sums: Tensor | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and sums of the sets."""
        sets = {name: getattr(self.split, name) for name in ("train", "validation", "test")} | {"cells": self.cells}
        return {name: [len(items), int(items.sum())] for name, items in sets.items()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss of one batch; the probabilities of its genes are added to those of the batches before."""
        _, generative, output = self.module(batch)
        self.log_means({"validation_loss": output.loss}, output, prog_bar=True)
        proba, seen = generative["logits"].softmax(-1), batch["tokens"][batch["labels"] >= 0]
        if self._sums is None:
            self._sums = proba.new_zeros(self.module.network.encoder.config.vocab_size, proba.shape[1])
        self._sums.index_add_(0, seen, proba)

    def on_validation_epoch_end(self) -> None:
        """Log scores over the validation genes that occur, of all processes."""
        sums, self._sums = self._sums, None
        if self.trainer.world_size > 1:
            distributed.all_reduce(sums)
        genes = self.split.validation
        of_gene = sums.double().cpu().numpy()[self.genes.tokens[genes]]
        total = of_gene.sum(1)  # the number of cells, since each of them added 1
        there = total > 0
        report = evaluation.classification(
            self.genes.codes[genes][there], of_gene[there] / total[there, None], self.genes.names
        )
        self.log_dict(
            {f"validation_{name}": torch.tensor(float(report.scores[name])) for name in SCORES}, prog_bar=True
        )


class GeneSplitModule(SplitModule):
    """Cells with training genes to train on, and cells with validation genes, often the same ones, to validate with.

    Parameters
    ----------
    tokens, lengths
        As for `SplitModule`.
    cells
        Rows of ``"train"`` and ``"validation"``.
    codes
        Of both, class of each token and -1 for those without, int64 (V,).
    **kwargs
        As for `SplitModule`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        *,
        cells: dict[str, np.ndarray],
        codes: dict[str, np.ndarray],
        **kwargs: Any,
    ) -> None:
        none = np.empty(0, np.int64)
        split = evaluation.Split(cells["train"], none, none)
        super().__init__(tokens, lengths, LabelsOfTokens(codes["train"]), split=split, **kwargs)
        self.val_idx, self.n_val = cells["validation"], len(cells["validation"])
        self._labels_of_validation = LabelsOfTokens(codes["validation"])

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Fixed batches of the validation cells, with labels of the validation genes only."""
        loader = super().val_dataloader()
        if self.n_val:
            loader.dataset.labels = self._labels_of_validation
        return loader
