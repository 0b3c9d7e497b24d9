"""Cells that are continued gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from scgeneformer.nn import Cache

from ._batching import row_lengths
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgeneformer.nn import NextGeneModel


def complete(
    network: NextGeneModel,
    prompts: np.ndarray,
    *,
    n_special: int,
    n_tokens: int,
    eos_id: int,
    max_length: int,
    top_k: int | None,
    rng: np.random.Generator,
    context: np.ndarray | None = None,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Continue cells by genes that they do not have yet, drawn one after the other, until the model ends them.

    Parameters
    ----------
    network
        Left as it is, on whatever device.
    prompts
        uint16 (n, L), right-padded with 0: how cells begin, without the token that ends them. Empty rows stay empty.
    n_special, n_tokens
        Tokens of genes are those from `n_special` to below `n_tokens`; no other is drawn but `eos_id`.
    eos_id
        Token that ends a cell. It is put after cells that reach `max_length` otherwise.
    max_length
        Maximum number of tokens of a cell.
    top_k
        Number of tokens of the highest probability to draw from, the first in case of ties; 1 always takes the highest.
        None for all.
    rng
        Generator.
    context
        uint16 (n, C), right-padded with 0: what is read before each cell and is not part of it, so that its genes may
        be drawn again.
    device, precision, token_budget, progress
        As in `embed`. A batch holds as many cells as would fill the budget with `max_length` tokens each, and those of the context.

    Returns
    -------
    uint16 (n, `max_length`), in the order of `prompts`. What a cell gets does not depend on its batch beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite scores.
    """
    place = resolve_device(device)
    completed = np.zeros((len(prompts), max_length), np.uint16)
    draws = rng.random((len(prompts), max_length))
    if context is None:
        context = np.zeros((len(prompts), 0), np.uint16)
    budget = token_budget or default_token_budget(place)
    allowed = np.zeros(network.encoder.config.vocab_size, dtype=bool)
    allowed[n_special:n_tokens] = True
    allowed[eos_id] = True
    bar = tqdm(total=len(prompts), desc="complete", unit=" cells", disable=not progress)
    with bar, on_device(network, place, resolve_precision(precision, place)) as working:
        for rows, n_before, length in _of_one_length(row_lengths(context), row_lengths(prompts), budget, max_length):
            completed[rows, :length] = prompts[rows, :length]
            left = np.repeat(allowed[None], len(rows), axis=0)
            np.put_along_axis(left, prompts[rows, :length].astype(np.int64), values=False, axis=1)
            is_open, cache = np.ones(len(rows), dtype=bool), Cache(working.encoder.config.n_layers)
            read = np.hstack([context[rows, :n_before], completed[rows, :length]])  # by the model in the next step
            for position in range(length, max_length):
                token = np.full(len(rows), eos_id)
                if position < max_length - 1:
                    tokens = torch.from_numpy(read.astype(np.int64)).to(place)
                    states = working.encoder(tokens, cache=cache)[:, -1]  # (B, H)
                    scores = working.head(states).float().cpu().numpy().astype(np.float64)
                    check_finite(scores)
                    token = _draw(np.where(left, scores, -np.inf), draws[rows, position], top_k)
                completed[rows[is_open], position] = token[is_open]
                is_open &= token != eos_id
                if not is_open.any():
                    break
                np.put_along_axis(left, token[:, None], values=False, axis=1)
                left[:, eos_id] = True  # cells that have ended are read on, and not kept
                read = token[:, None]
            bar.update(len(rows))
    return completed


def _of_one_length(
    n_before: np.ndarray, lengths: np.ndarray, budget: int, max_length: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Rows in batches of the same length and context, and these lengths; rows of length 0 are left out."""
    for before, length in np.unique(np.column_stack([n_before, lengths])[lengths > 0], axis=0).tolist():
        rows = np.flatnonzero((n_before == before) & (lengths == length))
        at_once = max(1, budget // (before + max_length))
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once], before, length


def _draw(scores: np.ndarray, draws: np.ndarray, top_k: int | None) -> np.ndarray:
    """A token for each row of `scores` (B, V) by a number from 0 to below 1, (B,): that in whose part of the cumulated probability it falls."""
    if top_k is not None:
        kept = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        of_kept = np.take_along_axis(scores, kept, 1)
        scores = np.full_like(scores, -np.inf)
        np.put_along_axis(scores, kept, of_kept, axis=1)
    cumulated = np.cumsum(np.exp(scores - scores.max(1, keepdims=True)), axis=1)
    return (cumulated > draws[:, None] * cumulated[:, -1:]).argmax(1)
