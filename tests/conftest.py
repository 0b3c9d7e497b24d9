"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread for each of the processes that share the cores, read when torch and numba are loaded: numba starts OpenMP threads whatever
# OMP_NUM_THREADS says, and threads that wait for work keep a core busy.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with official dictionaries, recorded official outputs and real data, which are not part of the repository."""
    if not (SHARED / "conformance").is_dir():
        pytest.skip("official recordings and data sets are not beside the repository (set SCGENEFORMER_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def official(shared):
    """The official vocabulary of a generation, "V1" or "V2"."""
    from scgeneformer import Vocabulary

    corpus = {"V1": ("gc30M", 2048), "V2": ("gc104M", 4096)}
    loaded = {}

    def load(generation: str) -> Vocabulary:
        if generation not in loaded:
            name, max_length = corpus[generation]
            folder = shared / "geneformer" / generation
            loaded[generation] = Vocabulary.from_official(
                folder / f"token_dictionary_{name}.pkl",
                folder / f"gene_median_dictionary_{name}.pkl",
                mapping_file=folder / f"ensembl_mapping_dict_{name}.pkl",
                name_file=folder / f"gene_name_id_dict_{name}.pkl",
                name=generation,
                max_length=max_length,
            )
        return loaded[generation]

    return load
