"""Models in the style of scvi-tools: set up the data, train, ask for representations. The only room that knows scvi-tools."""

from __future__ import annotations

from ._geneformer import Geneformer

__all__ = ["Geneformer"]
