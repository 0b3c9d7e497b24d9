"""The network, in plain torch: encoder, heads and checkpoints."""

from __future__ import annotations

from ._adapter_files import load_adapter, save_adapter
from ._adapters import add_lora, merge_lora
from ._attention import attend
from ._checkpoint import (
    add_to_config,
    load_cell_classifier,
    load_encoder,
    load_encoder_decoder,
    load_gene_classifier,
    load_masked_gene_model,
    read_config,
    read_state,
    save_checkpoint,
    weights_file,
)
from ._compile import compile_blocks
from ._config import EncoderConfig
from ._decoder import EncoderDecoder
from ._encoder import Encoder
from ._heads import CellClassifier, GeneClassifier, MaskedGeneHead, MaskedGeneModel
from ._quantize import dequantize, is_quantized, quantize
from ._weights import load_plain, read_weights

__all__ = [
    "CellClassifier",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "GeneClassifier",
    "MaskedGeneHead",
    "MaskedGeneModel",
    "add_lora",
    "add_to_config",
    "attend",
    "compile_blocks",
    "dequantize",
    "is_quantized",
    "load_adapter",
    "load_cell_classifier",
    "load_encoder",
    "load_encoder_decoder",
    "load_gene_classifier",
    "load_masked_gene_model",
    "load_plain",
    "merge_lora",
    "quantize",
    "read_config",
    "read_state",
    "read_weights",
    "save_adapter",
    "save_checkpoint",
    "weights_file",
]
