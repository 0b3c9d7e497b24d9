"""Arrays and tensors in, arrays out: embedding and perturbation, on any device. Knows no AnnData."""

from __future__ import annotations

from ._batching import for_each_batch, row_lengths, to_device
from ._classify import classify
from ._classify_genes import GeneScores, classify_genes, count_tokens, rows_with
from ._device import resolve_device, resolve_precision
from ._edits import KINDS
from ._effects import GeneEffects
from ._embed import Embeddings, check_options, embed, resolve_layer, resolve_pooling
from ._perturb import perturb
from ._perturbations import Perturbations, Plan, enumerate_perturbations
from ._run import Outcome, run
from ._screen import screen, screen_absent
from ._store import Store

__all__ = [
    "KINDS",
    "Embeddings",
    "GeneEffects",
    "GeneScores",
    "Outcome",
    "Perturbations",
    "Plan",
    "Store",
    "check_options",
    "classify",
    "classify_genes",
    "count_tokens",
    "embed",
    "enumerate_perturbations",
    "for_each_batch",
    "perturb",
    "resolve_device",
    "resolve_layer",
    "resolve_pooling",
    "resolve_precision",
    "row_lengths",
    "rows_with",
    "run",
    "screen",
    "screen_absent",
    "to_device",
]
