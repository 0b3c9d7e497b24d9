"""The encoder-decoder variant: the encoder reads a cell with hidden genes, the decoder writes the whole cell, gene after gene.

Shapes: B cells, L positions, M positions that are not padding, H width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._cross_entropy import linear_cross_entropy
from ._encoder import Attention, Encoder, Layers, init_weights, run_block

if TYPE_CHECKING:
    from ._config import EncoderConfig


class DecoderBlock(Layers):
    """Causal self-attention, cross-attention to the states of the encoder, and a feed-forward network."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.cross_attention = Attention(config)
        self.cross_attention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, x, None, causal=True)))
        return self.finish(x, self.cross_attention(x, states, mask))

    def finish(self, read: Tensor, attended: Tensor) -> Tensor:
        """All that comes after the attention to the encoder, position by position: (B, L, H) -> (B, L, H)."""
        read = self.cross_attention_norm(read + self.dropout(attended))
        return self.feed_forward_norm(read + self.dropout(self.feed_forward(read)))


class EncoderDecoder(nn.Module):
    """Encoder, and a decoder that is trained to restore the cell from which the encoder's input was made (Vaswani et al. 2017).

    The decoder guesses each gene from the genes ranked above it and from the encoder's states. It shares the encoder's embedding, which
    is also the matrix of its scores. Its input is the cell moved on by one position, after a start token: the padding
    token, as in T5, which every vocabulary has. Right padding needs no mask there, since nothing looks ahead.

    Parameters
    ----------
    config
        Its shape, with `n_decoder_layers` above 0.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(100, 2, 8, n_heads=2, feed_forward=16, max_length=64, n_decoder_layers=1)
    >>> model = sg.nn.EncoderDecoder(config)
    >>> cell = torch.tensor([[2, 50, 7, 3]])
    >>> model.scores(model(cell, None, cell)).shape
    torch.Size([1, 4, 100])
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_decoder_layers))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, tokens: Tensor, mask: Tensor | None, original: Tensor) -> Tensor:
        """Last states of the decoder.

        Parameters
        ----------
        tokens
            What the encoder reads, genes hidden in it: int64 (B, L).
        mask
            True at tokens, False at padding, (B, L); None if no row is padded.
        original
            The cells as they are, int64 (B, L). The state at a position knows the tokens before it only.

        Returns
        -------
        (B, L, H), for `scores` or `errors`.
        """
        states = self.encoder(tokens, mask)  # (B, L, H)
        keys = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L)
        x = self.encoder.embedding(F.pad(original[:, :-1], (1, 0), value=self.config.pad_id))
        for block in self.decoder:
            x = run_block(block, x, states, keys, again=self.encoder.checkpoint_activations)
        return x

    def scores(self, x: Tensor) -> Tensor:
        """Scores of all genes at states of the decoder: (..., H) -> (..., vocabulary)."""
        return F.linear(x, self.encoder.embedding.gene.weight, self.bias)

    def errors(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy in nats, and whether the best score is the target's.

        Parameters
        ----------
        x
            States of the decoder at positions that are not padding, (M, H).
        targets
            The tokens that stand there, int64 (M,).

        Returns
        -------
        float32 () and bool (M,).
        """
        return linear_cross_entropy(x, self.encoder.embedding.gene.weight, self.bias, targets)
