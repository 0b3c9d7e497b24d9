"""Models in the style of scvi-tools: set up the data, train, ask for representations. The only room that knows scvi-tools."""

from __future__ import annotations

from ._cell_classifier import CellClassifier
from ._corpus import Corpus
from ._geneformer import Geneformer
from ._presets import presets, recipe

__all__ = ["CellClassifier", "Corpus", "Geneformer", "presets", "recipe"]
