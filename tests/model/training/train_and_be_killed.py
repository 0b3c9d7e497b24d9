"""A run that is killed ten times, for `test_other_runs.py`: ``python train_and_be_killed.py folder memory``, or ``corpus`` for cells in files.

One process imports everything and forks children that train, so that a run begins at once and may be killed at any moment.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import scgeneformer as sg
from scgeneformer.model import Corpus, Geneformer

FOLDER, CELLS = Path(sys.argv[1]), sys.argv[2]
FILE = FOLDER / "cells.h5ad"
IDS = [f"ENSG{i:011d}" for i in range(40)]
STEPS = 40
os.fsync = lambda file: None  # slow, and nothing that a killed process loses


def make_model() -> tuple[Geneformer, dict[str, Any]]:
    """The same model at every call, and its cells and batches."""
    ids = np.array(["<pad>", "<mask>", "<cls>", "<eos>", *IDS])
    vocabulary = sg.Vocabulary("toy", ids, np.r_[[np.nan] * 4, np.arange(1.0, 41)], 32)
    sizes = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 16, "dropout": 0.2}
    torch.manual_seed(0)
    if CELLS == "corpus":
        corpus = Corpus(FILE, vocabulary, block_cells=8, blocks_in_memory=2, token_budget=160)
        return Geneformer(vocabulary=vocabulary, **sizes), {"datamodule": corpus}
    genes = 4 + np.random.default_rng(0).permuted(np.tile(np.arange(40, dtype=np.uint16), (40, 1)), axis=1)[:, :22]
    tokens = np.pad(np.pad(genes, ((0, 0), (1, 0)), constant_values=2), ((0, 0), (0, 1)), constant_values=3)
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(40)]), obsm={"geneformer_tokens": tokens})
    adata.uns["geneformer_tokens"] = {"params": {"vocabulary": "toy", "vocabulary_hash": vocabulary.hash}}
    Geneformer.setup_anndata(adata)
    return Geneformer(adata, vocabulary=vocabulary, **sizes), {"batch_size": 6}


class Beat(pl.Callback):
    """Tells that training has begun, and slows it down."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def on_train_batch_end(self, *args: object) -> None:
        (FOLDER / "begun").touch()
        time.sleep(self.pause)


def start(name: str, *, pause: float = 0.0, most_bytes: int | None = None) -> int:
    """Train in a child, from the last checkpoint if there is one, and keep weights or error."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        if most_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        (model, batches), last = make_model(), FOLDER / name / "last.ckpt"
        options = {
            "accelerator": "cpu",
            "precision": "32-true",
            "enable_progress_bar": False,
            "callbacks": [Beat(pause)],
        }
        options |= {"checkpoints": last.parent, "ckpt_path": last if last.exists() else None, "checkpoint_every": 1}
        model.train(max_steps=STEPS, learning_rate=1e-2, **batches, **options)
        np.savez(FOLDER / f"{name}.npz", **{key: value.numpy() for key, value in model.module.state_dict().items()})
        code = 0
    except OSError as error:
        (FOLDER / "error").write_text(type(error).__name__)
        traceback.print_exc()
    finally:
        os._exit(code)


def end(pid: int) -> bool:
    """Wait for a child; whether it went well."""
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Run everything."""
    rng, report = np.random.default_rng(), {"kills": []}
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 40)).astype(np.float32))
    ad.AnnData(counts, var=pd.DataFrame(index=IDS)).write_h5ad(FILE)
    began = time.monotonic()
    assert end(start("whole"))
    takes = time.monotonic() - began
    for _ in range(10):
        (FOLDER / "begun").unlink(missing_ok=True)
        pid = start("killed", pause=0.0 if report.get("at once") else 1.0)
        while not (FOLDER / "begun").exists() and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, takes / 15))
        if not report.get("at once"):
            assert not end(start("killed"))
            report["at once"] = (FOLDER / "error").read_text()
        os.kill(pid, signal.SIGKILL)
        end(pid)
        report["kills"].append(len(list((FOLDER / "killed").iterdir())))
    assert not end(start("killed", most_bytes=4096))
    report["out of space"] = (FOLDER / "error").read_text()
    assert end(start("killed"))
    report["left"] = sorted(path.name for path in (FOLDER / "killed").iterdir())
    (FOLDER / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
