"""Scores of pairs of genes from a model, summed over cells in memory that does not grow with their number."""

from __future__ import annotations

from ._attention import attention
from ._contextual import contextual
from ._gradient import gradient
from ._pairs import PairScores
from ._token import token

__all__ = ["PairScores", "attention", "contextual", "gradient", "token"]
