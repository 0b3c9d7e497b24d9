"""Tools: embed, perturb, screen, rank and evaluate shifts, transfer, annotate, evaluate, classify genes, gene networks, likelihoods, completed cells."""

from __future__ import annotations

from ._annotation._annotate import annotate
from ._annotation._classify_genes import classify_genes
from ._annotation._transfer import transfer
from ._complete import complete
from ._embed import embed
from ._evaluation._evaluate import evaluate
from ._integration._compare import compare_embeddings
from ._integration._integrate import integrate
from ._integration._state_score import state_score
from ._likelihood import likelihood
from ._networks._centrality import centrality
from ._networks._evaluate_network import evaluate_network
from ._networks._network import network
from ._perturbation._perturb import perturb
from ._perturbation._screen import screen
from ._perturbation._sets import perturb_sets
from ._ranking._evaluate_shifts import evaluate_shifts
from ._ranking._rank_shifts import rank_shifts
from ._score_sets import score_sets

__all__ = [
    "annotate",
    "centrality",
    "classify_genes",
    "compare_embeddings",
    "complete",
    "embed",
    "evaluate",
    "evaluate_network",
    "evaluate_shifts",
    "integrate",
    "likelihood",
    "network",
    "perturb",
    "perturb_sets",
    "rank_shifts",
    "score_sets",
    "screen",
    "state_score",
    "transfer",
]
