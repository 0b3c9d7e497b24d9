"""What a classifier predicts for cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from scgeneformer.nn import CellClassifier


@dataclass(frozen=True)
class CellScores:
    """What a classifier says of cells, and of what; NaN for empty rows of tokens.

    Attributes
    ----------
    scores
        float32 (n, outputs).
    states
        float32 (n, H): the states that the head makes the scores from.
    """

    scores: np.ndarray
    states: np.ndarray


def classify(
    network: CellClassifier,
    tokens: np.ndarray,
    *,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> CellScores:
    """Scores of cells, with the states that they are made from.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    tokens
        uint16 (n, L), right-padded with 0.
    device, precision, token_budget, progress
        As in `embed`.

    Returns
    -------
    In the order of the rows of tokens. They do not depend on batches or padding beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite scores for cells that have tokens.
    """
    place = resolve_device(device)
    lengths = row_lengths(tokens)
    widths = network.classifier.out_features, network.encoder.config.width
    out = CellScores(*(np.full((len(tokens), width), np.nan, dtype=np.float32) for width in widths))
    with on_device(network, place, resolve_precision(precision, place)) as working:

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            pooled = batch.states(working.pooled)
            for read, values in zip((out.scores, out.states), (working.scores(pooled), pooled), strict=True):
                read[rows] = values.float().cpu().numpy()
                check_finite(read[rows])

        for_each_batch(lengths, token_budget or default_token_budget(place), step, progress=progress, desc="classify")
    return out
