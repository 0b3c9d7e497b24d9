"""Models in the style of scvi-tools: set up the data, train, ask for representations. The only room that knows scvi-tools."""

from __future__ import annotations

from ._cell_classifier import CellClassifier
from ._cell_validation import CellCrossValidation
from ._gene_classifier import GeneClassifier
from ._gene_validation import GeneCrossValidation
from ._geneformer import Geneformer
from ._presets import presets, recipe
from .corpus._corpus import Corpus
from .tuning._space import default_space
from .tuning._tune import TuneResult, tune

__all__ = [
    "CellClassifier",
    "CellCrossValidation",
    "Corpus",
    "GeneClassifier",
    "GeneCrossValidation",
    "Geneformer",
    "TuneResult",
    "default_space",
    "presets",
    "recipe",
    "tune",
]
