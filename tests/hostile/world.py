"""A small set of valid inputs to damage: cells, a vocabulary, a random model in a folder."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import scgeneformer as sg

N_CELLS, N_GENES = 24, 30


def counts() -> np.ndarray:
    """Raw counts, float32 (24, 30)."""
    return np.random.default_rng(0).poisson(2.0, (N_CELLS, N_GENES)).astype(np.float32)


def cells(X: object = None) -> ad.AnnData:
    """Cells of two states and two donors, not tokenized."""
    rng = np.random.default_rng(1)
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(N_GENES)])
    obs = pd.DataFrame(
        {
            "state": pd.Categorical(np.tile(["sick", "well"], N_CELLS // 2)),
            "donor": pd.Categorical(np.repeat(["a", "b", "c", "d"], N_CELLS // 4)),
            "age": rng.normal(size=N_CELLS),
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    return ad.AnnData(sparse.csr_matrix(counts()) if X is None else X, obs=obs, var=var)


@cache
def vocabulary() -> sg.Vocabulary:
    """Of 28 of the genes."""
    return sg.Vocabulary.from_adata(cells()[:, :28].copy(), name="small", max_length=64, special_tokens=True)


@cache
def folder() -> Path:
    """A model in a folder."""
    place = Path(tempfile.mkdtemp(prefix="hostile-")) / "model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24, "max_length": 64}
        encoder = sg.nn.Encoder(sg.nn.EncoderConfig(vocab_size=len(vocabulary()), **shape))
        with torch.no_grad():
            for p in encoder.parameters():
                p.add_(0.3 * torch.randn_like(p))
    sg.nn.save_checkpoint(place, encoder)
    vocabulary().save(place / "vocabulary.json")
    return place


@cache
def model() -> sg.hub.Pretrained:
    """The same, loaded."""
    return sg.hub.load(folder())


@cache
def _tokenized() -> ad.AnnData:
    adata = cells()
    sg.pp.tokenize(adata, model())
    return adata


def tokenized() -> ad.AnnData:
    """Tokenized cells, which may be damaged."""
    return _tokenized().copy()


@cache
def _shifted() -> ad.AnnData:
    adata = tokenized()
    sg.tl.perturb(adata, model(), groupby="state", source="sick", target="well")
    return adata


def shifted() -> ad.AnnData:
    """Perturbed cells, which may be damaged."""
    return _shifted().copy()
