"""Results as tidy data frames."""

from __future__ import annotations

from ._cell_shifts import cell_shifts
from ._effects import effects
from ._evaluation import evaluation
from ._shifts import shifts

__all__ = ["cell_shifts", "effects", "evaluation", "shifts"]
