"""The global generators of torch, from which dropout and new weights are drawn: seeded for a while, and then restored."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def generators_restored(device: torch.device) -> Iterator[None]:
    """Whatever is drawn or seeded within, leave the generators of the processor and of `device` as they were."""
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            yield
    finally:
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_generators(device: torch.device, *entropy: int) -> None:
    """Seed the generators of the processor and of `device`, and no others."""
    seed = int(np.random.default_rng(entropy).integers(2**31))
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)
