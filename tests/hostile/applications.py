"""Networks, integration, axes of states, gene sets and likelihoods, with impossible arguments and slots."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad

EDGES = pd.DataFrame({"source": ["ENSG00000000001"], "target": ["ENSG00000000002"]})
SETS = {"a": [f"ENSG{i:011d}" for i in range(6)]}
COMMON: dict[str, tuple[object, ...]] = {"key_added": ("", "a/b", 3), "mod": (3, None), "copy": ("yes", 1)}
# a verb, how it is called rightly, and what it cannot be given
ARGUMENTS: dict[str, tuple[Callable[..., object], dict[str, object], dict[str, tuple[object, ...]]]] = {
    "network": (
        sg.tl.network,
        {"model": world.folder, "min_cells": 2},
        {
            "model": (3, "nowhere", ["a"]),
            "score": ("mean", None, 3),
            "genes": ("none", [], ["none"], 3),
            "tfs": ("none", ["none"], 3),
            "edges": (3, "file.csv", EDGES[["source"]], EDGES.iloc[:0], EDGES.assign(target="none"), {"a": "b"}),
            "groupby": ("none", 3),
            "max_cells": (0, -1, 1.5),
            "min_cells": (0, 1000, "2"),
            "layers": ([], [1], [-9], "0"),
            "heads": ([], [-1], [9]),
            "emb_layer": (0,),  # of the attention there are `layers`
            "tokens_key": ("none", 3),
        },
    ),
    "integrate": (
        sg.tl.integrate,
        {"batch_key": "donor", "method": "center"},
        {
            "batch_key": ("none", "one", 3),
            "method": ("combat", None, 3),
            "use_rep": ("none", "geneformer_tokens ", 3),
            "label_key": ("none", 3),
            "condition_key": ("none", 3),
            "n_neighbors": (0, -1),
        },
    ),
    "compare_embeddings": (
        sg.tl.compare_embeddings,
        {"batch_key": "donor", "label_key": "state", "baselines": ()},
        {
            "batch_key": ("none", "one", 3),
            "label_key": ("none", "one", 3),
            "use_reps": (["none"], 3),
            "baselines": (["none"], 3),
        },
    ),
    "state_score": (
        sg.tl.state_score,
        {"groupby": "state", "source": "sick", "target": "well"},
        {
            "groupby": ("none", 3),
            "source": ("none", "well", None),
            "target": ("none", "sick", None),
            "donor": ("none", "state", 3),
            "use_rep": ("none", 3),
            "layer": ("none", 3),
            "n_bootstrap": (-1, 1.5),
        },
    ),
    "score_sets": (
        sg.tl.score_sets,
        {"sets": SETS},
        {
            "sets": (
                {},
                {"a": "ENSG"},
                {"a": []},
                EDGES[["source"]],
                "none.gmt",
                3,
                {"a/b": SETS["a"], "a|b": SETS["a"]},
            ),
            "embedding": ("none", "", 3),
            "min_genes": (100, "5"),
            "n_random": (-1, 1.5),
            "tokens_key": ("none", 3),
        },
    ),
    "likelihood": (
        sg.tl.likelihood,
        {"model": world.folder},
        {"model": (3, "nowhere", world.folder), "n_passes": (0, -1, 1.5), "tokens_key": ("none", 3)},
    ),
    "complete": (
        sg.tl.complete,
        {"model": world.folder, "n_genes": 5},
        {"model": (3, "nowhere", world.folder), "n_genes": (0, -1, 1.5), "top_k": (0, -1), "tokens_key": ("none", 3)},
    ),
    "perturb_sets": (
        sg.tl.perturb_sets,
        {"model": world.folder, "sets": SETS},
        {"sets": ("none.gmt", EDGES[["source"]], EDGES.iloc[:0]), "outputs": ("age", [], 3)},
    ),
}


@cache
def _cells() -> ad.AnnData:
    adata = world.tokenized()
    sg.tl.embed(adata, world.folder(), genes=True, pooling="mean")
    adata.obs["one"] = "a"
    return adata


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 130 of them."""
    for verb, (function, right, wrong) in ARGUMENTS.items():
        for name, values in (wrong | COMMON).items():
            for value in values:
                adata = _cells().copy()
                given = {key: v() if v is world.folder else v for key, v in (right | {name: value}).items()}
                yield Case(f"{verb}, {name}={value!r}", lambda f=function, a=adata, g=given: f(a, **g), adata)
    for name, change in _damages(rng).items():
        for verb in ("integrate", "state_score", "score_sets"):
            adata = _cells().copy()
            change(adata)
            function, right, _ = ARGUMENTS[verb]
            yield Case(f"{verb}, {name}", lambda f=function, a=adata, g=right: f(a, **g), adata)


def _damages(rng: np.random.Generator) -> dict[str, Callable[[ad.AnnData], None]]:
    def of_slot(value: np.ndarray) -> Callable[[ad.AnnData], None]:
        def change(adata: ad.AnnData) -> None:
            adata.obsm["X_geneformer"] = value

        return change

    n = world.N_CELLS
    return {
        "embedding of NaN": of_slot(np.full((n, 16), np.nan)),
        "embedding of text": of_slot(rng.normal(size=(n, 16)).astype(str)),
        "embedding of infinite numbers": of_slot(np.full((n, 16), np.inf)),
    }
