"""What a cell's representation does when its genes are deleted one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from ._batching import for_each_batch, row_lengths, to_device
from ._device import at_work, default_token_budget, resolve_device, resolve_precision
from ._edits import delete
from ._embed import check_pooling, embed, layers_to_run, pool

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.nn import Encoder


def deletions(tokens: np.ndarray, n_special: int, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a cell and the position of one of its genes.

    Parameters
    ----------
    tokens
        uint16 (n, L).
    n_special
        Token ids below this one are no genes.
    only
        Token ids to restrict to.

    Returns
    -------
    Row and position of each of the P pairs, int64 (P,), cell by cell in rank order. A cell of a single gene has none,
    because nothing would be left of it.
    """
    genes = tokens >= n_special
    wanted = genes & (genes.sum(axis=1, keepdims=True) > 1)
    if only is not None:
        wanted &= np.isin(tokens, only)
    return np.nonzero(wanted)


def delete_one_by_one(
    encoder: Encoder,
    tokens: np.ndarray,
    rows: np.ndarray,
    positions: np.ndarray,
    *,
    pooling: str,
    n_special: int,
    states: np.ndarray | None = None,
    emb_layer: int = -1,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Delete single genes and compare each cell with itself before.

    Pairs of many cells run in one stream of batches; rows are edited on the device.

    Parameters
    ----------
    encoder, tokens, pooling, n_special, emb_layer, device, precision, token_budget, progress
        As for `embed`.
    rows, positions
        The P pairs of a row of `tokens` and the position in it whose gene is deleted.
    states
        float (S, H): positions of states in the same embedding (same encoder, layer and pooling). None compares each
        cell with its own original only.

    Returns
    -------
    float64 (P, S) with states: how much the cosine to each state grows by the deletion (positive is towards it).
    float64 (P, 1) without: the cosine similarity of perturbed and original (1 is no effect), of the first states for
    ``"cls"``, and the mean over the remaining genes of each gene's own cosine for ``"mean"``, as the official tool does.
    """
    check_pooling(pooling)
    place = resolve_device(device)
    budget = token_budget or default_token_budget(place)
    n_layers = layers_to_run(encoder, emb_layer)
    lengths = row_lengths(tokens)
    by_gene = states is None and pooling == "mean"
    values = np.empty((len(rows), 1 if states is None else len(states)))
    with at_work(encoder, place, resolve_precision(precision, place)) as network:
        if by_gene:
            compare = _GeneComparison(network, tokens, lengths, n_layers, n_special)
        else:
            used, of_used = np.unique(rows, return_inverse=True)
            same = {"device": str(place), "precision": _name(network), "token_budget": budget}
            before = embed(network, tokens[used], pooling=pooling, n_special=n_special, emb_layer=emb_layer, **same)
            goal = None if states is None else torch.from_numpy(np.asarray(states, dtype=np.float64)).cpu()
            compare = _PooledComparison(torch.from_numpy(before.cells), of_used, goal, pooling, n_special)
        first_only = slice(0, 1) if pooling == "cls" else None

        def step(pairs: np.ndarray) -> None:
            batch, mask = to_device(tokens[rows[pairs]], lengths[rows[pairs]], place)  # (B, L)
            source = delete(batch.shape[1], torch.from_numpy(positions[pairs]).to(place))  # (B, L - 1)
            edited = batch.gather(1, source)
            there = None if mask is None else mask[:, 1:]  # one token fewer in every row
            hidden = network(edited, there, n_layers=n_layers, positions=first_only)
            values[pairs] = compare(hidden, edited, source, pairs, rows[pairs]).cpu().double().numpy()

        for_each_batch(lengths[rows], budget, step, progress=progress, desc="delete", unit="deletions")
    return values


def _name(network: torch.nn.Module) -> str:
    return str(next(network.parameters()).dtype).removeprefix("torch.")


class _PooledComparison:
    """Cosines of whole cells, in float64, since changes of a cosine can be as small as float32's rounding."""

    def __init__(
        self, before: Tensor, of_pair: np.ndarray, states: Tensor | None, pooling: str, n_special: int
    ) -> None:
        self.before, self.of_pair, self.states = before.double(), of_pair, states
        self.pooling, self.n_special = pooling, n_special

    def __call__(self, hidden: Tensor, edited: Tensor, source: Tensor, pairs: np.ndarray, rows: np.ndarray) -> Tensor:
        after = pool(hidden, edited, self.pooling, self.n_special).cpu().double()  # (B, H)
        before = self.before[self.of_pair[pairs]]  # (B, H)
        if self.states is None:
            return F.cosine_similarity(before, after, dim=-1)[:, None]  # (B, 1)
        goal = self.states[None]  # (1, S, H)
        return F.cosine_similarity(after[:, None], goal, dim=-1) - F.cosine_similarity(before[:, None], goal, dim=-1)


class _GeneComparison:
    """Mean over the remaining genes of the cosine between a gene's state before and after.

    Original states are whole (L, H) matrices, so they are computed when a batch first needs them and kept only while it may
    need them again: batches come cell by cell, so these are few.
    """

    def __init__(
        self, network: Encoder, tokens: np.ndarray, lengths: np.ndarray, n_layers: int, n_special: int
    ) -> None:
        self.network, self.tokens, self.lengths = network, tokens, lengths
        self.n_layers, self.n_special = n_layers, n_special
        self.kept: dict[int, Tensor] = {}

    def originals(self, rows: np.ndarray, place: torch.device) -> Tensor:
        """States of each pair's original cell, (B, L, H), and zero behind its end."""
        cells, of_pair = np.unique(rows, return_inverse=True)
        self.kept = {cell: self.kept[cell] for cell in cells if cell in self.kept}
        for cell in cells:
            if cell not in self.kept:
                batch, _ = to_device(self.tokens[[cell]], self.lengths[[cell]], place)
                self.kept[cell] = self.network(batch, n_layers=self.n_layers)[0]  # (L, H)
        stacked = torch.nn.utils.rnn.pad_sequence([self.kept[cell] for cell in cells], batch_first=True)
        return stacked[torch.from_numpy(of_pair).to(place)]

    def __call__(self, hidden: Tensor, edited: Tensor, source: Tensor, pairs: np.ndarray, rows: np.ndarray) -> Tensor:
        before = self.originals(rows, hidden.device)  # (B, L, H)
        before = before.gather(1, source[..., None].expand(-1, -1, before.shape[-1]))  # (B, L - 1, H)
        cosine = F.cosine_similarity(before.float(), hidden.float(), dim=-1)  # (B, L - 1)
        background = edited >= self.n_special
        return ((cosine * background).sum(1) / background.sum(1))[:, None]  # (B, 1)
