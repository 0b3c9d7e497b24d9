"""Numbers that a decoder predicts by tokens of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ._batching import for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.nn import NextGeneModel


def expected_number(scores: Tensor, first: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the numbers, each with the probability of its token, and the probability of all tokens that are not numbers.

    Parameters
    ----------
    scores
        Of all tokens, (B, V).
    first
        Token of the first number; the others follow.
    values
        The numbers, (N,).

    Returns
    -------
    float32 (B,) and (B,).
    """
    scores = scores.float()
    of_numbers = scores[:, first : first + len(values)]
    expected = (of_numbers.softmax(-1) * values.to(of_numbers)).sum(
        -1
    )  # no matrix product, which may be rounded in training
    no_number = -torch.expm1(of_numbers.logsumexp(-1) - scores.logsumexp(-1))
    return expected, no_number


def read_numbers(
    network: NextGeneModel,
    prompts: np.ndarray,
    *,
    first: int,
    values: np.ndarray,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """The number that a decoder expects after each prompt.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    prompts
        uint16 (n, L), right-padded with 0. Empty rows get NaN.
    first, values
        As of `expected_number`.
    device, precision, token_budget, progress
        As in `embed`.

    Returns
    -------
    float64 (n,), in the order of `prompts`; a number does not depend on its batch beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite scores.
    """
    place = resolve_device(device)
    lengths = row_lengths(prompts)
    numbers = np.full(len(prompts), np.nan)
    with on_device(network, place, resolve_precision(precision, place)) as working:
        of_tokens = torch.from_numpy(values).to(place)

        def step(rows: np.ndarray) -> None:
            batch = to_device(prompts[rows], lengths[rows], place)
            last = torch.from_numpy(lengths[rows] - 1).to(place)
            states = batch.states(working.encoder)[torch.arange(len(rows), device=place), last]  # (B, H)
            expected = expected_number(working.head(states), first, of_tokens)[0].cpu().numpy().astype(np.float64)
            check_finite(expected)
            numbers[rows] = expected

        budget = token_budget or default_token_budget(place)
        for_each_batch(lengths, budget, step, progress=progress, desc="read", unit="trajectories")
    return numbers
