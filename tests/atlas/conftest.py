"""Labelled cells of three types and several donors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

if TYPE_CHECKING:
    from collections.abc import Callable

PROVENANCE = {"model": "V2-104M", "weights_sha256": "abc", "vocabulary_hash": "v", "pooling": "mean", "emb_layer": -1}


def cells(n: int, seed: int, *, n_donors: int = 5, n_types: int = 3) -> AnnData:
    """Cells around the same centres for every seed."""
    rng = np.random.default_rng(seed)
    code, donor = rng.integers(0, n_types, n), rng.integers(0, n_donors, n)
    centres = np.random.default_rng(0).normal(size=(n_types, 8))
    obs = pd.DataFrame(
        {
            "type": pd.Categorical.from_codes(code, ["B", "CD4+/CD25 T", "NK", "rare"][:n_types]),
            "donor": [f"donor {i}" for i in donor],
            "age": rng.integers(20, 70, n),
            "cluster": pd.Categorical.from_codes(code, list("xyzw")[:n_types]),
        },
        index=[f"{seed}-{i}" for i in range(n)],
    )
    states = (centres[code] + rng.normal(size=(n, 8))).astype(np.float32)
    return AnnData(obs=obs, obsm={"X_geneformer": states}, uns={"geneformer": {"params": dict(PROVENANCE)}})


@pytest.fixture(scope="session")
def make_cells() -> Callable[..., AnnData]:
    return cells
