from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def vocabulary() -> sg.Vocabulary:
    ids = np.array(["<pad>", "<mask>", "<cls>", "<eos>", *(f"ENSG{i:011d}" for i in range(40))])
    return sg.Vocabulary(
        "toy", ids, np.r_[[np.nan] * 4, np.ones(40)], 32, symbols=np.array([""] * 4 + [f"S{i}" for i in range(40)])
    )


@pytest.fixture
def cells(vocabulary: sg.Vocabulary) -> ad.AnnData:
    """Tokenized cells with counts of tokens and columns of several types."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(rng.choice(["T", "B"], 30)),
            "donor": rng.choice(["d1", "d2"], 30),
            "age": rng.integers(20, 80, 30),
            "score": rng.normal(size=30).astype(np.float32),
            "ill": rng.random(30) < 0.5,
        },
        index=[f"cell{i}" for i in range(30)],
    )
    adata = ad.AnnData(rng.poisson(2.0, (30, 40)).astype(np.float32), obs, pd.DataFrame(index=vocabulary.ids[4:]))
    sg.pp.tokenize(adata, vocabulary, keep_counts=True)
    return adata


@pytest.fixture
def save_to_disk(tmp_path: Path) -> Callable[..., Path]:
    """Write columns as `datasets` does, in several files, independently of the package."""

    def save(columns: dict[str, list], n_files: int = 2, name: str = "theirs.dataset", **schema: pa.DataType) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        table = pa.table({key: pa.array(values, schema.get(key)) for key, values in columns.items()})
        files = [f"data-{i:05d}-of-{n_files:05d}.arrow" for i in range(n_files)]
        for i, file in enumerate(files):
            part = table.slice(i * len(table) // n_files, (i + 1) * len(table) // n_files - i * len(table) // n_files)
            with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(part, max_chunksize=7)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))
        (folder / "dataset_info.json").write_text("{}")
        return folder

    return save
