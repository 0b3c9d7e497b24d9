"""Checkpoints in the Hugging Face layout: what lies where, and how it is read and written."""

from __future__ import annotations

from ._cellfm import load_cellfm
from ._folder import add_to_config, read_config, weights_file
from ._mindspore import read_mindspore
from ._models import (
    load_backbone,
    load_cell_classifier,
    load_encoder,
    load_encoder_decoder,
    load_gene_classifier,
    load_masked_gene_model,
    load_next_gene_model,
    missing_head,
    read_state,
    save_checkpoint,
)

__all__ = [
    "add_to_config",
    "load_backbone",
    "load_cell_classifier",
    "load_cellfm",
    "load_encoder",
    "load_encoder_decoder",
    "load_gene_classifier",
    "load_masked_gene_model",
    "load_next_gene_model",
    "missing_head",
    "read_config",
    "read_mindspore",
    "read_state",
    "save_checkpoint",
    "weights_file",
]
