"""What all objectives share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import BaseModuleClass
from torch import distributed

from scgeneformer import nn
from scgeneformer.model.data._digest import digest
from scgeneformer.nn.adapters import config_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scgeneformer.model.data._batches import Targets

    Network = nn.MaskedGeneModel | nn.EncoderDecoder | nn.CellClassifier | nn.GeneClassifier | nn.NextGeneModel

_IDLE = ("initializer_range", "pooling", "emb_layer")  # of the shape, in training


class Objective:
    """What a network is trained for: the targets of each batch, and the scores of a validation.

    The module, made with the model, computes the loss of these targets.

    Attributes
    ----------
    targets
        Targets of the batches of ``"train"`` and ``"validation"``: functions of rows, tokens and epoch.
    """

    targets: dict[str, Targets]

    def prepare(self, batch: dict[str, Tensor], epoch: int | None) -> dict[str, Tensor]:
        """The batch as the module reads it: a data module of the user may leave out the targets. No epoch means validation."""
        return batch

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Take note of the outputs of the module for one batch of validation."""

    def compute(self) -> dict[str, float]:
        """Scores over all validation batches of all processes since the last call."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """What a run must share with a checkpoint that it resumes from: targets and sets."""
        return {}


class TokenModule(BaseModuleClass):
    """A network over tokens, unchanged, as a module of scvi-tools.

    Parameters
    ----------
    network
        The network.
    frozen
        Keep the encoder in evaluation mode: it is not trained, and dropout must not disturb it.
    """

    network: Network

    def __init__(self, network: Network, *, frozen: bool = False) -> None:
        super().__init__()
        self.network, self.frozen = network, frozen

    def train(self, mode: bool = True) -> TokenModule:  # noqa: FBT001, FBT002 (torch's signature)
        """Set the mode, as in torch, except for a frozen encoder."""
        super().train(mode)
        if self.frozen:
            self.network.encoder.eval()
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What a run must share with a checkpoint that it resumes from: shape of the network, what of it is trained, weights of the loss."""
        encoder = self.network.encoder
        shape = {name: value for name, value in asdict(encoder.config).items() if name not in _IDLE}
        trained: dict[str, Any] = {
            "trained parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        }
        if hasattr(encoder, "peft_config"):
            adapter = config_of(encoder)
            trained["lora"] = [adapter.r, adapter.lora_alpha, adapter.lora_dropout, sorted(adapter.target_modules)]
        return shape | trained | {"quantized": nn.is_quantized(self.network)}

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens, lengths = tensors["tokens"], tensors["lengths"]
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        further = {name: tensors[name] for name in ("values",) if name in tensors}
        return {"tokens": tokens, "mask": mask, **further}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return inference_outputs

    def sample(self, *args: object, **kwargs: object) -> None:
        """Not defined: the network is not a distribution over whole cells."""
        msg = f"{type(self.network).__name__} is not a generative model of cells: it cannot be sampled from."
        raise TypeError(msg)


def gathered(values: Any) -> list[Any]:
    """The values of each process, in the order of the processes."""
    if not distributed.is_initialized():
        return [values]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, values)
    return everyone


def fingerprint_of_sets(sets: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Size and sum of each set, which checkpoints of earlier versions also have, and a hash of all their members."""
    sums = {name: [len(items), int(items.sum())] for name, items in sets.items()}
    return sums | {"members of the sets": digest(*(np.sort(items).astype(np.int64) for items in sets.values()))}
