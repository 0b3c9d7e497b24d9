"""Recorded official cells, models and outputs."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from scgeneformer import nn

if TYPE_CHECKING:
    from pathlib import Path

N_SPECIAL = {"V1": 2, "V2": 4}


def as_matrix(rows: list[np.ndarray]) -> np.ndarray:
    """Right-padded uint16 rows."""
    matrix = np.zeros((len(rows), max(map(len, rows))), dtype=np.uint16)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


class Recordings:
    """Outputs of the official package; see the README beside the recordings."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder, self.made = folder, made
        self.runs = {run["name"]: run["args"] for run in json.loads((folder / "manifest.json").read_text())["runs"]}

    def cells(self, subset: str) -> tuple[pd.DataFrame, np.ndarray]:
        """Cells of a subset, indexed by name, and their tokens."""
        frame = pd.read_parquet(self.folder / "subsets" / f"{subset}.parquet")
        return frame.set_index("cell"), as_matrix(frame["input_ids"].tolist())

    def embedding(self, name: str) -> dict[str, np.ndarray]:
        path = self.folder / "embeddings" / f"{name}.npz"
        return dict(
            np.load(path, allow_pickle=True)
        )  # names of genes are Python strings; a recording we made ourselves

    def perturbation(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "perturb" / f"{name}.parquet")

    def model(self, name: str) -> Path:
        """Folder of a seeded random model; large ones are drawn again and must have the recorded hash."""
        there = self.folder / "models" / name
        if there.is_dir():
            return there
        spec = importlib.util.spec_from_file_location("random_models", self.folder / "random_models.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.make(name, self.made)


@pytest.fixture(scope="session")
def recordings(shared, tmp_path_factory) -> Recordings:
    return Recordings(shared / "conformance", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def load(recordings):
    """Encoder of a recorded model by name, loaded once."""
    encoders = {}

    def load_once(name: str) -> nn.Encoder:
        if name not in encoders:
            encoders[name] = nn.load_encoder(recordings.model(name))
        return encoders[name]

    return load_once


@pytest.fixture(scope="session")
def small() -> nn.Encoder:
    """A small encoder with weights far from uniform."""
    import torch

    torch.manual_seed(0)
    encoder = nn.Encoder(
        nn.EncoderConfig(vocab_size=60, n_layers=3, width=16, n_heads=4, feed_forward=24, max_length=40)
    )
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return encoder.eval()


@pytest.fixture
def random_cells() -> np.ndarray:
    """Twelve rows of different lengths that start with <cls> (2) and end with <eos> (3); genes from 4 on."""
    rng = np.random.default_rng(0)
    lengths = [38, 5, 17, 17, 30, 2, 9, 11, 24, 24, 24, 3]
    return as_matrix([np.r_[2, rng.permutation(np.arange(4, 60))[:n], 3] for n in lengths])
