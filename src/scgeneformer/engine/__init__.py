"""Arrays and tensors in, arrays out: embedding and perturbation, on any device. Knows no AnnData."""

from __future__ import annotations

from . import network, perturb
from ._batching import for_each_batch, row_lengths, to_device
from ._classify import CellScores, classify
from ._classify_genes import GeneScores, classify_genes, classify_genes_together, count_tokens, rows_with
from ._complete import complete
from ._device import resolve_device, resolve_precision
from ._embed import Embeddings, Pooling, check_options, embed, resolve_layer, resolve_pooling
from ._gene_pairs import PairFeatures, count_pairs, find_pairs, pair_features
from ._likelihood import Likelihoods, masked_likelihood, next_gene_likelihood, passes_of_ranks
from ._numbers import expected_number, read_numbers

__all__ = [
    "CellScores",
    "Embeddings",
    "GeneScores",
    "Likelihoods",
    "PairFeatures",
    "Pooling",
    "check_options",
    "classify",
    "classify_genes",
    "classify_genes_together",
    "complete",
    "count_pairs",
    "count_tokens",
    "embed",
    "expected_number",
    "find_pairs",
    "for_each_batch",
    "masked_likelihood",
    "network",
    "next_gene_likelihood",
    "pair_features",
    "passes_of_ranks",
    "perturb",
    "read_numbers",
    "resolve_device",
    "resolve_layer",
    "resolve_pooling",
    "resolve_precision",
    "row_lengths",
    "rows_with",
    "to_device",
]
