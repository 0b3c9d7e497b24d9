"""Two processes (DDP with gloo on the CPU) are one process with a batch twice as large."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

MEANS = 1e-5  # of an epoch: Lightning averages their weights over processes as integers
SCRIPT = Path(__file__).with_name("train_in_processes.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the runs leave: in one process, which is this one, and in two."""
    folder = tmp_path_factory.mktemp("runs")
    spec = importlib.util.spec_from_file_location("train_in_processes", SCRIPT)
    runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runs)
    adata, _ = runs.make_cells()
    adata.write_h5ad(folder / "cells.h5ad")
    assert runs.make_corpus(folder, runs.GLOBAL_BATCH).n_train % runs.GLOBAL_BATCH == 1  # too few for two processes
    two = subprocess.Popen(
        [sys.executable, SCRIPT, folder, "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other beside the other processes
    runs.main(folder, 1)
    torch.set_num_threads(threads)
    output, _ = two.communicate(timeout=600)
    assert two.returncode == 0, output
    return folder


def history(folder: Path, run: str, rank: int = 0) -> pd.DataFrame:
    return pd.read_json(folder / f"{run}_rank{rank}.json")


def weights(folder: Path, run: str, rank: int = 0) -> np.ndarray:
    with np.load(folder / f"{run}_rank{rank}.npz") as arrays:
        return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


@pytest.mark.parametrize("run", ["memory", "stream"])
def test_loss_curve_and_weights_of_the_doubled_batch(folder, run):
    """Although the shares of a batch mask different numbers of genes, and one share of the stream is empty."""
    one, two = history(folder, f"{run}_1"), history(folder, f"{run}_2")
    assert one.columns.tolist() == two.columns.tolist()
    np.testing.assert_allclose(two["train_loss_step"], one["train_loss_step"], rtol=1e-5)
    np.testing.assert_array_equal(two["learning_rate"], one["learning_rate"])
    for mean in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(two[mean], one[mean], rtol=MEANS)
    assert one["train_loss_step"].nunique() == 10
    assert one["validation_loss"].count() >= 2
    np.testing.assert_allclose(weights(folder, f"{run}_2"), weights(folder, f"{run}_1"), atol=1e-4)


@pytest.mark.parametrize("run", ["memory_2", "stream_2", "resumed_2"])
def test_processes_end_with_the_same_weights(folder, run):
    np.testing.assert_array_equal(weights(folder, run, 0), weights(folder, run, 1))


def test_the_first_process_keeps_the_history(folder):
    assert len(history(folder, "memory_2")) == 10
    assert history(folder, "memory_2", 1).empty


def test_a_run_in_two_processes_resumes(folder):
    names = {path.name for path in (folder / "checkpoints_2").iterdir()}
    assert names == {".lock", "last.ckpt", "previous.ckpt"}
    assert len(history(folder, "stopped_2")) == 4
    np.testing.assert_array_equal(weights(folder, "resumed_2"), weights(folder, "memory_2"))
    resumed, whole = history(folder, "resumed_2"), history(folder, "memory_2")
    np.testing.assert_array_equal(resumed["train_loss_step"], whole["train_loss_step"])
    np.testing.assert_array_equal(resumed["validation_loss"], whole["validation_loss"])
