"""Every hostile input gets a clean error or a documented answer: a sample of each area here, all of them by `make hostile`."""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest

from . import counts, files, labels, perturbing, results, tokens
from .verdict import Tally

AREAS = {module.__name__.rsplit(".", 1)[1]: module for module in (counts, tokens, perturbing, results, labels, files)}
WHOLE = bool(os.environ.get("SCGENEFORMER_HOSTILE"))
STEP = 6  # one in so many otherwise


@pytest.mark.parametrize("area", AREAS)
def test_nothing_is_silently_wrong(area, record_property):
    cases = AREAS[area].cases(np.random.default_rng(0))
    tally = Tally(area).add(cases if WHOLE else islice(cases, 0, None, STEP))
    record_property("hostile", dict(tally.counts))
    print(f"\n{area}: {dict(tally.counts)}")  # noqa: T201 - the table of `make hostile`
    assert not tally.others, f"{len(tally.others)} of {sum(tally.counts.values())}:\n" + "\n".join(tally.others)
