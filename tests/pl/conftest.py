"""A perturbation made by hand, and what tests of pictures share."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.special import softmax

import scgeneformer as sg
from scgeneformer import evaluation
from scgeneformer.tl._evaluation._write import Evaluated, write_evaluation

LONG = ["HLA-DQA1-AS1", "MIR133A1HG", "RP11-532N4.2", "ENSG00000267882"]
N_OBS, N_VARS = 120, 40


@pytest.fixture(autouse=True)
def figures():
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture
def perturbed():
    """Genes deleted in the cells of state A: goal T, others B, 3 groups of cells, 2 sets, effects of the first 3 genes."""

    def make(*, goal: bool = True, others: bool = True, rank: bool = True) -> AnnData:
        rng = np.random.default_rng(0)
        group = rng.choice(["mono", "resident macrophage", "T/NK"], N_OBS)
        tested = rng.random((N_OBS, N_VARS)) < 0.6
        tested[:30] = False
        tested[:, -1] = False  # never perturbed
        tested[group == "T/NK", 2] = False
        rows, columns = np.nonzero(tested)
        strength = np.where(np.arange(N_VARS) < 16, np.tile([1, -1], 20) * np.linspace(2e-3, 6e-3, N_VARS), 0)

        def layer(factor: float) -> sparse.csr_matrix:
            values = factor * strength[columns] + rng.normal(0, 1e-3, len(rows))
            values[::50] = 0  # measured all the same
            return sparse.coo_matrix((values if goal else 1 - np.abs(values), (rows, columns)), tested.shape).tocsr()

        def sets(factor: float) -> pd.DataFrame:
            values = factor * np.array([2e-3, -4e-3]) + rng.normal(0, 1e-3, (N_OBS, 2))
            values[:30] = np.nan
            return pd.DataFrame(
                values if goal else 1 - np.abs(values), columns=["up|down", "sarcomere"], index=obs.index
            )

        obs = pd.DataFrame({"group": pd.Categorical(group)}, index=[f"cell{i}" for i in range(N_OBS)])
        symbols = LONG + [f"SYM{i}" for i in range(len(LONG), N_VARS)]
        var = pd.DataFrame({"gene_symbols": symbols}, index=[f"ENSG{i:011d}" for i in range(N_VARS)])
        adata = AnnData(np.zeros((N_OBS, N_VARS), dtype=np.float32), obs=obs, var=var)
        adata.obsm["X_umap"] = rng.normal(size=(N_OBS, 2))
        params = {"kind": "delete", "groupby": "state", "source": "A"}
        factors = {"": 1.0}
        if goal:
            params["target"] = "T"
            factors["_A"] = -0.8
            if others:
                params["others"] = np.array(["B"], dtype=object)
                factors["_B"] = 0.4
        for suffix, factor in factors.items():
            adata.layers[f"shift{suffix}"] = layer(factor)
            adata.obsm[f"shift_sets{suffix}"] = sets(factor)
            random = rng.normal(0, 1e-3, (N_OBS, 2 * 5))
            adata.obsm[f"shift_sets__random{suffix}"] = random if goal else 1 - np.abs(random)
        adata.uns["shift"] = {"params": params}
        effects = np.zeros((N_VARS, N_VARS))
        effects[:3] = 1 - rng.gamma(1, 3e-3, (3, N_VARS))
        effects[:3, 30:] = 0
        numbers = np.where(effects != 0, rng.integers(1, 90, effects.shape), 0)
        for name, values in {"": effects, "_n": numbers, "_sd": np.where(effects != 0, 1e-3, 0)}.items():
            adata.varp[f"shift{name}"] = sparse.csr_matrix(values)
        of_sets = pd.DataFrame({"sarcomere": 1 - rng.gamma(1, 3e-3, N_VARS)}, index=var.index)
        for name, values in {"": of_sets, "_n": of_sets * 0 + 50, "_sd": of_sets * 0}.items():
            adata.varm[f"shift_sets{name}"] = values.astype(np.int64) if name == "_n" else values
        if rank:
            sg.tl.rank_shifts(adata)
        return adata

    return make


@pytest.fixture
def centred():
    """Shifts minus the mean shift of other genes in the cell, by a loop."""

    def center(adata: AnnData) -> AnnData:
        adata = adata.copy()
        for name in [x for x in adata.layers if x is not None and "__reference" not in x]:
            layer = adata.layers[name].tolil()
            reference = name.replace("shift", "shift__reference")
            base = adata.layers[reference if reference in adata.layers else name].tocsr()
            for cell, values in enumerate(layer.data):
                layer.data[cell] = [value - base[cell].data.mean() for value in values]
            adata.layers[name] = layer.tocsr()
        for name in [x for x in adata.obsm if x.startswith("shift_sets") and "__random" not in x]:
            random = adata.obsm[name.replace("shift_sets", "shift_sets__random")].reshape(adata.n_obs, 2, -1)
            adata.obsm[name] = adata.obsm[name] - random.mean(axis=2)
        return adata

    return center


@pytest.fixture
def evaluated():
    """Cells of `classes`, 80 of them evaluated by a model and two worse baselines; some cells have no label."""

    def make(classes=("B", "T"), *, kind: str = "categorical", n: int = 400, baselines=("probe", "hvg")) -> AnnData:
        rng = np.random.default_rng(0)
        codes = rng.integers(0, len(classes), n)
        codes[: len(classes)] = np.arange(len(classes))
        codes[-8:] = -1
        labelled = rng.permutation(n - 8)
        split = evaluation.Split(labelled[160:], labelled[80:160], labelled[:80])
        if kind == "continuous":
            label, told = rng.normal(size=n), lambda noise: label[split.test] + noise * rng.normal(size=80)
        else:
            label = pd.Categorical.from_codes(codes, list(classes))
            hot = np.eye(len(classes))[codes[split.test]]
            told = lambda noise: softmax(2.5 * hot / noise + rng.normal(size=hot.shape), axis=1)
        adata = AnnData(obs=pd.DataFrame({"cell type": label}, index=[f"cell{i}" for i in range(n)]))
        truth = label if kind == "continuous" else codes
        found = Evaluated(
            label="cell type",
            kind=kind,
            classes=() if kind == "continuous" else tuple(classes),
            split=split,
            rows=split.test,
            truth=truth[split.test],
            training=truth[split.train],
            answers={name: told(noise) for name, noise in zip(("", *baselines), (1, 1.3, 1.8), strict=False)},
            name="fine-tuned",
        )
        write_evaluation(adata, "evaluation", found, n_bootstrap=0, rng=0)
        return adata

    return make


@pytest.fixture
def assert_apart():
    """Check that texts cover each other nowhere and lie within the figure, as drawn."""

    def check(figure, texts, *, within: bool = True) -> None:
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in texts]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            if within:
                assert box.x0 >= 0
                assert box.y0 >= 0
                assert box.x1 <= figure.bbox.x1
                assert box.y1 <= figure.bbox.y1

    return check
