"""What a classifier says of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from scgeneformer.nn import CellClassifier


def classify(
    network: CellClassifier,
    tokens: np.ndarray,
    *,
    pooled: bool = False,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Scores of cells.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    tokens
        uint16 (n, L), right-padded with 0.
    pooled
        Return the states that the scores are made from instead.
    device, precision, token_budget, progress
        As in `embed`.

    Returns
    -------
    float32 (n, outputs) or (n, H), in the order of the rows of tokens; NaN for empty rows. They do not depend on batches or padding
    beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite scores for cells that have tokens.
    """
    place = resolve_device(device)
    lengths = row_lengths(tokens)
    width = network.encoder.config.width if pooled else network.classifier.out_features
    out = np.full((len(tokens), width), np.nan, dtype=np.float32)
    with on_device(network, place, resolve_precision(precision, place)) as working:
        read = working.pooled if pooled else working

        def step(rows: np.ndarray) -> None:
            batch, mask = to_device(tokens[rows], lengths[rows], place)
            scores = read(batch, mask).float().cpu().numpy()
            check_finite(scores)
            out[rows] = scores

        for_each_batch(lengths, token_budget or default_token_budget(place), step, progress=progress, desc="classify")
    return out
