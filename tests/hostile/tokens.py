"""Tokens that were changed after tokenizing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import scgeneformer as sg

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "geneformer_tokens"


def _embed(adata: object) -> object:
    return sg.tl.embed(adata, world.model())


def _embed_genes(adata: object) -> object:
    return sg.tl.embed(adata, world.model(), genes=True)


def _perturb(adata: object) -> object:
    return sg.tl.perturb(adata, world.model(), groupby="state", source="sick", target="well", max_cells=2)


def _screen(adata: object) -> object:
    return sg.tl.screen(adata, world.model(), groupby="state", source="sick", target="well", max_cells=2)


def _classifier(adata: object) -> object:
    sg.model.CellClassifier.setup_anndata(adata, "state")
    return sg.model.CellClassifier(adata, world.model()).train(recipe="probe")


VERBS: tuple[Callable[[object], object], ...] = (_embed, _embed_genes, _perturb, _screen, _classifier)


def _changes(tokens: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, object]]:
    """Names and damaged matrices."""
    n, width = tokens.shape
    long = int(np.argmax((tokens > 0).sum(1)))
    length = int((tokens[long] > 0).sum())
    for dtype in (np.float32, np.float64, bool, "U5", object, np.complex64):
        yield f"dtype {np.dtype(dtype)}", tokens.astype(dtype)
    yield "reversed rows", tokens[:, ::-1].copy()
    yield "padding first", np.roll(tokens, 3, axis=1)
    yield "cut", tokens[:, : length // 2].copy()
    yield "one dimension", tokens.ravel()[:n].copy()
    yield "three dimensions", tokens[:, :, None].copy()
    for value in (60_000, len(world.vocabulary()), 65_535):
        x = tokens.copy()
        x[rng.integers(n), rng.integers(1, 4)] = value
        yield f"token {value}", x
    for name, value in (("gap", 0), ("<mask> inside", 1), ("second <cls>", 2), ("early <eos>", 3)):
        for _ in range(2):
            x = tokens.copy()
            x[long, rng.integers(2, length - 2)] = value
            yield name, x
    x = tokens.copy()
    x[long, 2] = x[long, 3]
    yield "a gene twice", x
    x = tokens.copy()
    x[:, 0] = 5
    yield "no <cls>", x
    x = tokens.astype(np.int64)
    x[long, 2] = -4
    yield "negative token", x
    yield "data frame", pd.DataFrame(tokens, index=[f"cell{i}" for i in range(n)], columns=map(str, range(width)))


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 150 of them."""
    tokens = np.asarray(world.tokenized().obsm[KEY])
    for verb in VERBS:
        for name, damaged in _changes(tokens, rng):
            adata = world.tokenized()
            try:
                adata.obsm[KEY] = damaged
            except ValueError:  # AnnData does not take it
                continue
            data = None if verb is _classifier else adata  # scvi-tools notes its setup in `uns`
            yield Case(f"{name}, {verb.__name__[1:]}", lambda a=adata, v=verb: v(a), data)
        for name, change in _slots().items():
            adata = world.tokenized()
            change(adata)
            data = None if verb is _classifier else adata
            yield Case(f"{name}, {verb.__name__[1:]}", lambda a=adata, v=verb: v(a), data)
    for column in (["a"] * 30, [0.5] * 30, [True] * 30, [10**6] * 30, [-7] * 30, [np.nan] * 30):
        adata = world.tokenized()
        adata.var["token_id"] = column
        yield Case(f"token_id of {column[0]!r}", lambda a=adata: _embed_genes(a), adata)


def _slots() -> dict[str, Callable[[object], object]]:
    def set_lengths(values: object) -> Callable[[object], object]:
        return lambda adata: adata.obs.__setitem__("n_tokens", values)

    def other_vocabulary(adata: object) -> None:
        adata.obs["token_vocabulary"] = pd.Categorical(["other:abc"] * adata.n_obs)

    def half_vocabulary(adata: object) -> None:
        column = adata.obs["token_vocabulary"].astype(object)
        column.iloc[::2] = np.nan
        adata.obs["token_vocabulary"] = column

    return {
        "no tokens": lambda adata: adata.obsm.__delitem__(KEY),
        "lengths too small": set_lengths(3),
        "lengths too large": set_lengths(64),
        "lengths of text": set_lengths("x"),
        "lengths missing": set_lengths(np.nan),
        "another vocabulary": other_vocabulary,
        "half without vocabulary": half_vocabulary,
    }
