"""Results that were changed before they are ranked, read or drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scipy import sparse


def _rank(adata: object, **options: object) -> object:
    return sg.tl.rank_shifts(adata, **options)


RANK: dict[str, tuple[object, ...]] = {
    "key": ("none", "", 3, None),
    "test": ("t", "", 3, "mixture", "interaction", "vs_null", "donors", "permuted_labels"),
    "centered": ("yes", 2),
    "compat": ("officially", "", 3),
    "donor": ("none", "", 3),
    "null": ("none", 3, ""),
    "singles": ("none", 3),
    "n_matched": (0, -1, 1.5, "1"),
    "n_permutations": (0, 5, 1.5, "1"),
    "min_cells": (0, -1, 1.5, "1"),
    "rng": ("x", -1),
    "mod": (3, None),
    "copy": ("yes", 1),
}
SHIFTS: dict[str, tuple[object, ...]] = {
    "key": ("none", "", 3, None),
    "state": ("none", 3, ""),
    "group": ("none", 3),
    "n_top": (-1, 1.5, "1"),
    "gene_symbols": ("none", 3),
    "sets": ("yes", True),
    "mod": (3, None),
}
PLOT: dict[str, tuple[object, ...]] = {
    "kind": ("bar", "", None, 3),
    "key": ("none", "", 3, None),
    "state": ("none", 3),
    "n_top": (-1, 1.5, "1"),
    "max_fdr": (-1, 2, "x"),
    "gene_symbols": ("none", 3),
    "ax": ("axes", 3),
}


def _ranked() -> object:
    adata = world.shifted()
    sg.tl.rank_shifts(adata, min_cells=2)
    return adata


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 120 of them."""
    for name, values in RANK.items():
        for value in values:
            adata = world.shifted()
            yield Case(f"rank_shifts, {name}={value!r}", lambda a=adata, n=name, v=value: _rank(a, **{n: v}), adata)
    for name, change in _damages(rng).items():
        adata = world.shifted()
        change(adata)
        yield Case(f"rank_shifts, {name}", lambda a=adata: _rank(a), adata)
    ranked = _ranked()
    for name, values in SHIFTS.items():
        for value in values:
            yield Case(f"get.shifts, {name}={value!r}", lambda n=name, v=value: sg.get.shifts(ranked, **{n: v}), ranked)
    for name, values in PLOT.items():
        for value in values:
            yield Case(f"pl.shift, {name}={value!r}", lambda n=name, v=value: _drawn(ranked, **{n: v}), ranked)
    for read in (sg.get.shifts, sg.get.evaluation, sg.get.cell_shifts):
        bare = world.tokenized()
        yield Case(f"{read.__name__} of nothing", lambda r=read, a=bare: r(a), bare)
    bare = world.tokenized()
    yield Case("effects of nothing", lambda: sg.get.effects(bare, bare.var_names[0]), bare)
    yield Case("effects of nothing, drawn", lambda: sg.pl.effects(bare, bare.var_names[0], show=False), bare)
    for draw in (sg.pl.shift, sg.pl.shift_heatmap, sg.pl.confusion, sg.pl.roc, sg.pl.calibration):
        bare = world.tokenized()
        yield Case(f"{draw.__name__} of nothing", lambda d=draw, a=bare: d(a, show=False), bare)


def _drawn(adata: object, **options: object) -> object:
    before = plt.get_fignums()
    try:
        return sg.pl.shift(adata, **({"show": False} | options))
    finally:
        assert plt.get_fignums() == before or "ax" not in options
        plt.close("all")


def _damages(rng: np.random.Generator) -> dict[str, Callable[[object], object]]:
    def layer(make: Callable[[sparse.csr_matrix], object]) -> Callable[[object], object]:
        return lambda adata: adata.layers.__setitem__("shift", make(adata.layers["shift"]))

    def infinite(x: sparse.csr_matrix) -> sparse.csr_matrix:
        x.data[rng.integers(len(x.data))] = np.inf
        return x

    return {
        "a dense layer": layer(lambda x: x.toarray()),
        "a layer of text": layer(lambda x: pd.DataFrame(x.toarray()).astype(str).to_numpy()),
        "infinite shifts": layer(infinite),
        "no layer": lambda adata: adata.layers.__delitem__("shift"),
        "no parameters": lambda adata: adata.uns.__delitem__("shift"),
        "parameters of text": lambda adata: adata.uns.__setitem__("shift", "text"),
        "a column of the user's": lambda adata: adata.varm.__setitem__("shift", np.zeros((adata.n_vars, 2))),
    }
