"""A few cells of six donors, a small untrained model of their genes, and the program, run in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scgeneformer as sg
from scgeneformer.cli import main
from scgeneformer.nn import EncoderConfig, MaskedGeneModel, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


SIZES = ("--train-size", "0.5", "--validation-size", "0.25", "--test-size", "0.25")


@dataclass(frozen=True)
class Ran:
    """Results of a command: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the program in an empty folder, on the CPU."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ran:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Ran(status, *capsys.readouterr())

    with sg.settings.override(device="cpu", precision="float32", progress=False):
        yield run


@pytest.fixture
def refused(run: Callable[..., Ran]) -> Callable[..., str]:
    """The last line on standard error of a command; only warnings precede it."""

    def refused(*words: object) -> str:
        ran = run(*words)
        assert (ran.status, ran.out) == (2, "")
        *warned, error = ran.err.splitlines(keepends=True)
        assert all(
            line.startswith("scgeneformer: warning: ") for line in warned
        )  # mudata's, in whichever test it comes first
        assert error.startswith("scgeneformer: error: ")
        return error

    return refused


@pytest.fixture(scope="session")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    n_cells, n_genes = 48, 40
    ill = np.tile([False, True], n_cells // 2)
    rate = np.where(ill[:, None] & (np.arange(n_genes) < 10), 3.0, 0.7)
    obs = {
        "state": np.where(ill, "b", "a").astype(object),
        "donor": [f"donor{i}" for i in np.arange(n_cells) // 8],
        "cell_type": np.repeat(["T", "B"], n_cells // 2),
    }
    obs["state"][::6] = "c"
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.float32)),
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_cells)]).astype("category"),
        var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]),
    )
    path = tmp_path_factory.mktemp("cli") / "counts.h5ad"
    adata.write_h5ad(path)
    return path


def save_model(folder: Path, vocabulary: sg.Vocabulary) -> Path:
    """A tiny untrained model with its vocabulary, in the layout that `hub.load` reads."""
    config = EncoderConfig(
        vocab_size=len(vocabulary), n_layers=2, width=16, n_heads=2, feed_forward=32, max_length=vocabulary.max_length
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(folder, MaskedGeneModel(config))
    vocabulary.save(folder / "vocabulary.json")
    return folder


@pytest.fixture(scope="session")
def make_model() -> Callable[[Path, sg.Vocabulary], Path]:
    return save_model


@pytest.fixture(scope="session")
def model(counts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = sg.Vocabulary.from_adata(ad.read_h5ad(counts), name="tiny", max_length=64)
    return save_model(tmp_path_factory.mktemp("model"), vocabulary)


@pytest.fixture(scope="session")
def embedded(counts: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells with tokens and an embedding."""
    adata = ad.read_h5ad(counts)
    with sg.settings.override(device="cpu", precision="float32", progress=False):
        sg.pp.tokenize(adata, model)
        sg.tl.embed(adata, model)
    path = tmp_path_factory.mktemp("embedded") / "embedded.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def classifier(embedded: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of states."""
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    words = [embedded, folder, "--labels-key", "state", "--sample-key", "donor", "--model", model, "--recipe", "probe"]
    assert main(["train", "cells", *map(str, words), *SIZES]) == 0
    return folder
