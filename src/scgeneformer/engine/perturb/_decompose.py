"""What a deletion does to a cell, in three parts that add up to its shift.

A deleted gene leaves the mean over genes, other tokens lose it as a key, and all tokens after it move up by one
position. The first is a closed form over the states of the original cell, the first two together are the deletion with
positions kept, and the third is the rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer.engine._batching import for_each_batch, row_lengths, to_device
from scgeneformer.engine._device import default_token_budget, on_device, resolve_device, resolve_precision
from scgeneformer.engine._embed import layers_to_run
from scgeneformer.engine._finite import check_finite
from scgeneformer.tokens import token_of

from ._measure import cosine, measure

if TYPE_CHECKING:
    from typing import Any

    from scgeneformer.nn import Backbone

    from ._enumerate import Edits, Perturbation


N_PARTS = 3


def decompose_shifts(
    encoder: Backbone,
    edits: Edits,
    perturbation: Perturbation,
    shifts: np.ndarray,
    *,
    states: np.ndarray,
    pooling: str,
    **options: Any,
) -> np.ndarray:
    """Parts of the shifts of deletions: by the gene's own vector, by the network of the other tokens, and by their renumbering.

    Parameters
    ----------
    encoder, edits, perturbation, states, pooling
        As for `measure`.
    shifts
        What `measure` returned for them, float64 (P, S).
    options
        n_special, emb_layer, device, precision, token_budget: as for `measure`.

    Returns
    -------
    float64 (P, 3 S): S values of the gene's own vector, of the network, and of the renumbering, which add up to `shifts`.
    """
    in_place = replace(perturbation, positions="kept")
    without = measure(encoder, edits, in_place, states=states, pooling=pooling, **options)
    own = np.zeros_like(shifts) if pooling != "mean" else own_shifts(encoder, edits, states, **options)
    return np.hstack([own, without - own, shifts - without])


def own_shifts(
    encoder: Backbone,
    edits: Edits,
    states: np.ndarray,
    *,
    n_special: int,
    emb_layer: int = -1,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
) -> np.ndarray:
    """How much the cosine to each state grows when the vectors of deleted genes leave the mean over a cell's genes and nothing else changes.

    The model runs once for each cell. Returns float64 (P, S).
    """
    place = resolve_device(device)
    n_layers, goal = layers_to_run(encoder, emb_layer), np.asarray(states, dtype=np.float64)
    used, row_of = np.unique(edits.rows, return_inverse=True)
    tokens = edits.tokens[used]
    lengths = row_lengths(tokens)
    shifts = np.empty((len(edits), len(goal)))
    with on_device(encoder, place, resolve_precision(precision, place)) as network:

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            hidden = batch.states(network, n_layers=n_layers).float().cpu().double().numpy()  # (B, L, H)
            for row, vectors in zip(rows, hidden, strict=True):
                of_cell = token_of(tokens[row, : len(vectors)])
                genes, of_row = of_cell >= n_special, np.flatnonzero(row_of == row)
                check_finite(vectors[genes])
                deleted = (of_cell[:, None] == edits.targets[of_row, None]).any(2)  # (E, L)
                left = genes & ~deleted
                before, after = vectors[genes].mean(0), left @ vectors / left.sum(1, keepdims=True)
                shifts[of_row] = cosine(after[:, None], goal) - cosine(before, goal)

        for_each_batch(lengths, token_budget or default_token_budget(place), step)
    return shifts
