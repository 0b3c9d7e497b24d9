"""The masked-gene network as an scvi-tools module."""

from __future__ import annotations

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor
from torch.nn import functional as F

from scgeneformer.nn import EncoderConfig, MaskedGeneModel


class GeneformerModule(BaseModuleClass):
    """Wraps a :class:`~scgeneformer.nn.MaskedGeneModel` unchanged; the objective is all that is added.

    Batches are dicts: ``tokens`` int64 (B, L) with genes hidden, ``lengths`` (B,), ``where`` bool (B, L), ``targets`` int64 (M,).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.network = MaskedGeneModel(config)

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
        tokens, lengths = tensors["tokens"], tensors["lengths"]
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, L)
        return {"tokens": tokens, "mask": mask, "where": tensors["where"]}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor) -> dict[str, Tensor]:
        """Hidden states of the hidden positions only: (M, H)."""
        return {"hidden": self.network.encoder(tokens, mask)[where]}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return inference_outputs

    def generative(self, hidden: Tensor) -> dict[str, Tensor]:
        """Scores of all genes at the hidden positions: (M, vocabulary)."""
        return {"logits": self.network.head(hidden, self.network.encoder.embedding.gene.weight)}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Cross-entropy per hidden gene in nats, in float32; a batch in which nothing is hidden has loss 0."""
        logits, targets = generative_outputs["logits"].float(), tensors["targets"]
        n = max(len(targets), 1)
        total = F.cross_entropy(logits, targets, reduction="sum")
        hits = (logits.detach().argmax(-1) == targets).sum() / n
        return LossOutput(loss=total / n, n_obs_minibatch=n, extra_metrics={"accuracy": hits})

    def sample(self, *args: object, **kwargs: object) -> None:
        """Refused: a masked-gene model has no distribution over whole cells."""
        msg = "Geneformer is not a generative model of cells: there is nothing to sample from."
        raise TypeError(msg)
