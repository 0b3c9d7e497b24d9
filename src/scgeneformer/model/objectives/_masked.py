"""The objective of pretraining: masked genes (BERT), or whole cells from masked ones (encoder-decoder)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.module.base import LossOutput

from scgeneformer.model.data._batches import make_batch
from scgeneformer.model.data._masking import FIXED_EPOCH
from scgeneformer.nn import EncoderConfig, EncoderDecoder, MaskedGeneModel

from ._objective import Objective, TokenModule

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.model.data._masking import Masking


class MaskedGenes(Objective):
    """Predict masked genes.

    Parameters
    ----------
    masking
        What to mask.
    """

    def __init__(self, masking: Masking) -> None:
        self.masking = masking
        self.targets = {"train": masking.targets, "validation": masking.targets}
        self._n_seen = 0

    def fingerprint(self) -> dict[str, Any]:
        """Rule, share and seed of the masks."""
        return {"masking": self.masking.rule, "mask_probability": self.masking.probability, "rng": self.masking.seed}

    def prepare(self, batch: dict[str, Tensor], epoch: int | None) -> dict[str, Tensor]:
        """Mask a batch that has ``tokens`` only (and ``cells``, if its masks must not depend on the order of batches)."""
        if "targets" in batch:
            return batch
        tokens = batch["tokens"].cpu().numpy()
        cells = batch["cells"].cpu().numpy() if "cells" in batch else self._n_seen + np.arange(len(tokens))
        self._n_seen += len(tokens)
        epoch = FIXED_EPOCH if epoch is None else epoch
        masked = make_batch(tokens, (tokens != 0).sum(1), cells, epoch, self.masking.targets)
        return {name: value.to(batch["tokens"].device) for name, value in masked.items()}


class GeneformerModule(TokenModule):
    """A :class:`~scgeneformer.nn.MaskedGeneModel` with the loss of masked genes.

    Batches have ``tokens`` int64 (B, L) with genes masked, ``lengths`` (B,), ``where`` bool (B, L), ``targets`` int64 (M,).
    """

    network: MaskedGeneModel

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(MaskedGeneModel(config))

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return super()._get_inference_input(tensors) | {"where": tensors["where"]}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor) -> dict[str, Tensor]:
        """Hidden states of the masked positions only: (M, H)."""
        return {"hidden": self.network.encoder(tokens, mask)[where]}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return inference_outputs | {"targets": tensors["targets"]}

    def generative(self, hidden: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Summed cross-entropy of the masked genes, and whether the best gene is right at each, (M,)."""
        total, right = self.network.head.errors(hidden, self.network.encoder.embedding.gene.weight, targets)
        return {"total": total, "right": right}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Cross-entropy per masked gene in nats, in float32; 0 for a batch without masked genes."""
        total, right = generative_outputs["total"], generative_outputs["right"]
        n = max(len(right), 1)
        return LossOutput(loss=total / n, n_obs_minibatch=len(right), extra_metrics={"accuracy": right.sum() / n})


class EncoderDecoderModule(TokenModule):
    """An :class:`~scgeneformer.nn.EncoderDecoder`: the encoder reads a masked batch, the decoder restores the cells.

    Batches are those of `GeneformerModule`; ``tokens`` with ``targets`` put back at ``where`` are the cells as they are.
    """

    network: EncoderDecoder

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(EncoderDecoder(config))

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs, where = super()._get_inference_input(tensors), tensors["where"]
        return inputs | {"where": where, "original": inputs["tokens"].masked_scatter(where, tensors["targets"])}

    def inference(self, tokens: Tensor, mask: Tensor, where: Tensor, original: Tensor) -> dict[str, Tensor]:
        """Last states of the decoder at all M positions that are not padding, their tokens, and which of them were masked."""
        return {"x": self.network(tokens, mask, original)[mask], "targets": original[mask], "hidden": where[mask]}

    def generative(self, x: Tensor, targets: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Summed cross-entropy of all positions, and whether the best token is right at each masked one."""
        total, right = self.network.errors(x, targets)
        return {"total": total, "right": right[hidden]}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Cross-entropy in nats per token of the cells, masked or not; accuracy at the masked ones."""
        total, right = generative_outputs["total"], generative_outputs["right"]
        n = max(len(inference_outputs["targets"]), 1)
        accuracy = right.sum() / max(len(right), 1)
        return LossOutput(loss=total / n, n_obs_minibatch=n, extra_metrics={"accuracy": accuracy})
