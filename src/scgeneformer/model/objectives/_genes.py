"""The objective of a classifier of genes: the class of each labelled gene, wherever it occurs in a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch.nn import functional as F

from scgeneformer import evaluation
from scgeneformer.model.data._digest import digest

from ._cells import SCORES
from ._objective import Objective, TokenModule, fingerprint_of_sets, gathered

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.model.data._gene_labels import GeneClasses
    from scgeneformer.nn import GeneClassifier


@dataclass(frozen=True, eq=False)
class LabelsOfTokens:
    """Classes of the tokens of a batch; a class, since closures cannot be sent to workers.

    Attributes
    ----------
    codes
        Class of each token of the vocabulary, -1 for those without: (V,).
    """

    codes: np.ndarray

    def __call__(self, rows: np.ndarray, tokens: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """``labels`` (B, L)."""
        return {"labels": self.codes[tokens]}


class GeneLabels(Objective):
    """Predict the classes of genes.

    A validation is scored over genes, as they are predicted, each from its mean over the cells in which it occurs: ``accuracy``, ``macro_f1``
    and ``auc``. The loss is that of occurrences.

    Parameters
    ----------
    genes
        The classified genes.
    split
        Numbers of the genes of each set.
    cells
        Rows of tokens to train on, by which, as by `split`, a resumed run is recognised.
    network
        What is trained; it determines what is averaged.
    """

    def __init__(self, genes: GeneClasses, split: evaluation.Split, cells: np.ndarray, network: GeneClassifier) -> None:
        self.genes, self.split, self.cells, self.network = genes, split, cells, network
        n_tokens = network.encoder.config.vocab_size
        self.targets = {
            name: LabelsOfTokens(genes.code_of_token(n_tokens, getattr(split, name)))
            for name in ("train", "validation")
        }
        self._sums = torch.zeros(n_tokens, len(genes.names) + 1)  # and the number of cells

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Add the predictions for the genes of the batch to earlier ones."""
        averaged, tokens = self.network.averaged(outputs["logits"]), batch["tokens"][batch["labels"] >= 0]
        values = torch.cat([averaged, torch.ones_like(averaged[:, :1])], 1)
        self._sums = self._sums.to(values.device).index_add_(0, tokens, values)

    def compute(self) -> dict[str, float]:
        """Scores over the validation genes that occur."""
        sums, self._sums = self._sums, torch.zeros(self._sums.shape)
        genes = self.split.validation
        by_gene = np.sum(gathered(sums.double().cpu().numpy()[self.genes.tokens[genes]]), axis=0)
        occurs = by_gene[:, -1] > 0
        means = torch.from_numpy(by_gene[occurs, :-1] / by_gene[occurs, -1:])
        proba, codes = self.network.proba(means).numpy(), self.genes.codes[genes][occurs]
        report = evaluation.classification(codes, proba, self.genes.names)
        return {name: float(report.scores[name]) for name in SCORES}

    def fingerprint(self) -> dict[str, Any]:
        """Sets of genes, their classes, and the cells."""
        sets = {name: getattr(self.split, name) for name in ("train", "validation", "test")}
        classes = {"classes": list(self.genes.names), "labels": digest(self.genes.tokens, self.genes.codes)}
        return fingerprint_of_sets(sets | {"cells": self.cells}) | classes


def loss_weights(
    genes: GeneClasses, split: evaluation.Split, counts: np.ndarray, class_weights: Any
) -> np.ndarray | None:
    """Weight of an occurrence of each token in the loss, float32 (V,), or None if all are 1.

    Their mean over the occurrences of training genes is 1, and so is that over the occurrences of validation genes.

    Parameters
    ----------
    genes, split
        The genes and their sets.
    counts
        int64 (V,), number of occurrences of each token.
    class_weights
        None; a weight for each class; or ``"balanced"``: the occurrences of all training genes of a class weigh as those of any other class.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if class_weights is None:
        return None
    by_name = isinstance(class_weights, Mapping)
    if not (class_weights == "balanced" or (by_name and set(class_weights) == set(genes.names))):
        msg = f"class_weights={class_weights!r} must be 'balanced' or give a weight to each of {list(genes.names)}."
        raise ValueError(msg)
    if by_name and not all(weight > 0 for weight in class_weights.values()):
        msg = f"class_weights={dict(class_weights)} must be above 0. Leave a class out of the data instead."
        raise ValueError(msg)
    n_occurrences = counts[genes.tokens].astype(np.float64)  # of each classified gene
    if by_name:
        weight = np.array([class_weights[name] for name in genes.names])[genes.codes]
    else:
        in_class = np.bincount(genes.codes[split.train], n_occurrences[split.train], minlength=len(genes.names))
        weight = 1 / np.where(in_class > 0, in_class, 1.0)[genes.codes]
    weights = np.zeros(len(counts))
    for numbers in (split.train, split.validation):
        total = (weight * n_occurrences)[numbers].sum()
        weights[genes.tokens[numbers]] = weight[numbers] * (n_occurrences[numbers].sum() / total if total else 1.0)
    return weights.astype(np.float32)


class GeneClassifierModule(TokenModule):
    """A :class:`~scgeneformer.nn.GeneClassifier`, of whose positions only labelled ones reach the head.

    Batches have ``tokens`` int64 (B, L), ``lengths`` (B,), ``labels`` int64 (B, L), the class at each position or -1.

    Parameters
    ----------
    network, frozen
        As of `TokenModule`.

    Attributes
    ----------
    token_weights
        (V,), weight of an occurrence of each token, 1 on average; None for 1 throughout.
    """

    network: GeneClassifier
    token_weights: Tensor | None

    def __init__(self, network: GeneClassifier, *, frozen: bool = False) -> None:
        super().__init__(network, frozen=frozen)
        self.register_buffer("token_weights", None, persistent=False)

    def fingerprint(self) -> dict[str, Any]:
        """That of any network, with the weights of the tokens."""
        weights = self.token_weights
        return super().fingerprint() | {"class_weights": None if weights is None else digest(weights.cpu().numpy())}

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return super()._get_inference_input(tensors) | {"where": tensors["labels"] >= 0}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Hidden states of the labelled positions only: (M, H)."""
        return {"hidden": self.network.encoder(tokens, mask, **inputs)[where]}

    def generative(self, hidden: Tensor) -> dict[str, Tensor]:
        """Logits of the classes at the labelled positions: (M, C), in float32."""
        return {"logits": self.network.scores(hidden).float()}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Mean cross-entropy of the labelled positions in nats.

        Weighted ones are summed and divided by their number, not by the sum of their weights: so the mean over the batches of an epoch
        is that over all positions, whichever genes meet in a batch. The accuracy is of occurrences, and of training only: a validation
        is scored over genes.
        """
        logits, where = generative_outputs["logits"], tensors["labels"] >= 0
        labels = tensors["labels"][where]
        n = max(len(labels), 1)
        errors = F.cross_entropy(logits, labels, reduction="none")  # (M,)
        if self.token_weights is not None:
            errors = errors * self.token_weights[tensors["tokens"][where]]
        accuracy = (logits.detach().argmax(-1) == labels).sum() / n
        metrics = {"accuracy": accuracy} if self.training else {}
        return LossOutput(loss=errors.sum() / n, n_obs_minibatch=n, extra_metrics=metrics)
