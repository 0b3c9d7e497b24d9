"""States of cells, and their centroids in an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tl._model_inputs import ModelInputs

    from ._options import PerturbOptions

    Centroids = Literal["mean", "median"] | Mapping[str, Any]


def named_states(data: AnnData | MuData, options: PerturbOptions, mod: str = "rna") -> PerturbOptions:
    """`options` in which states are named by text, whatever stands in the column `groupby`.

    A state is a value of the column. Given as text, it may also be the text of one, as from a command line.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a state is a missing value.
    """
    column = None if options.groupby is None else pd.Categorical(keys.obs_column(data, options.groupby, mod))
    values = [] if column is None else list(column.categories)

    def name(state: Any) -> str:
        if pd.isna(state):
            msg = f"A missing value ({state!r}) is not a state. Name states that occur in .obs[{options.groupby!r}]."
            raise ValueError(msg)
        is_bool = isinstance(state, bool)
        return next(
            (str(value) for value in values if isinstance(value, bool) == is_bool and value == state), str(state)
        )

    given = options.centroids
    if isinstance(given, Mapping):
        given = {name(key): value for key, value in given.items()}
        given = {k: {name(s): v for s, v in of.items()} if isinstance(of, Mapping) else of for k, of in given.items()}
    source, target = (None if state is None else name(state) for state in (options.source, options.target))
    others = [name(state) for state in options.other_states]
    return replace(options, source=source, target=target, others=others, centroids=given)


def state_members(
    data: AnnData | MuData,
    groupby: str | None,
    source: str | None,
    target: str | None,
    others: Sequence[str],
    *,
    centroids: Centroids = "mean",
    mod: str = "rna",
) -> dict[str, np.ndarray]:
    """Indices of the cells of each named state: the target first, then the source and the others.

    States whose centroids are given need no cells, except the source, which is perturbed.

    Raises
    ------
    KeyError
        If there is no column `groupby`.
    ValueError
        If a state is named twice or lacks cells, or if the arguments contradict each other.
    """
    named = [state for state in (target, source, *others) if state is not None]
    if not named:
        if groupby is not None:
            msg = f"groupby={groupby!r} needs a `source` to perturb, a `target` to measure towards, or both."
            raise ValueError(msg)
        return {}
    given = isinstance(centroids, Mapping)
    if groupby is None and not (given and source is None):
        msg = f"States {named} need `groupby`, the column of .obs that holds them."
        raise ValueError(msg)
    if others and target is None:
        msg = "`others` are states beside a `target`: name a target."
        raise ValueError(msg)
    if len(keys.slot_names(named, "States")) < len(named):
        msg = f"States {named} name one state twice."
        raise ValueError(msg)
    reserved = [name for name in named[1:] if f"{name}_".startswith(keys.RESERVED_STATES)]
    if target is not None and reserved:
        msg = f"Slots of states {reserved} would have the names of other results of the run. Rename them in .obs[{groupby!r}]."
        raise ValueError(msg)
    if groupby is None:
        return {state: np.empty(0, dtype=np.int64) for state in named}
    labels = pd.Categorical(keys.obs_column(data, groupby, mod)).remove_unused_categories()
    names = labels.categories.map(str)
    members = {state: np.flatnonzero(np.isin(labels.codes, np.flatnonzero(names == state))) for state in named}
    missing = [state for state, rows in members.items() if len(rows) == 0 and (state == source or not given)]
    if missing:
        values = ", ".join(map(repr, sorted(names)[:20]))
        msg = f"No cell has .obs[{groupby!r}] equal to {', '.join(map(repr, missing))}. It holds {values}."
        raise ValueError(msg)
    return members


def groups_of(data: AnnData | MuData, within: str | None, mod: str = "rna") -> dict[str | None, np.ndarray]:
    """Indices of the cells of each group in ``.obs[within]``, in the order of its categories; of all cells under None without `within`.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If no cell has a group, or two groups would have slots of the same name.
    """
    if within is None:
        return {None: np.arange(keys.as_adata(data, mod).n_obs)}
    labels = pd.Categorical(keys.obs_column(data, within, mod)).remove_unused_categories()
    names = [str(name) for name in labels.categories]
    if not names:
        msg = f"No cell has a group in .obs[{within!r}]."
        raise ValueError(msg)
    keys.slot_names(names, f"Groups in .obs[{within!r}],")
    return {name: np.flatnonzero(labels.codes == code) for code, name in enumerate(names)}


def check_centroids(members: dict[str, np.ndarray], centroids: Centroids, width: int) -> None:
    """Refuse centroids that are not defined, before anything is computed."""
    if not isinstance(centroids, Mapping):
        alone = [state for state, rows in members.items() if len(rows) == 1]
        if alone:
            msg = f"States {alone} have a single cell each, which is not a centroid. Pass one in `centroids`."
            raise ValueError(msg)
        return
    for state in members:
        if state not in centroids:
            msg = f"`centroids` has no centroid of {state!r}; it has {list(centroids)}."
            raise ValueError(msg)
        vector = np.asarray(centroids[state], dtype=np.float64)
        if vector.shape != (width,) or not np.isfinite(vector).all() or not vector.any():
            msg = f"centroids[{state!r}] must be {width} finite numbers, the width of the model, and not all 0."
            raise ValueError(msg)


def draw_members(
    members: dict[str, np.ndarray], max_cells: int | None, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """At most `max_cells` cells of each state, in their order."""
    if max_cells is None:
        return members
    return {
        state: rows if len(rows) <= max_cells else np.sort(rng.choice(rows, max_cells, replace=False))
        for state, rows in members.items()
    }


def embed_states(inputs: ModelInputs, members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings of the cells of each state, float64 (n, H), NaN for cells without tokens.

    Raises
    ------
    ValueError
        If no cell of a state has a gene of the vocabulary.
    """
    from scgeneformer import engine

    embedded = {}
    for state, rows in members.items():
        tokens = np.asarray(inputs.tokens[rows])
        embedded[state] = engine.embed(inputs.pretrained.encoder, tokens, **inputs.options).cells.astype(np.float64)
        if np.isnan(embedded[state]).any(axis=1).all():
            msg = f"No cell of state {state!r} has a gene of vocabulary {inputs.vocabulary.name!r}."
            raise ValueError(msg)
    return embedded


def compute_centroids(embedded: dict[str, np.ndarray], centroids: Literal["mean", "median"]) -> np.ndarray:
    """Centroid of each state, float64 (S, H): the mean or median of the embeddings of its cells."""
    summary: Callable[..., np.ndarray] = np.nanmean if centroids == "mean" else np.nanmedian
    return np.stack([summary(cells, axis=0) for cells in embedded.values()])
