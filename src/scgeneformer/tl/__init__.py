"""Tools: embed, perturb, screen, rank, transfer, annotate, evaluate, classify genes."""

from __future__ import annotations

from ._annotate import annotate
from ._classify_genes import classify_genes
from ._embed import embed
from ._evaluate import evaluate
from ._perturb import perturb
from ._perturb_sets import perturb_sets
from ._rank_shifts import rank_shifts
from ._screen import screen
from ._transfer import transfer

__all__ = [
    "annotate",
    "classify_genes",
    "embed",
    "evaluate",
    "perturb",
    "perturb_sets",
    "rank_shifts",
    "screen",
    "transfer",
]
