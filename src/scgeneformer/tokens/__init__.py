"""From counts to tokens: vocabularies, gene names, rank value encoding. NumPy, SciPy and numba only."""

from __future__ import annotations

from ._encode import Encoded, encode
from ._genes import GeneMap, resolve_genes
from ._inspect import Inspection, inspect
from ._vocabulary import Vocabulary

__all__ = ["Encoded", "GeneMap", "Inspection", "Vocabulary", "encode", "inspect", "resolve_genes"]
