"""What a perturbation does, estimated for all genes of a cell at once, and for all genes that it does not express.

Deleting a gene removes its token and moves every lower token up by one rank, unless positions are kept; other perturbations move a gene to another rank, and those
between by one. To first order every such change is a sum of gate gradients (see `_gates`): a gene that goes is minus its base token, a
gene that comes to another rank is a probe there minus its base token. The moves of many small steps add up to a smooth curve over ranks,
whose level, but not its shape, suffers from what first order leaves out; so the curve is computed exactly at some ranks, by one forward
pass each, and the estimate is drawn through these points: more of them where it would miss the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from scgeneformer.engine._batching import for_each_batch, row_lengths, to_device
from scgeneformer.engine._device import default_token_budget, on_device, resolve_device, resolve_precision
from scgeneformer.engine._embed import layers_to_run, pool
from scgeneformer.engine._finite import check_finite

from ._curves import Curves
from ._edits import new_rank
from ._gates import Base, Probes, gate_gradients

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from tqdm.auto import tqdm

    from scgeneformer.nn import Encoder

    from ._edits import Kind, Positions
    from ._gates import GateGradients

TOLERANCE = 0.2  # of the curve of moves
_UP = ("delete", "inhibit")  # kinds that let other genes rise


def screen(
    encoder: Encoder,
    tokens: np.ndarray,
    kind: Kind,
    states: np.ndarray,
    *,
    pooling: str,
    n_special: int,
    quartiles: int = 1,
    ranks: int | None = None,
    positions: Positions = "renumbered",
    axes: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    emb_layer: int = -1,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    bar: tqdm | None = None,
) -> np.ndarray:
    """Estimate how the cosine to each state grows when each gene of each cell is perturbed alone.

    Parameters
    ----------
    encoder, pooling, n_special, emb_layer, device, precision, token_budget
        As for `embed`.
    tokens
        uint16 (n, L), right-padded with 0.
    kind, quartiles, ranks, positions
        As for `Perturbation`.
    states
        float (S, H): positions of states in the same embedding.
    axes
        float (A, H): further directions, of any length, to which the cosine is estimated as well; no exact ranks are added for them.
    tolerance
        How far the curve of moves may miss a rank at which it is computed exactly, in standard deviations of the cell's estimates; where it
        misses by more, further ranks are computed.
    bar
        A progress bar, moved on by one for each cell.

    Returns
    -------
    float64 (n, L, S + A), NaN at special tokens and padding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite numbers for cells that have genes.
    """
    at_once = _Screen(encoder, tokens, states, axes, pooling, n_special, emb_layer, device)
    out = np.full((*tokens.shape, len(at_once.goal)), np.nan)

    def step(rows: np.ndarray) -> None:
        batch, mask = at_once.load(rows)
        if positions == "kept":
            estimates = at_once.in_place(batch, mask)
        else:
            estimates = at_once.expressed(batch, mask, kind, (quartiles, ranks), tolerance)
        out[rows, : batch.shape[1]] = estimates

    at_once.run(step, precision, token_budget, bar)
    return out


def screen_absent(
    encoder: Encoder,
    tokens: np.ndarray,
    genes: np.ndarray,
    states: np.ndarray,
    *,
    pooling: str,
    n_special: int,
    axes: np.ndarray | None = None,
    emb_layer: int = -1,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    bar: tqdm | None = None,
) -> np.ndarray:
    """Estimate how the cosine to each state grows when each of `genes` is put before all others, in cells that do not express it.

    Parameters
    ----------
    encoder, tokens, states, pooling, n_special, axes, emb_layer, device, precision, token_budget, bar
        As for `screen`. A row as long as the encoder's positions loses its lowest gene, before and after.
    genes
        Tokens, int (G,).

    Returns
    -------
    float32 (n, G, S + A), NaN where a cell expresses the gene, and for empty cells.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite numbers for cells that have genes.
    """
    at_once = _Screen(encoder, tokens, states, axes, pooling, n_special, emb_layer, device)
    out = np.full((len(tokens), len(genes), len(at_once.goal)), np.nan, dtype=np.float32)

    def step(rows: np.ndarray) -> None:
        batch, mask = at_once.load(rows)
        found = at_once.absent(batch, mask, torch.from_numpy(genes.astype(np.int64)))
        for row, values in zip(rows, found, strict=True):
            out[row] = np.where(np.isin(genes, tokens[row])[:, None], np.nan, values)

    at_once.run(step, precision, token_budget, bar)
    return out


class _Screen:
    """An encoder, cells and states, and the estimates for a batch of cells."""

    def __init__(
        self,
        encoder: Encoder,
        tokens: np.ndarray,
        states: np.ndarray,
        axes: np.ndarray | None,
        pooling: str,
        n_special: int,
        emb_layer: int,
        device: str,
    ) -> None:
        self.encoder, self.tokens, self.lengths = encoder, tokens, row_lengths(tokens)
        self.place = resolve_device(device)
        self.wide = torch.float32 if self.place.type == "mps" else torch.float64  # MPS has no float64
        goal = np.asarray(states if axes is None else np.vstack([states, axes]), dtype=np.float64)  # (S + A, H)
        self.goal, self.n_states = torch.from_numpy(goal).to(self.place, self.wide), len(states)
        self.pooling, self.n_special, self.n_layers = pooling, n_special, layers_to_run(encoder, emb_layer)

    def run(
        self, step: Callable[[np.ndarray], None], precision: str, token_budget: int | None, bar: tqdm | None
    ) -> None:
        budget = token_budget or default_token_budget(self.place)
        dtype = resolve_precision(precision, self.place)
        with on_device(self.encoder, self.place, dtype, gradients=True) as self.network:
            for_each_batch(self.lengths, budget, step, bar=bar)

    def load(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        return to_device(self.tokens[rows], self.lengths[rows], self.place)[:2]

    def readout(self, pooled: Tensor) -> Tensor:
        """Cosine to each state, (B, S)."""
        return F.cosine_similarity(pooled.to(self.wide)[:, None], self.goal[None], dim=-1)

    def value(self, batch: Tensor, mask: Tensor | None, positions: Tensor | None = None) -> np.ndarray:
        """The readout of cells whose tokens stand at `positions`, float64 (B, S)."""
        first_only = slice(0, 1) if self.pooling == "cls" else None
        hidden = self.network(batch, mask, n_layers=self.n_layers, positions=first_only, ranks=positions)
        return self.readout(pool(hidden, batch, self.pooling, self.n_special)).cpu().double().numpy()

    def gates(self, base: Base, probes: Probes) -> GateGradients:
        return gate_gradients(
            self.network,
            base,
            probes,
            self.readout,
            pooling=self.pooling,
            n_special=self.n_special,
            n_layers=self.n_layers,
        )

    def expressed(
        self, batch: Tensor, mask: Tensor | None, kind: Kind, moves: tuple[int, int | None], tolerance: float
    ) -> np.ndarray:
        """Estimates for the genes of each cell, which move by quartiles or ranks, float64 (B, L, S)."""
        n_cells, length = batch.shape
        ranks = torch.arange(length, device=self.place).expand(n_cells, -1)
        first = int(batch[0, 0] < self.n_special)
        up = kind in _UP
        last_position = self.network.config.max_length - 1
        moved = torch.where(ranks > first, ranks - 1, ranks) if up else (ranks + 1).clamp(max=last_position)
        moved = torch.where(ranks < first, ranks, moved)
        goes_to = ranks
        if kind != "delete":
            n_genes = (batch >= self.n_special).sum(1, keepdim=True).clamp(min=1)
            goes_to = (first + new_rank(ranks - first, n_genes, kind, *moves)).clamp(0, length - 1)
        at = [moved] if kind == "delete" else [moved, goes_to]
        probes = Probes(batch.repeat(1, len(at)), torch.cat(at, 1), ranks.repeat(1, len(at)))
        found = self.gates(Base(batch, ranks, mask), probes)
        base, probed = found.base.cpu().double().numpy(), found.probes.cpu().double().numpy()
        steps = probed[:, :length] - base  # (B, L, S), what it does to move each token by one rank
        there = (batch > 0).cpu().numpy()
        steps[~there] = 0.0
        steps[:, : first + up] = 0.0  # <cls> stays, and no token can rise above the first gene
        # curve[i]: all tokens after gene i rise by one rank, or all genes before it fall
        total = np.cumsum(steps, axis=1)
        curve = total[:, -1:] - total if up else total - steps
        before = found.values.cpu().double().numpy()
        check_finite(before, (batch >= self.n_special).any(1).cpu().numpy())
        to = np.broadcast_to(goes_to.cpu().numpy()[..., None], curve.shape)

        def estimates(curve: np.ndarray) -> np.ndarray:
            if kind == "delete":
                return _at_genes(curve - base, batch, self.n_special)
            change = curve - np.take_along_axis(curve, to, 1) + probed[:, length:] - base
            change[to == np.arange(length)[:, None]] = 0.0
            return _at_genes(change, batch, self.n_special)

        genes_of_cells = (batch >= self.n_special).sum(1).cpu().numpy()
        curves = Curves(curve, first, genes_of_cells)

        def exact(cells: np.ndarray, cuts: np.ndarray) -> np.ndarray:
            rows, cut = (torch.from_numpy(x).to(self.place) for x in (cells, cuts[:, None]))
            moves = ranks[rows] > cut if up else ranks[rows] < cut
            there = None if mask is None else mask[rows]
            return self.value(batch[rows], there, torch.where(moves, moved[rows], ranks[rows])) - before[cells]

        curves.compute(curves.start(), exact)
        allowed = tolerance * np.nanstd(estimates(curves.drawn()), axis=1)  # (B, S + A)
        allowed[:, self.n_states :] = np.inf
        curves.refine(exact, allowed)
        return estimates(curves.drawn())

    def in_place(self, batch: Tensor, mask: Tensor | None) -> np.ndarray:
        """Estimates for deletions that move no other token, float64 (B, L, S)."""
        ranks = torch.arange(batch.shape[1], device=self.place).expand(len(batch), -1)
        no_probes = Probes(batch[:, :0], ranks[:, :0], ranks[:, :0])
        found = self.gates(Base(batch, ranks, mask), no_probes)
        return _at_genes(-found.base.cpu().double().numpy(), batch, self.n_special)

    def absent(self, batch: Tensor, mask: Tensor | None, genes: Tensor) -> np.ndarray:
        """Estimates for genes put first, float64 (B, G, S)."""
        n_cells, first = len(batch), int(batch[0, 0] < self.n_special)
        if batch.shape[1] == self.network.config.max_length:
            batch, mask = self._without_lowest(batch, first)
        length = batch.shape[1]
        ranks = torch.arange(length, device=self.place).expand(n_cells, -1)
        shifted = torch.where(ranks < first, ranks, ranks + 1)
        candidates = genes.to(self.place).expand(n_cells, -1)
        probes = Probes(candidates, torch.full_like(candidates, first), torch.full_like(candidates, length))
        found = self.gates(Base(batch, shifted, mask), probes)
        moved = found.values.cpu().double().numpy() - self.value(batch, mask)
        estimated = moved[:, None] + found.probes.cpu().double().numpy()
        check_finite(estimated, (batch >= self.n_special).any(1).cpu().numpy())
        return estimated

    def _without_lowest(self, batch: Tensor, first: int) -> tuple[Tensor, Tensor | None]:
        """The same without the lowest gene of each row that fills all positions."""
        full = batch[:, -1] > 0
        shorter = batch[:, :-1].clone()
        if first:  # <eos> takes the place of the lowest gene
            shorter[full, -1] = batch[full, -1]
        mask = shorter > 0
        return shorter, None if bool(mask.all()) else mask


def _at_genes(values: np.ndarray, batch: Tensor, n_special: int) -> np.ndarray:
    genes = (batch >= n_special).cpu().numpy()
    check_finite(values, genes)
    values[~genes] = np.nan
    return values
