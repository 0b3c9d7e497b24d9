from __future__ import annotations

import numpy as np
import pytest

from scgeneformer.tokens import Vocabulary


@pytest.fixture(scope="session", params=["V1", "V2"])
def small(request: pytest.FixtureRequest) -> Vocabulary:
    """60 genes, some with a common median, with special tokens as in V1 or V2."""
    rng = np.random.default_rng(3)
    special = ["<pad>", "<mask>", "<cls>", "<eos>"][: 2 if request.param == "V1" else 4]
    medians = rng.choice([0.5, 1.0, 1.5, *rng.lognormal(0, 1, 20)], 60)
    ids = np.array([*special, *(f"ENSG{i:011d}" for i in range(60))])
    return Vocabulary(request.param, ids, np.r_[[np.nan] * len(special), medians], max_length=48)
