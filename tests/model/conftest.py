"""A small corpus of four cell types, whose genes have a fixed order, so that a model can learn it."""

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
    """Cells of 5 to 30 consecutive genes of the vocabulary, from one of four starts."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((n, width), dtype=np.uint16)
    for row in tokens:
        genes = 4 + (10 * rng.integers(4) + np.arange(rng.integers(5, 30))) % N_GENES
        row[: len(genes) + 2] = [2, *genes, 3]
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]), obsm={KEY: tokens})
    adata.uns[KEY] = {"params": {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}}
    return adata


@pytest.fixture(autouse=True)
def one_thread():
    """One thread, because threads slow down networks this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def ranked(vocabulary: Vocabulary) -> ad.AnnData:
    """Cells in which genes 0 to 11 come early, 12 to 23 late, and 26 to 39 between; 24 and 25 are in no cell."""
    from scgeneformer.model import GeneClassifier

    rng = np.random.default_rng(0)
    tokens = np.zeros((48, 64), dtype=np.uint16)
    for row in tokens:
        early, late = (first + rng.permutation(12)[: rng.integers(7, 11)] for first in (4, 16))
        genes = [*early, *(30 + rng.permutation(14)[:10]), *late]
        row[: len(genes) + 2] = [2, *genes, 3]
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(48)]), obsm={KEY: tokens})
    adata.uns[KEY] = {"params": {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}}
    GeneClassifier.setup_anndata(adata)
    return adata


@pytest.fixture
def start(vocabulary: Vocabulary):
    """A small model to start classifiers from."""
    import torch

    from scgeneformer.model import Geneformer

    torch.manual_seed(0)
    return Geneformer(vocabulary=vocabulary, n_layers=1, width=16, n_heads=2, feed_forward=16, dropout=0.0)


@pytest.fixture
def decoder(vocabulary: Vocabulary):
    """A small decoder to start classifiers from."""
    import torch

    from scgeneformer import hub, nn

    torch.manual_seed(0)
    scaling = nn.RopeScaling(factor=2.0, original_length=32)
    shape = {"n_layers": 1, "width": 16, "n_heads": 2, "n_kv_heads": 1, "head_width": 8, "feed_forward": 16}
    config = nn.LlamaConfig(len(vocabulary), max_length=vocabulary.max_length, rope_scaling=scaling, **shape)
    return hub.Pretrained("decoder", vocabulary, model=nn.NextGeneModel(config).eval())


@pytest.fixture
def valued(vocabulary: Vocabulary):
    """A small model that reads values to start classifiers from, and what turns ranked cells into cells for it."""
    import torch

    from scgeneformer import hub, nn

    genes = vocabulary.ids[vocabulary.n_special :]
    ids = np.array(["<pad>", "<mask>", "<cls>", *genes])
    words = Vocabulary("values", ids, np.r_[[np.nan] * 3, np.ones(len(genes))], 64, values=True)
    torch.manual_seed(0)
    config = nn.CellFMConfig(len(ids), n_layers=1, width=16, n_heads=2, n_bins=4, max_length=64, dropout=0.0)

    def with_values(cells: ad.AnnData) -> None:
        """Without <eos>, genes one token lower, and values that fall with the rank."""
        if f"{KEY}_values" in cells.obsm:
            return
        tokens = cells.obsm[KEY].astype(int)
        tokens = np.where(tokens > 3, tokens - 1, np.where(tokens == 2, 2, 0)).astype(np.uint16)
        cells.obsm[KEY] = tokens
        cells.obsm[f"{KEY}_values"] = np.where(tokens > 0, 6 / np.sqrt(1 + np.arange(tokens.shape[1])), 0).astype(
            np.float32
        )
        cells.uns[KEY] = {"params": {"vocabulary": words.name, "vocabulary_hash": words.hash}}

    return hub.Pretrained("values", words, model=nn.CellFM(config).eval()), with_values
