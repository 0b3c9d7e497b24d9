"""How much each gene is attended to by each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ._pairs import PairScores, mean_over_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from scgeneformer.engine._batching import Batch
    from scgeneformer.nn import Encoder


def attention(
    encoder: Encoder,
    tokens: np.ndarray,
    *,
    blocks: Sequence[int],
    heads: Sequence[int] | None = None,
    rank_corrected: bool = True,
    **options: Any,
) -> PairScores:
    """Attention that targets pay to sources, in units of the attention that is spread evenly over a cell's tokens.

    A weight is multiplied by the number of tokens of its cell, which makes cells of different lengths comparable; 1 is even attention. It is
    averaged over heads, blocks and cells.

    Parameters
    ----------
    encoder
        The model; blocks above the last of `blocks` are not computed.
    tokens
        uint16 (n, L), right-padded with 0.
    blocks
        Blocks to average over, from 0 on.
    heads
        Heads to average over, from 0 on; None for all.
    rank_corrected
        Subtract what two genes at these ranks have on average, see `mean_over_cells`.
    **options
        Further arguments of `mean_over_cells`.
    """
    chosen = list(range(encoder.config.n_heads) if heads is None else heads)

    def measure(network: Encoder, batch: Batch, _: Tensor) -> list[tuple[Tensor, Tensor]]:
        tokens, keys = batch.tokens, None if batch.mask is None else batch.mask[:, None, None, :]
        x = network.embedding(tokens)
        weights = x.new_zeros(*tokens.shape, tokens.shape[1])  # (B, L, L)
        for number, block in enumerate(network.blocks[: max(blocks) + 1]):
            if number in blocks:
                weights += block.attention.weights(x, keys)[:, chosen].mean(1)
            x = block(x, keys)
        n_tokens = (tokens != 0).sum(1)
        of_keys = (
            weights.transpose(1, 2) * n_tokens[:, None, None] / len(set(blocks))
        )  # row: attended to, column: attends
        genes = [torch.nonzero(cell >= options["n_special"])[:, 0] for cell in tokens]
        return [(at, of_cell[at]) for at, of_cell in zip(genes, of_keys, strict=True)]

    return mean_over_cells(encoder, tokens, measure, rank_corrected=rank_corrected, desc="attention", **options)
