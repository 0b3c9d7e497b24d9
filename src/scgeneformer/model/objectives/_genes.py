"""A classifier of genes as an scvi-tools module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from scgeneformer.nn import GeneClassifier


class GeneClassifierModule(BaseModuleClass):
    """Wraps a :class:`~scgeneformer.nn.GeneClassifier`, of whose positions only labelled ones reach the head.

    Batches are dicts: ``tokens`` int64 (B, L), ``lengths`` (B,), ``labels`` int64 (B, L), the class at each position or -1.

    Parameters
    ----------
    network
        The network.
    frozen
        The encoder is not trained at all, and so not disturbed by dropout either.

    Attributes
    ----------
    token_weights
        (V,), what an occurrence of each token counts for, 1 on average; None for 1 throughout.
    """

    token_weights: Tensor | None

    def __init__(self, network: GeneClassifier, *, frozen: bool = False) -> None:
        super().__init__()
        self.network, self.frozen = network, frozen
        self.register_buffer("token_weights", None, persistent=False)

    def train(self, mode: bool = True) -> GeneClassifierModule:  # noqa: FBT001, FBT002 (torch's signature)
        """As in torch, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.encoder.eval()
        return self

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens, lengths = tensors["tokens"], tensors["lengths"]
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, L)
        return {"tokens": tokens, "mask": mask, "where": tensors["labels"] >= 0}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor) -> dict[str, Tensor]:
        """Hidden states of the labelled positions only: (M, H)."""
        return {"hidden": self.network.encoder(tokens, mask)[where]}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return inference_outputs

    def generative(self, hidden: Tensor) -> dict[str, Tensor]:
        """Scores of the classes at the labelled positions: (M, C), in float32."""
        return {"logits": self.network.classifier(self.network.dropout(hidden)).float()}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Mean cross-entropy of the labelled positions in nats.

        Weighted ones are summed and divided by their number, not by the sum of their weights: so the mean over the batches of an epoch
        is that over all positions, whichever genes meet in a batch.
        """
        logits, where = generative_outputs["logits"], tensors["labels"] >= 0
        labels = tensors["labels"][where]
        n = max(len(labels), 1)
        errors = F.cross_entropy(logits, labels, reduction="none")  # (M,)
        if self.token_weights is not None:
            errors = errors * self.token_weights[tensors["tokens"][where]]
        hits = (logits.detach().argmax(-1) == labels).sum() / n
        return LossOutput(loss=errors.sum() / n, n_obs_minibatch=n, extra_metrics={"accuracy": hits})

    def sample(self, *args: object, **kwargs: object) -> None:
        """Refused: a classifier has no distribution over cells."""
        msg = "A classifier is not a generative model of cells: there is nothing to sample from."
        raise TypeError(msg)
