"""The network, in plain torch: encoder, heads and checkpoints."""

from __future__ import annotations

from ._attention import attend
from ._checkpoint import (
    load_cell_classifier,
    load_encoder,
    load_gene_classifier,
    load_masked_gene_model,
    read_config,
    save_checkpoint,
    weights_file,
)
from ._config import EncoderConfig
from ._encoder import Encoder
from ._heads import CellClassifier, GeneClassifier, MaskedGeneHead, MaskedGeneModel

__all__ = [
    "CellClassifier",
    "Encoder",
    "EncoderConfig",
    "GeneClassifier",
    "MaskedGeneHead",
    "MaskedGeneModel",
    "attend",
    "load_cell_classifier",
    "load_encoder",
    "load_gene_classifier",
    "load_masked_gene_model",
    "read_config",
    "save_checkpoint",
    "weights_file",
]
