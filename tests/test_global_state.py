"""Calls leave the global state unchanged, can run in parallel, and give the same results with more threads."""

from __future__ import annotations

import gc
import random
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import torch

import scgeneformer as sg

from .hostile import world

STATES = {"groupby": "state", "source": "sick", "target": "well", "max_cells": 4}
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def trained(adata):
    sg.model.CellClassifier.setup_anndata(adata, "state")
    model = sg.model.CellClassifier(adata, world.model(), head="bert", dropout=0.1)
    model.train(1, recipe="plain", **QUIET)
    return model


def ranked(adata):
    sg.tl.perturb(adata, world.model(), **STATES)
    sg.tl.rank_shifts(adata, min_cells=1)
    return adata


def drawn(adata):
    sg.pl.shift(ranked(adata), show=False)
    plt.close("all")


CALLS = {
    "tokenize": lambda adata: sg.pp.tokenize(world.cells(), world.model()),
    "embed": lambda adata: sg.tl.embed(adata, world.model(), genes=True),
    "perturb": lambda adata: sg.tl.perturb(adata, world.model(), **STATES),
    "screen": lambda adata: sg.tl.screen(adata, world.model(), allow_poor=True, **STATES),
    "perturb_sets": lambda adata: sg.tl.perturb_sets(adata, world.model(), [adata.var_names[:2]], **STATES),
    "rank_shifts": ranked,
    "plot": drawn,
    "train": trained,
    "evaluate": lambda adata: sg.tl.evaluate(adata, trained(adata), baselines=["probe"], n_bootstrap=5),
    "annotate": lambda adata: sg.tl.annotate(world.tokenized(), trained(adata)),
    "failing": lambda adata: pytest.raises(ValueError, sg.tl.embed, adata, world.model(), pooling="cls", emb_layer=-99),
}


def state():
    """The global state of the process."""
    numbers = np.random.get_state()  # noqa: NPY002 - the legacy state is what must not move
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numbers[0], numbers[1].tolist(), *numbers[2:]),
        "python": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
        "matplotlib": dict(mpl.rcParams),
        "figures": plt.get_fignums(),
        "scanpy": (sc.settings.verbosity, str(sc.settings.figdir), sc.settings.autoshow),
        "filters": list(warnings.filters),
        "settings": dict(vars(sg.settings)),
        "errors": np.geterr(),
    }


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_what_is_global(name):
    adata = world.tokenized()
    CALLS[name](world.tokenized())  # what is loaded on first use is loaded
    with warnings.catch_warnings():
        before = state()
        CALLS[name](adata)
        after = state()
    assert [key for key in before if before[key] != after[key]] == []


def test_threads_run_beside_each_other():
    alone = world.tokenized()
    sg.tl.embed(alone, world.model())
    sg.tl.perturb(alone, world.model(), **STATES)

    def both(_):
        adata = world.tokenized()
        sg.tl.embed(adata, world.model())
        sg.tl.perturb(adata, world.model(), **STATES)
        return adata

    with ThreadPoolExecutor(4) as pool:
        for adata in pool.map(both, range(8)):
            np.testing.assert_array_equal(adata.obsm["X_geneformer"], alone.obsm["X_geneformer"])
            np.testing.assert_array_equal(adata.layers["shift"].data, alone.layers["shift"].data)


def test_more_threads_give_the_same_to_rounding():
    before, found = torch.get_num_threads(), {}
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            adata = world.tokenized()
            sg.tl.embed(adata, world.model())
            sg.tl.perturb(adata, world.model(), **STATES)
            found[n] = adata
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[1].obsm["X_geneformer"], found[2].obsm["X_geneformer"], atol=1e-5)
    np.testing.assert_allclose(found[1].layers["shift"].data, found[2].layers["shift"].data, atol=1e-6)


@pytest.mark.parametrize("name", ["tokenize", "embed", "perturb", "screen"])
def test_repeated_calls_do_not_grow_memory(name):
    adata = world.tokenized()
    for _ in range(5):
        CALLS[name](adata)
    tracemalloc.start()
    try:
        CALLS[name](adata)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            CALLS[name](adata)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 500_000  # bytes of 20 calls, each of which makes more than that
