"""From counts to tokens: vocabularies, gene names, rank value encoding. NumPy, SciPy and numba only."""

from __future__ import annotations

from ._encode import Encoded, encode
from ._genes import GeneMap, resolve_genes
from ._inspect import Inspection, inspect
from ._slot import check_tokens, read_tokens, token_ids, token_params, vocabulary_column
from ._values import token_of, value_of, with_values
from ._vocabulary import Vocabulary

__all__ = [
    "Encoded",
    "GeneMap",
    "Inspection",
    "Vocabulary",
    "check_tokens",
    "encode",
    "inspect",
    "read_tokens",
    "resolve_genes",
    "token_ids",
    "token_of",
    "token_params",
    "value_of",
    "vocabulary_column",
    "with_values",
]
