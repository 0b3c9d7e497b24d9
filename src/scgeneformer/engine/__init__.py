"""Arrays and tensors in, arrays out: embedding and perturbation, on any device. Knows no AnnData."""

from __future__ import annotations

from ._batching import for_each_batch, row_lengths, to_device
from ._device import resolve_device, resolve_precision
from ._embed import Embeddings, check_options, embed, resolve_layer, resolve_pooling
from ._perturb import delete_one_by_one, deletions

__all__ = [
    "Embeddings",
    "check_options",
    "delete_one_by_one",
    "deletions",
    "embed",
    "for_each_batch",
    "resolve_device",
    "resolve_layer",
    "resolve_pooling",
    "resolve_precision",
    "row_lengths",
    "to_device",
]
