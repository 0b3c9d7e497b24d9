"""Rows of tokens in batches of similar length under a token budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from scgeneformer.tokens import token_of, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


class Batch(NamedTuple):
    """Rows of tokens as a network reads them.

    Attributes
    ----------
    tokens
        int64 (B, L), trimmed to the longest row.
    mask
        bool (B, L), True at tokens; None if no row is padded.
    inputs
        What the network reads besides: float32 ``"values"`` (B, L), of cells that have them.
    """

    tokens: Tensor
    mask: Tensor | None
    inputs: dict[str, Tensor]

    def states(self, network: Callable[..., Any], **options: Any) -> Any:
        """What `network` makes of them."""
        return network(self.tokens, self.mask, **self.inputs, **options)


def row_lengths(tokens: np.ndarray, pad_id: int = 0) -> np.ndarray:
    """Number of tokens in each right-padded row, int64 (n,)."""
    return np.count_nonzero(token_of(tokens) != pad_id, axis=1)


def cut_rows(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Indices of rows in parts of `size` tokens, padding included, or of one row, longest first; rows of length 0 are left out."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    while len(order):
        n_rows = max(1, size // int(lengths[order[0]]))
        yield order[:n_rows]
        order = order[n_rows:]


def for_each_batch(
    lengths: np.ndarray,
    token_budget: int,
    step: Callable[[np.ndarray], None],
    *,
    bar: tqdm | None = None,
    progress: bool = False,
    desc: str = "",
    unit: str = "cells",
) -> None:
    """Call `step` on the indices of similarly long rows until every row had its turn once, longest first.

    A batch holds at most `token_budget` tokens, padding included, and at least one row. When memory runs out the budget is
    halved for good and the batch tried again, so that `step` must not have written anything by then. Starting with the
    longest rows lets a lack of memory show at once.

    Parameters
    ----------
    lengths
        Tokens in each row, (n,). Rows of length 0 are left out.
    token_budget
        Most tokens in one batch.
    step
        Gets an int64 array of row indices.
    bar
        A progress bar to move on.
    progress, desc, unit
        If there is none: show one, and what it says.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start, budget = 0, token_budget
    moved = tqdm(total=len(order), desc=desc, unit=f" {unit}", disable=not progress) if bar is None else bar
    try:
        while start < len(order):
            longest = int(lengths[order[start]])
            rows = order[start : start + max(1, budget // longest)]
            try:
                step(rows)
            except (MemoryError, RuntimeError) as error:
                if len(rows) == 1 or not out_of_memory(error):
                    raise
                budget = longest * (len(rows) // 2)
                release_memory()
                continue
            start += len(rows)
            moved.update(len(rows))
    finally:
        if bar is None:
            moved.close()


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is a device's or the host's lack of memory: CUDA has a class for it, MPS and the CPU only messages."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def release_memory() -> None:
    """Give cached memory back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def to_device(cells: np.ndarray, lengths: np.ndarray, device: torch.device) -> Batch:
    """Rows of tokens, with values or without, trimmed to the longest."""
    longest = int(lengths.max())
    cells = cells[:, :longest]
    tokens, values = torch.from_numpy(token_of(cells).astype(np.int64)).to(device), value_of(cells)
    inputs = {} if values is None else {"values": torch.from_numpy(values.copy()).to(device)}
    if int(lengths.min()) == longest:
        return Batch(tokens, None, inputs)
    mask = torch.arange(longest, device=device) < torch.from_numpy(lengths).to(device)[:, None]
    return Batch(tokens, mask, inputs)
