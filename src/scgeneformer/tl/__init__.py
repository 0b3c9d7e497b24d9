"""Tools: embed, perturb, rank, transfer."""

from __future__ import annotations

from ._embed import embed
from ._perturb import perturb
from ._rank_shifts import rank_shifts
from ._transfer import transfer

__all__ = ["embed", "perturb", "rank_shifts", "transfer"]
