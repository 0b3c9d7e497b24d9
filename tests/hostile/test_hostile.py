"""Every hostile input gives a clean error or a documented result; `make hostile` prints how many of each."""

from __future__ import annotations

import numpy as np
import pytest

from . import applications, backbones, counts, files, labels, perturbing, references, results, tokens
from .verdict import Tally

AREAS = {
    module.__name__.rsplit(".", 1)[1]: module
    for module in (counts, tokens, perturbing, results, labels, files, references, applications, backbones)
}


@pytest.mark.parametrize("area", AREAS)
def test_nothing_is_silently_wrong(area, record_property):
    tally = Tally(area).add(AREAS[area].cases(np.random.default_rng(0)))
    record_property("hostile", dict(tally.counts))
    print(f"\n{area}: {dict(tally.counts)}")  # noqa: T201 - the table of `make hostile`
    assert not tally.others, f"{len(tally.others)} of {sum(tally.counts.values())}:\n" + "\n".join(tally.others)
