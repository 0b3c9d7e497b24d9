"""In silico perturbation of token rows: exact, one forward pass for each perturbation, or estimated by gradients."""

from __future__ import annotations

from ._agreement import Sample, agreement, compare
from ._directions import Directions
from ._edits import KINDS, POSITIONS, Kind, Positions
from ._effects import GeneEffects
from ._enumerate import Edits, Perturbation, enumerate_edits
from ._measure import measure
from ._run import Outcome, run
from ._screen import TOLERANCE, screen, screen_absent
from ._store import Store

__all__ = [
    "KINDS",
    "POSITIONS",
    "TOLERANCE",
    "Directions",
    "Edits",
    "GeneEffects",
    "Kind",
    "Outcome",
    "Perturbation",
    "Positions",
    "Sample",
    "Store",
    "agreement",
    "compare",
    "enumerate_edits",
    "measure",
    "run",
    "screen",
    "screen_absent",
]
