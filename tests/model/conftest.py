"""A small corpus of four types of cells, whose genes come in a fixed order, so that there is something to learn."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgeneformer import Vocabulary

KEY = "geneformer_tokens"
N_GENES = 40


def make_vocabulary(name: str = "toy", n_genes: int = N_GENES, special: int = 4) -> Vocabulary:
    ids = ["<pad>", "<mask>", "<cls>", "<eos>"][:special] + [f"ENSG{i:011d}" for i in range(n_genes)]
    return Vocabulary(name, np.array(ids), np.r_[[np.nan] * special, np.arange(1.0, n_genes + 1)], 64)


def make_cells(n: int, vocabulary: Vocabulary, seed: int = 0, width: int = 64) -> ad.AnnData:
    """Cells of 5 to 30 genes that follow each other in the vocabulary, from one of four."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((n, width), dtype=np.uint16)
    for row in tokens:
        genes = 4 + (10 * rng.integers(4) + np.arange(rng.integers(5, 30))) % N_GENES
        row[: len(genes) + 2] = [2, *genes, 3]
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]), obsm={KEY: tokens})
    adata.uns[KEY] = {"params": {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}}
    return adata


@pytest.fixture
def vocabulary() -> Vocabulary:
    return make_vocabulary()


@pytest.fixture
def cells(vocabulary: Vocabulary) -> ad.AnnData:
    return make_cells(120, vocabulary)


@pytest.fixture
def model(cells: ad.AnnData, vocabulary: Vocabulary):
    import torch

    from scgeneformer.model import Geneformer

    torch.manual_seed(0)
    Geneformer.setup_anndata(cells)
    return Geneformer(cells, vocabulary=vocabulary, n_layers=2, width=16, n_heads=2, feed_forward=32, dropout=0.1)


@pytest.fixture
def quick() -> dict:
    """Arguments of a short, quiet run in float32."""
    return {
        "accelerator": "cpu",
        "precision": "32-true",
        "token_budget": 512,
        "enable_progress_bar": False,
    }


@pytest.fixture
def toy():
    """Makers of vocabularies and cells, for tests that need more than one."""
    return make_vocabulary, make_cells
