"""States of cells, and where they are in an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from anndata import AnnData

    from ._task import Task

SUMMARIES = ("mean", "median")


def state_members(
    cells: AnnData, groupby: str | None, source: str | None, target: str | None, others: Sequence[str]
) -> dict[str, np.ndarray]:
    """Indices of the cells of each state that was named, the target first, then the source and the others.

    Raises
    ------
    KeyError
        If there is no column `groupby`.
    ValueError
        If a state is named twice or has no cell, or if what is named does not go together.
    """
    named = [state for state in (target, source, *others) if state is not None]
    if not named:
        if groupby is not None:
            msg = f"groupby={groupby!r} needs a `source` to perturb, a `target` to measure towards, or both."
            raise ValueError(msg)
        return {}
    if groupby is None:
        msg = f"States {named} need `groupby`, the column of .obs that holds them."
        raise ValueError(msg)
    if groupby not in cells.obs:
        msg = f"Did not find .obs[{groupby!r}]. Columns are: {', '.join(map(str, cells.obs.columns))}."
        raise KeyError(msg)
    if others and target is None:
        msg = "`others` are states beside a `target`; name one."
        raise ValueError(msg)
    if len({keys.slot_name(state) for state in named}) < len(named):  # slots tell them apart by this name
        msg = f"States {named} name one state twice."
        raise ValueError(msg)
    if target is not None and any(keys.state_layer("", name) == keys.method_layer("") for name in named[1:]):
        msg = f"The layer of state '_method' would have the name of the one that marks exact shifts. Rename it in .obs[{groupby!r}]."
        raise ValueError(msg)
    labels = cells.obs[groupby].astype(str).to_numpy()
    members = {state: np.flatnonzero(labels == state) for state in named}
    missing = [state for state, found in members.items() if len(found) == 0]
    if missing:
        there = ", ".join(map(repr, np.unique(labels)[:20]))
        msg = f"No cell has .obs[{groupby!r}] equal to {', '.join(map(repr, missing))}. It holds {there}."
        raise ValueError(msg)
    return members


def check_positions(
    members: dict[str, np.ndarray], positions: Literal["mean", "median"] | Mapping[str, np.ndarray], width: int
) -> None:
    """Refuse positions that cannot be, before anything is computed."""
    if not isinstance(positions, Mapping):
        if positions not in SUMMARIES:
            msg = (
                f"state_positions={positions!r} is neither one of {SUMMARIES} nor a mapping from states to embeddings."
            )
            raise ValueError(msg)
        alone = [state for state, found in members.items() if len(found) == 1]
        if alone:
            msg = f"States {alone} have a single cell each, which is no position of a state. Give one by `state_positions`."
            raise ValueError(msg)
        return
    for state in members:
        if state not in positions:
            msg = f"`state_positions` has no position of {state!r}; it has {list(positions)}."
            raise ValueError(msg)
        vector = np.asarray(positions[state], dtype=np.float64)
        if vector.shape != (width,) or not np.isfinite(vector).all() or not vector.any():
            msg = f"state_positions[{state!r}] must be {width} finite numbers, the width of the model, and not all 0."
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


def place_states(
    task: Task,
    members: dict[str, np.ndarray],
    positions: Literal["mean", "median"] | Mapping[str, np.ndarray],
) -> np.ndarray:
    """Position of each state, float64 (S, H): mean or median of its cells, which have embeddings unless they have no gene."""
    from scgeneformer import engine

    if isinstance(positions, Mapping):
        return np.stack([np.asarray(positions[state], dtype=np.float64) for state in members])
    summary = {"mean": np.nanmean, "median": np.nanmedian}[positions]
    found = []
    for state, rows in members.items():
        tokens = np.asarray(task.tokens[rows])
        embedded = engine.embed(task.pretrained.encoder, tokens, **task.options).cells.astype(np.float64)
        if np.isnan(embedded).any(axis=1).all():
            msg = f"No cell of state {state!r} has a gene of vocabulary {task.vocabulary.name!r}."
            raise ValueError(msg)
        found.append(summary(embedded, axis=0))
    return np.stack(found)
