"""The Geneformer encoder: a post-norm BERT over ranked genes, to be read from top to bottom.

Shapes: B cells, L positions, Q positions that are read out, H width, N heads, D head size, F feed-forward size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ._attention import attend
from ._backbone import Ability, Backbone
from ._dropout import Dropout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._config import EncoderConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Embedding(nn.Module):
    """A gene's vector plus the vector of its rank, normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.gene = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_id)
        self.position = nn.Embedding(config.max_length, config.width)
        self.segment = nn.Embedding(config.n_segments, config.width)  # only row 0 is used
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens (B, L) at their ranks, or at `positions` (B, L) instead: states (B, L, H)."""
        rank = self.position.weight[: tokens.shape[1]] if positions is None else self.position(positions)
        return self.dropout(self.norm(self.gene(tokens) + (rank + self.segment.weight[0])))


class Attention(nn.Module):
    """Multi-head attention: every query attends to all positions of its cell."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = config.attention_dropout

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, L, H) -> (B, N, L, D)

    def project(self, read: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, Q, D) of `read`, keys and values (B, N, L, D) of `x`."""
        return self.heads(self.query(read)), self.heads(self.key(x)), self.heads(self.value(x))

    def join(self, o: Tensor) -> Tensor:
        """Join the outputs of the heads, (B, N, Q, D) -> (B, Q, H)."""
        return self.out(o.transpose(1, 2).flatten(2))

    def forward(self, read: Tensor, x: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
        q, k, v = self.project(read, x)
        return self.join(attend(q, k, v, mask, self.dropout if self.training else 0.0, causal=causal))

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention weights, which the fused kernel of `forward` never holds: (B, N, L, L)."""
        q, k = self.heads(self.query(x)), self.heads(self.key(x))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


class FeedForward(nn.Module):
    """The same two-layer network at every position."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.width)
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))  # (B, L, F) inside


class Layers(nn.Module):
    """Parts that blocks of the encoder and of the decoder share."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)


class Block(Layers):
    """Attention and feed-forward, each added to its input and normalised after."""

    def forward(self, x: Tensor, mask: Tensor | None, positions: slice | None = None) -> Tensor:
        read = x if positions is None else x[:, positions]  # (B, Q, H)
        return self.finish(read, self.attention(read, x, mask))

    def finish(self, read: Tensor, attended: Tensor) -> Tensor:
        """All that comes after the attention, position by position: (B, Q, H) -> (B, Q, H)."""
        read = self.attention_norm(read + self.dropout(attended))
        return self.feed_forward_norm(read + self.dropout(self.feed_forward(read)))


class Encoder(Backbone):
    """Embedding and blocks.

    Parameters
    ----------
    config
        Its shape.

    Attributes
    ----------
    checkpoint_activations
        Keep only the input of each block for the backward pass and compute the rest of it again: less memory, a third more time,
        the same numbers. False to begin with; it is not part of the weights.
    kind
        ``"BERT encoder"``.
    causal
        False: every token sees all others.
    abilities
        All that :class:`Backbone` lists but the completion of cells.

    Notes
    -----
    The arithmetic is that of Hugging Face's ``BertModel`` without a pooler, which official Geneformer uses. New weights
    are drawn as BERT's: normal with standard deviation `initializer_range`, zero biases, unit norms, a zero row for padding.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> encoder = sg.nn.Encoder(config)
    >>> encoder(torch.tensor([[2, 50, 7, 3]])).shape
    torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "BERT encoder"
    causal: ClassVar[bool] = False
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        (
            "estimates of perturbations",
            "attention weights",
            "derivatives by genes",
            "low-rank adapters",
            "ranks of genes",
        )
    )
    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = replace(config, n_decoder_layers=0)
        self.checkpoint_activations = False
        self.embedding = Embedding(config)
        blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.blocks = cast("Sequence[Block]", blocks)  # torch's list has no type of its elements
        self.apply(lambda module: init_weights(module, config.initializer_range))
        if config.positions == "sinusoidal":
            fix_positions(self.embedding.position)

    @property
    def token_vectors(self) -> Tensor:
        """The vector of each token before its rank is added, (V, H)."""
        return self.embedding.gene.weight

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        n_layers: int | None = None,
        positions: slice | None = None,
        ranks: Tensor | None = None,
        attention: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Hidden states after `n_layers` blocks; the blocks above are not computed.

        Parameters
        ----------
        tokens
            Token ids, int64, (B, L).
        mask
            True at tokens, False at padding, (B, L). None means that no row is padded, and is faster.
        n_layers
            How many blocks to run; None for all, 0 for the embedding.
        positions
            Compute the last block at these positions only (Q of them).
        ranks
            Rank of each token, int64, (B, L); by default its position in the row.
        attention
            Also return the attention weights of every block that ran.

        Returns
        -------
        Hidden states (B, L or Q, H); with `attention` a pair of them and a list of (B, N, L, L).
        """
        n_layers = self.n_to_run(n_layers)
        if tokens.shape[1] > self.config.max_length:
            msg = f"Rows of {tokens.shape[1]} tokens are longer than this encoder's {self.config.max_length} positions."
            raise ValueError(msg)
        keys = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L)
        x = self.embedding(tokens, ranks)
        weights = []
        for i, block in enumerate(self.blocks[:n_layers]):
            if attention:
                weights.append(block.attention.weights(x, keys))
            x = run_block(block, x, keys, positions if i == n_layers - 1 else None, again=self.checkpoint_activations)
        if n_layers == 0 and positions is not None:
            x = x[:, positions]
        return (x, weights) if attention else x


def init_weights(module: nn.Module, std: float) -> None:
    """Draw the weights of one layer as BERT does; layer norms keep torch's own start (one and zero)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()


def fix_positions(position: nn.Embedding) -> None:
    """Fill with the sinusoids of Vaswani et al. 2017, even columns sine and odd ones cosine, and leave them out of training."""
    n, width = position.weight.shape
    frequency = 10_000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * frequency  # (L, H / 2)
    with torch.no_grad():
        position.weight.copy_(torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width])
    position.requires_grad_(requires_grad=False)


def run_block(block: nn.Module, *args: Any, again: bool) -> Tensor:
    """Run `block`; with `again`, its activations are not kept but computed again, with the same dropout, in the backward pass."""
    if again and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
