"""Models in the style of scvi-tools: set up the data, train, get representations. The only room that knows scvi-tools."""

from __future__ import annotations

from ._cell_classifier import CellClassifier
from ._cross_validation import CrossValidation
from ._gene_classifier import GeneClassifier
from ._geneformer import Geneformer
from ._presets import presets, recipe
from .corpus._corpus import Corpus
from .pairs._cross_validation import PairCrossValidation
from .pairs._pair_classifier import PairClassifier
from .recipes._selection import Selection
from .state_shift._state_shift import StateShift
from .trajectories._trajectory_model import TrajectoryModel
from .tuning._space import default_space
from .tuning._tune import TuneResult, tune

__all__ = [
    "CellClassifier",
    "Corpus",
    "CrossValidation",
    "GeneClassifier",
    "Geneformer",
    "PairClassifier",
    "PairCrossValidation",
    "Selection",
    "StateShift",
    "TrajectoryModel",
    "TuneResult",
    "default_space",
    "presets",
    "recipe",
    "tune",
]
