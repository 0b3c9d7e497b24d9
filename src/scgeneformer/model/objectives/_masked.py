"""The pretrained networks as scvi-tools modules."""

from __future__ import annotations

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn import functional as F

from scgeneformer.nn import EncoderConfig, EncoderDecoder, MaskedGeneModel


class GeneformerModule(BaseModuleClass):
    """Wraps a :class:`~scgeneformer.nn.MaskedGeneModel` unchanged; the objective is all that is added.

    Batches are dicts: ``tokens`` int64 (B, L) with genes hidden, ``lengths`` (B,), ``where`` bool (B, L), ``targets`` int64 (M,).
    """

    network_cls: type[nn.Module] = MaskedGeneModel

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.network = self.network_cls(config)

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
        return LossOutput(loss=total / n, n_obs_minibatch=len(targets), extra_metrics={"accuracy": hits})

    def sample(self, *args: object, **kwargs: object) -> None:
        """Refused: a masked-gene model has no distribution over whole cells."""
        msg = "Geneformer is not a generative model of cells: there is nothing to sample from."
        raise TypeError(msg)


class EncoderDecoderModule(GeneformerModule):
    """Wraps an :class:`~scgeneformer.nn.EncoderDecoder` unchanged: the encoder reads a batch, the decoder restores what was hidden in it.

    Batches are those of `GeneformerModule`; ``tokens`` with ``targets`` put back at ``where`` are the cells as they are.
    """

    network_cls = EncoderDecoder

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found = super()._get_inference_input(tensors)
        return found | {"original": found["tokens"].masked_scatter(found["where"], tensors["targets"])}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor, original: Tensor) -> dict[str, Tensor]:
        """Last states of the decoder at all M positions that are not padding, their tokens, and which of them were hidden."""
        return {"x": self.network(tokens, mask, original)[mask], "targets": original[mask], "hidden": where[mask]}

    def generative(self, x: Tensor, targets: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Cross-entropy at each position, and whether the token with the best score is the right one: (M,) each."""
        errors, right = self.network.errors(x, targets)
        return {"errors": errors, "right": right[hidden]}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Cross-entropy in nats per token of the cells, hidden or not; accuracy is of the hidden ones."""
        errors, right = generative_outputs["errors"], generative_outputs["right"]
        n = max(len(errors), 1)
        hits = right.sum() / max(len(right), 1)
        return LossOutput(loss=errors.sum() / n, n_obs_minibatch=n, extra_metrics={"accuracy": hits})
