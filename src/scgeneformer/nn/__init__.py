"""The networks, in plain torch: backbones, heads and checkpoints."""

from __future__ import annotations

from ._attention import attend
from ._backbone import Backbone
from ._compile import compile_blocks
from ._config import EncoderConfig
from ._decoder import EncoderDecoder
from ._encoder import Encoder
from ._heads import CellClassifier, GeneClassifier, MaskedGeneHead, MaskedGeneModel, PairClassifier, pair_features
from ._llama import Cache, Llama, NextGeneModel
from ._llama_config import LlamaConfig, RopeScaling
from ._quantize import dequantize, is_quantized, quantize
from ._weights import load_plain, read_weights
from .adapters import add_lora, load_adapter, merge_lora, save_adapter
from .checkpoints import (
    add_to_config,
    load_backbone,
    load_cell_classifier,
    load_cellfm,
    load_encoder,
    load_encoder_decoder,
    load_gene_classifier,
    load_masked_gene_model,
    load_next_gene_model,
    read_config,
    read_mindspore,
    read_state,
    save_checkpoint,
    weights_file,
)
from .retention import CellFM, CellFMConfig

__all__ = [
    "Backbone",
    "Cache",
    "CellClassifier",
    "CellFM",
    "CellFMConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "GeneClassifier",
    "Llama",
    "LlamaConfig",
    "MaskedGeneHead",
    "MaskedGeneModel",
    "NextGeneModel",
    "PairClassifier",
    "RopeScaling",
    "add_lora",
    "add_to_config",
    "attend",
    "compile_blocks",
    "dequantize",
    "is_quantized",
    "load_adapter",
    "load_backbone",
    "load_cell_classifier",
    "load_cellfm",
    "load_encoder",
    "load_encoder_decoder",
    "load_gene_classifier",
    "load_masked_gene_model",
    "load_next_gene_model",
    "load_plain",
    "merge_lora",
    "pair_features",
    "quantize",
    "read_config",
    "read_mindspore",
    "read_state",
    "read_weights",
    "save_adapter",
    "save_checkpoint",
    "weights_file",
]
