"""How much the state of one gene changes with the input of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from scgeneformer.engine._embed import layers_to_run

from ._pairs import PairScores, mean_over_cells

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scgeneformer.engine._batching import Batch
    from scgeneformer.nn import Encoder

_AT_ONCE = 8  # sources: more do not run faster on a CPU
_AT_ONCE_ELSEWHERE = 64


def gradient(
    encoder: Encoder, tokens: np.ndarray, *, emb_layer: int, rank_corrected: bool = False, **options: Any
) -> PairScores:
    """Length of the derivative of a target's state by the input of a source, in the direction of that input.

    Let x_i be the input vector of gene i (its token and its rank, normalised) and h_j the state of gene j in the layer. The score of i and j is the length of
    d h_j / d a at a = 1 where the input is a x_i: one column of the Jacobian, that along which the gene itself fades, and not its
    norm, which would take as many directions as the model is wide. It is exact, by forward-mode differentiation, and takes a pass
    for each source in each cell; targets are free.

    Parameters
    ----------
    encoder
        The model.
    tokens
        uint16 (n, L), right-padded with 0.
    emb_layer
        0 is the last layer, -1 the second to last, and so on.
    rank_corrected
        Subtract what two genes at these ranks have on average, see `mean_over_cells`; here of the sources with all genes.
    **options
        Further arguments of `mean_over_cells`.
    """
    n_layers = layers_to_run(encoder, emb_layer)

    def measure(network: Encoder, batch: Batch, is_source: Tensor) -> list[tuple[Tensor, Tensor]]:
        measured = []
        lengths = (batch.tokens != 0).sum(1).tolist()
        for cell, sources, length in zip(batch.tokens, is_source, lengths, strict=True):
            at = torch.nonzero(sources)[:, 0]
            values = torch.zeros(len(at), len(cell), device=cell.device)
            if len(at):
                values[:, :length] = _lengths(network, cell[:length], at, n_layers)
            measured.append((at, values))
        return measured

    return mean_over_cells(encoder, tokens, measure, rank_corrected=rank_corrected, desc="gradient", **options)


def _lengths(network: Encoder, cell: Tensor, sources: Tensor, n_layers: int) -> Tensor:
    """Length of each position's derivative by each source's input, (R, L); `cell` (L,), `sources` (R,)."""
    x = network.embedding(cell[None])[0]  # (L, H)

    def states(x: Tensor) -> Tensor:
        x = x[None]
        for block in network.blocks[:n_layers]:
            x = block(x, None)
        return x[0]

    def derivative(direction: Tensor) -> Tensor:
        return torch.func.jvp(states, (x,), (direction,))[1]

    at_once, parts = _AT_ONCE if x.device.type == "cpu" else _AT_ONCE_ELSEWHERE, []
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward derivative
        for some in sources.split(at_once):
            directions = x.new_zeros(len(some), *x.shape)
            directions[torch.arange(len(some), device=x.device), some] = x[some]
            parts.append(torch.func.vmap(derivative)(directions).float().norm(dim=-1))
    return torch.cat(parts)
