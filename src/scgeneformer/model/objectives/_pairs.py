"""The objective of a classifier of pairs of genes: the class of each training pair, wherever both genes are in a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scvi.module.base import LossOutput
from torch.nn import functional as F

from scgeneformer import engine
from scgeneformer.model.data._digest import digest

from ._objective import Objective, TokenModule

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scgeneformer.nn import PairClassifier


@dataclass(frozen=True, eq=False)
class LabelsOfPairs:
    """Classes of the pairs of a batch; a class, since closures cannot be sent to workers.

    Attributes
    ----------
    pairs, codes
        int64 (n_pairs, 2), tokens of genes, and their classes, (n_pairs,).
    n_tokens
        Size of the vocabulary.
    """

    pairs: np.ndarray
    codes: np.ndarray
    n_tokens: int

    def __call__(self, rows: np.ndarray, tokens: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """``where`` (M, 3), row and positions of both genes, and ``labels`` (M,)."""
        found = engine.find_pairs(tokens, self.pairs, self.n_tokens)
        return {"where": found[:, :3].copy(), "labels": self.codes[found[:, 3]]}


class PairLabels(Objective):
    """Predict the classes of pairs. Nothing is validated on the way: recipes judge the end of a run.

    Parameters
    ----------
    pairs, codes, n_tokens
        Of the training pairs, see `LabelsOfPairs`.
    """

    def __init__(self, pairs: np.ndarray, codes: np.ndarray, n_tokens: int) -> None:
        self.learned = LabelsOfPairs(pairs, codes, n_tokens)
        self.targets = {"train": self.learned}

    def fingerprint(self) -> dict[str, Any]:
        """The pairs and their classes."""
        return {"training pairs": digest(self.learned.pairs, self.learned.codes)}


class PairClassifierModule(TokenModule):
    """A :class:`~scgeneformer.nn.PairClassifier`, which reads the states of pairs only.

    Batches have ``tokens`` int64 (B, L), ``lengths`` (B,), ``where`` int64 (M, 3) and ``labels`` int64 (M,).
    """

    network: PairClassifier  # type: ignore[assignment]  # which is not among the networks that are exported

    def __init__(self, network: PairClassifier, *, frozen: bool = False) -> None:
        super().__init__(network, frozen=frozen)  # type: ignore[arg-type]

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return super()._get_inference_input(tensors) | {"where": tensors["where"]}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Features of the pairs: (M, F)."""
        return {"features": self.network.features(tokens, mask, where=where, **inputs)}

    def generative(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of the classes of the pairs: (M, C), in float32."""
        return {"logits": self.network.scores(features).float()}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Mean cross-entropy over the pairs of all cells of the batch, in nats."""
        logits, labels = generative_outputs["logits"], tensors["labels"]
        n = max(len(labels), 1)
        accuracy = (logits.detach().argmax(-1) == labels).sum() / n
        loss = F.cross_entropy(logits, labels, reduction="sum") / n
        return LossOutput(loss=loss, n_obs_minibatch=n, extra_metrics={"accuracy": accuracy})
