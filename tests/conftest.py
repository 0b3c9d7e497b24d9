"""Fixtures shared by the tests of several rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread per process, because the processes share the cores. Read when torch and numba are loaded: numba starts OpenMP threads whatever
# the value of OMP_NUM_THREADS, and threads that wait for work keep a core busy.
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


@pytest.fixture
def gene_lists(shared, official, tmp_path):
    """`settings.data` with all data and the five lists of genes; the dosage list is built from the official example and the tokens of V1."""
    import pandas as pd

    folder, vocabulary = tmp_path / "gene_lists", official("V1")
    folder.mkdir()
    for path in (shared / "data").iterdir():
        if path.is_dir() and not path.name.startswith("gene_"):
            (folder / path.name).symlink_to(path)
    for name in ("gene_class_labels", "gene_labels_n1"):
        (folder / name).mkdir(parents=True)
        for path in (shared / "data" / name).glob("is_*.csv"):
            (folder / name / path.name).symlink_to(path)
    lists = pd.read_csv(shared / "data" / "gene_class_labels" / "dosage_sensitive_tfs.csv")
    rows = [
        f"{gene},{vocabulary.token_of([gene])[0]},{column == 'dosage_sensitive'}\n"
        for column in ("dosage_sensitive", "dosage_insensitive")
        for gene in lists[column].dropna()
    ]
    path = folder / "gene_class_labels" / "is_dosage_sensitive.csv"
    path.write_bytes(("tf,id,sensitive\n" + "".join(rows)).encode())
    return folder


@pytest.fixture
def cellfm_file():
    """A function that writes a CellFM as the content of a checkpoint in the format of its authors."""
    from .nn.test_cellfm import theirs
    from .nn.test_mindspore import checkpoint

    return lambda model: checkpoint(theirs(model))
