"""How alike the states of two genes are in the cells that express both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scgeneformer.engine._embed import layers_to_run

from ._pairs import PairScores, mean_over_cells

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scgeneformer.engine._batching import Batch
    from scgeneformer.nn import Backbone


def contextual(
    encoder: Backbone, tokens: np.ndarray, *, emb_layer: int, rank_corrected: bool = False, **options: Any
) -> PairScores:
    """Mean over cells of the cosine similarity of two genes' states in the same cell, which is not the cosine of their mean states.

    Parameters
    ----------
    encoder
        The model.
    tokens
        uint16 (n, L), right-padded with 0.
    emb_layer
        0 is the last layer, -1 the second to last, and so on.
    rank_corrected
        Subtract what two genes at these ranks have on average, see `mean_over_cells`.
    **options
        Further arguments of `mean_over_cells`.
    """
    n_layers = layers_to_run(encoder, emb_layer)

    def measure(network: Backbone, batch: Batch, _: Tensor) -> list[tuple[Tensor, Tensor]]:
        states = batch.states(network, n_layers=n_layers)
        states = torch.nn.functional.normalize(states.float(), dim=-1)  # (B, L, H)
        genes = [torch.nonzero(cell >= options["n_special"])[:, 0] for cell in batch.tokens]
        return [(at, of_cell[at] @ of_cell.T) for at, of_cell in zip(genes, states, strict=True)]

    return mean_over_cells(encoder, tokens, measure, rank_corrected=rank_corrected, desc="contextual", **options)
