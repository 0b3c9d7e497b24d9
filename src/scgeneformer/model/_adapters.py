"""Adapters of classifiers: in files, and merged into the weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from scgeneformer import nn

if TYPE_CHECKING:
    from pathlib import Path


class AdapterMixin:
    """Gives a classifier its LoRA adapters in and out."""

    def save_adapter(self, folder: str | Path) -> None:
        """Write the LoRA adapters and the head in the layout of peft, as ``PeftModel.from_pretrained`` loads them."""
        nn.save_adapter(folder, self.module.network)

    def load_adapter(self, folder: str | Path) -> None:
        """Take over adapters and head that :meth:`save_adapter`, or peft on the same model in transformers, has written.

        For a model without adapters, that starts from the weights that they were trained beside.
        """
        nn.load_adapter(folder, self.module.network)
        made = self.encoder.peft_config["default"]
        options = {"rank": made.r, "alpha": made.lora_alpha, "dropout": made.lora_dropout}
        self.init_params_["non_kwargs"]["lora"] = options | {"targets": sorted(made.target_modules)}  # for `load`
        self.is_trained_ = True

    def merge_lora(self) -> None:
        """Add the adapters to the weights beside them; the model then is a plain one."""
        nn.merge_lora(self.module.network)
        self.init_params_["non_kwargs"]["lora"] = self.init_params_["non_kwargs"]["quantize"] = None


def plain_copy(network: nn.CellClassifier | nn.GeneClassifier) -> nn.CellClassifier | nn.GeneClassifier:
    """A copy without adapters and quantized layers, that computes the same; the network itself if it has none."""
    if hasattr(network.encoder, "peft_config"):
        network = copy.deepcopy(network)
        nn.merge_lora(network)
    elif nn.is_quantized(network):
        network = copy.deepcopy(network)
        nn.dequantize(network)
    return network
