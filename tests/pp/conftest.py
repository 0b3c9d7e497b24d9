from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg

N_OBS, N_VARS = 40, 90


@pytest.fixture(scope="session")
def vocabulary() -> sg.Vocabulary:
    rng = np.random.default_rng(0)
    ids = np.array(["<pad>", "<mask>", "<cls>", "<eos>", *(f"ENSG{i:011d}" for i in range(100))])
    aliases = {f"SYM{i}": f"ENSG{i:011d}" for i in range(100)}
    symbols = np.array(["", "", "", "", *(f"Sym{i}" for i in range(100))])
    return sg.Vocabulary("own", ids, np.r_[[np.nan] * 4, rng.lognormal(0, 1, 100)], 80, aliases, symbols)


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(1)
    X = rng.poisson(rng.lognormal(2, 1.5, N_VARS), (N_OBS, N_VARS)).astype(np.float32)
    names = [f"Sym{i}" for i in range(80)] + [f"other{i}" for i in range(10)]
    return ad.AnnData(
        sparse.csr_matrix(X),
        obs=pd.DataFrame({"n_counts": X.sum(axis=1) + 1}, index=[f"cell{i}" for i in range(N_OBS)]),
        var=pd.DataFrame({"kind": "gene"}, index=names),
    )
