"""States, genes, sets, groups, cells and centroids that make no sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = {"groupby": "state", "source": "sick", "target": "well"}
GENE, OTHER_GENE = "ENSG00000000001", "ENSG00000000002"


def _case(verb: str, name: str, **options: object) -> Case:
    adata = world.tokenized()
    call = getattr(sg.tl, verb)
    given = {"max_cells": 2} | STATES | options
    return Case(f"{verb}, {name}", lambda: call(adata, world.model(), **given), adata)


BAD: dict[str, tuple[object, ...]] = {
    "groupby": ("none", "", 3, ["state"], "age", None),
    "source": ("none", "", 3, None, ["sick"], np.nan, "well"),
    "target": ("none", "", 3, ["well"], np.nan, "sick"),
    "others": ("well", ["none"], [3], ["sick"], 5),
    "within": ("none", "", 3, "state", ["donor"]),
    "kind": ("remove", "", None, 3, ["delete"]),
    "quartiles": (0, 4, -1, 1.5, "1", True),
    "ranks": (0, -1, 1.5, "1"),
    "positions": ("moved", "", None, 3),
    "n_reference": (-1, 1.5, "1", None),
    "centroids": ("mode", "", None, 3, {}, {"well": np.zeros(16)}, {"sick": np.zeros(3), "well": np.zeros(3)}),
    "max_state_cells": (0, -1, 1.5, "1", 1),
    "cells": ("none > 3", "state ==", "", ["none"], [True], np.zeros(24, bool), 5, "@__import__('os').getcwd() == ''"),
    "max_cells": (0, -1, 1.5, "1"),
    "missing": ("drop", "", None, 3),
    "pooling": ("max", "", 3, ["mean"]),
    "emb_layer": (1, -9, 0.5, "last", True),
    "tokens_key": ("none", "", 3, None),
    "key_added": ("", "a/b", None, 3),
    "rng": ("x", -1, 1.5),
    "mod": (3, None),
    "copy": ("yes", 1),
}
GENES: tuple[object, ...] = ("none", [], ["none"], [3], [None], [np.nan], [GENE, "none"], 5, {GENE: 1}, [[GENE]])
SETS: tuple[object, ...] = (
    {},
    {"a": []},
    {"a": ["none"]},
    {"a": [3]},
    [GENE],
    "none",
    5,
    {"a/b": [GENE], "a|b": [OTHER_GENE]},
)
MODELS: tuple[object, ...] = ("none", "", 3, object(), [GENE], {}, "/", b"default", np.zeros(3))


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 300 of them."""
    for verb in ("perturb", "screen", "perturb_sets"):
        sets = {"sets": {"a": [GENE, OTHER_GENE]}} if verb == "perturb_sets" else {}
        for name, values in BAD.items():
            if (verb, name) in (("perturb_sets", "n_reference"), ("screen", "positions")):
                continue
            for value in values:
                if name == "source" and value is None:
                    continue  # all cells, towards the target
                if (name, value) == ("groupby", None):
                    yield _case(verb, "states without groupby", **sets, groupby=None)
                    continue
                yield _case(verb, f"{name}={value!r}", **sets, **{name: value})
        for model in MODELS:
            adata = world.tokenized()
            call = getattr(sg.tl, verb)
            yield Case(
                f"{verb}, model={model!r}",
                lambda a=adata, m=model, c=call, s=sets: c(a, m, **s, **STATES, max_cells=2),
                adata,
            )
    for verb in ("perturb", "screen"):
        for genes in GENES:
            yield _case(verb, f"genes={genes!r}", genes=genes)
    for sets in SETS:
        yield _case("perturb_sets", f"sets={sets!r}", sets=sets)
    for anchor in ("none", ["a", "b"], 3, [GENE, OTHER_GENE], np.nan):
        yield _case("perturb_sets", f"anchor={anchor!r}", anchor=anchor)
    for name, values in {"refine": (-1, 1.5, "1", None), "genes": (3, "all")}.items():
        for value in values:
            yield _case("screen", f"{name}={value!r}", **{name: value})
    for damage in ("all of one state", "missing labels", "numbers"):
        adata = world.tokenized()
        if damage == "all of one state":
            adata.obs["state"] = "sick"
        elif damage == "missing labels":
            adata.obs["state"] = np.nan
        else:
            adata.obs["state"] = rng.integers(0, 2, adata.n_obs)
        yield Case(damage, lambda a=adata: sg.tl.perturb(a, world.model(), **STATES, max_cells=2), adata)
