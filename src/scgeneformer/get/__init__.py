"""Results as tidy data frames."""

from __future__ import annotations

from ._cell_shifts import cell_shifts
from ._edges import edges
from ._effects import effects
from ._embedding_scores import embedding_scores
from ._evaluation import evaluation
from ._neighbors import neighbors
from ._shifts import shifts

__all__ = ["cell_shifts", "edges", "effects", "embedding_scores", "evaluation", "neighbors", "shifts"]
