"""Runs of training in one or two processes, for `test_distributed.py`: ``python train_in_processes.py folder n_processes``.

Lightning starts the second process by running this file again. Each leaves its weights and history in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import scgeneformer as sg
from scgeneformer.model.corpus._corpus import Corpus

N_CELLS, N_GENES, GLOBAL_BATCH, STEPS = 61, 40, 12, 10


def make_cells() -> tuple[ad.AnnData, sg.Vocabulary]:
    """Cells whose lengths differ much, so that the shares of a batch hide different numbers of genes."""
    rng = np.random.default_rng(0)
    ids = ["<pad>", "<mask>", "<cls>", "<eos>", *(f"ENSG{i:011d}" for i in range(N_GENES))]
    vocabulary = sg.Vocabulary("toy", np.array(ids), np.r_[[np.nan] * 4, np.arange(1.0, N_GENES + 1)], 48)
    detected = rng.random((N_CELLS, 1)) > rng.random((N_CELLS, N_GENES))
    X = sparse.csr_matrix((rng.poisson(1.0, detected.shape) + 1) * detected, dtype=np.float32)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)])
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=ids[4:]))
    sg.pp.tokenize(adata, vocabulary)
    return adata, vocabulary


def make_corpus(folder: Path, batch_size: int) -> Corpus:
    """The same cells, from the file that the test has written."""
    _, vocabulary = make_cells()
    sizes = {"block_cells": 4, "blocks_in_memory": 3, "validation": 0.2}
    return Corpus(folder / "cells.h5ad", vocabulary, batch_size=batch_size, **sizes)


def train(
    folder: Path, name: str, n_processes: int, steps: int = STEPS, *, stream: bool = False, **kwargs: Any
) -> None:
    """One run from the same weights without dropout."""
    adata, vocabulary = make_cells()
    sg.model.Geneformer.setup_anndata(adata)
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 32, "dropout": 0.0}
    model = sg.model.Geneformer(adata, vocabulary=vocabulary, **sizes)
    batch_size = GLOBAL_BATCH // n_processes
    kwargs |= {"datamodule": make_corpus(folder, batch_size)} if stream else {"batch_size": batch_size}
    model.train(
        max_steps=steps,
        learning_rate=1e-2,
        plan_kwargs={"total_steps": STEPS},
        accelerator="cpu",
        devices=n_processes,
        strategy="ddp" if n_processes > 1 else "auto",
        precision="32-true",
        enable_progress_bar=False,
        **kwargs,
    )
    rank = model.trainer.global_rank
    weights = {key: value.numpy() for key, value in model.module.state_dict().items()}
    np.savez(folder / f"{name}_{n_processes}_rank{rank}.npz", **weights)
    columns = [frame.iloc[:, 0] for frame in model.history.values()]
    history = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    history.to_json(folder / f"{name}_{n_processes}_rank{rank}.json", double_precision=15)


def main(folder: Path, n_processes: int) -> None:
    """All runs."""
    train(folder, "memory", n_processes)
    train(folder, "stream", n_processes, stream=True)
    saved = folder / f"checkpoints_{n_processes}"
    train(folder, "stopped", n_processes, 4, checkpoints=saved, checkpoint_every=2)
    train(folder, "resumed", n_processes, checkpoints=saved, ckpt_path=saved / "last.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
