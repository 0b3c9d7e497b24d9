"""Scores of predicted edges of a network among all pairs of genes that could be edges."""

from __future__ import annotations

from ._degree import degree_of_other_half
from ._pairs import CandidatePairs
from ._ranked import RankedPairs
from ._rewire import rewire
from ._table import score_pairs

__all__ = ["CandidatePairs", "RankedPairs", "degree_of_other_half", "rewire", "score_pairs"]
