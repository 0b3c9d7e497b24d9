"""A LLaMA decoder over ranked genes, as MaxToki is one, to be read from top to bottom.

Shapes: B cells, L positions, S positions that keys are kept of (L without a cache), H width, N heads of queries, K heads of keys and
values, D head size, F feed-forward size, V tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._attention import attend
from ._backbone import Ability, Backbone
from ._encoder import init_weights, run_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._llama_config import LlamaConfig


class RMSNorm(nn.Module):
    """States of mean square one, times a gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.gain * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def frequencies(config: LlamaConfig) -> Tensor:
    """Angles by which pairs of channels turn from one position to the next, float32 (D / 2,)."""
    f = 1.0 / config.rope_theta ** (torch.arange(0, config.head_width, 2).float() / config.head_width)
    scaling = config.rope_scaling
    if scaling is None:
        return f
    turns = scaling.original_length * f / (2 * math.pi)
    fast = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return (1 - fast) * f / scaling.factor + fast * f


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn channel i with channel i + D / 2: (B, N, L, D) by angles with these cosines and sines (B or 1, 1, L, D / 2)."""
    cos, sin = turns
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Cache:
    """Keys and values of the tokens that were read so far, so that a next one is read without them.

    Attributes
    ----------
    length
        Number of these tokens.

    Examples
    --------
    >>> config = sg.nn.LlamaConfig(100, 2, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=16, max_length=64)
    >>> model, cache = sg.nn.NextGeneModel(config), sg.nn.Cache(config.n_layers)
    >>> start = model(torch.tensor([[2, 50, 7]]), cache=cache)
    >>> model(torch.tensor([[4]]), cache=cache).shape, cache.length
    (torch.Size([1, 1, 100]), 4)
    """

    def __init__(self, n_layers: int) -> None:
        self._keys: list[Tensor | None] = [None] * n_layers
        self._values: list[Tensor | None] = [None] * n_layers
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values of new tokens (B, K, L, D), and return those of all (B, K, S, D)."""
        before_k, before_v = self._keys[layer], self._values[layer]
        if before_k is not None and before_v is not None:
            k, v = torch.cat([before_k, k], 2), torch.cat([before_v, v], 2)
        self._keys[layer], self._values[layer] = k, v
        return k, v


class Attention(nn.Module):
    """Causal attention; heads of queries share heads of keys and values."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.n_shared = config.n_heads // config.n_kv_heads
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, config.n_heads * config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.n_kv_heads * config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.n_kv_heads * config.head_width, bias=False)
        self.out = nn.Linear(config.n_heads * config.head_width, config.width, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, L, N * D) -> (B, N, L, D)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], cache: Cache | None, layer: int) -> Tensor:
        q, k = rotate(self.heads(self.query(x)), turns), rotate(self.heads(self.key(x)), turns)
        v = self.heads(self.value(x))  # (B, K, L, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, K, S, D)
        if self.n_shared > 1:
            k, v = (part.repeat_interleave(self.n_shared, 1) for part in (k, v))  # (B, N, S, D)
        attended = attend(q, k, v, None, 0.0, causal=q.shape[2] > 1)  # a single query is the last, and sees all
        return self.out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU, the same at every position."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.feed_forward, bias=False)
        self.up = nn.Linear(config.width, config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # (B, L, F) inside


class Block(nn.Module):
    """Attention and feed-forward, each of normalised states and added to them."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.width, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], cache: Cache | None, layer: int) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turns, cache, layer)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(Backbone):
    """Embedding, blocks and a final norm.

    Parameters
    ----------
    config
        Its shape.

    Attributes
    ----------
    checkpoint_activations
        As of :class:`Encoder`.
    kind
        ``"LLaMA decoder"``.
    causal
        True: a token sees itself and those before it.
    abilities
        ``"completion of cells"`` and ``"ranks of genes"``.

    Notes
    -----
    The arithmetic is that of Hugging Face's ``LlamaModel`` (Touvron et al. 2023), which MaxToki is.

    Examples
    --------
    >>> config = sg.nn.LlamaConfig(100, 2, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=16, max_length=64)
    >>> sg.nn.Llama(config)(torch.tensor([[2, 50, 7, 3]])).shape
    torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "LLaMA decoder"
    causal: ClassVar[bool] = True
    abilities: ClassVar[frozenset[Ability]] = frozenset(("completion of cells", "ranks of genes"))
    config: LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.blocks = cast("Sequence[Block]", blocks)  # torch's list has no type of its elements
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.apply(lambda module: init_weights(module, config.initializer_range))

    @property
    def token_vectors(self) -> Tensor:
        """The vector of each token before the first block, (V, H)."""
        return self.embedding.weight

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        n_layers: int | None = None,
        positions: slice | None = None,
        ranks: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states after `n_layers` blocks; the blocks above are not computed.

        Parameters
        ----------
        tokens
            Token ids, int64, (B, L).
        mask
            True at tokens, False at padding, (B, L). Padding is on the right, where no token looks, and its states mean nothing.
        n_layers
            How many blocks to run; None for all, followed by the final norm, 0 for the embedding.
        positions
            Return the states at these positions only (Q of them).
        ranks
            Rank of each token, int64, (B, L); by default its position in the row.
        cache
            Keys and values of the tokens before these, which gets those of these; then `tokens` has one column. An empty one to begin with.

        Returns
        -------
        Hidden states (B, L or Q, H).
        """
        n_layers = self.n_to_run(n_layers)
        start = 0 if cache is None else cache.length
        stop = start + tokens.shape[1]
        if stop > self.config.max_length:
            msg = f"Rows of {stop} tokens are longer than this decoder's {self.config.max_length} positions."
            raise ValueError(msg)
        if start and tokens.shape[1] != 1:
            msg = f"A cache is extended by one token at a time, not by {tokens.shape[1]}."
            raise ValueError(msg)
        if mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            msg = "A causal decoder needs padding on the right: the mask has tokens after padding."
            raise ValueError(msg)
        if ranks is None:
            ranks = torch.arange(start, stop, device=tokens.device)[None]
        angles = ranks[:, None, :, None] * frequencies(self.config).to(tokens.device)  # (B or 1, 1, L, D / 2)
        turns = angles.cos(), angles.sin()
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks[:n_layers]):
            x = run_block(block, x, turns, cache, layer, again=self.checkpoint_activations)
        if cache is not None:
            cache.length = stop
        x = self.norm(x) if n_layers == self.config.n_layers else x
        return x if positions is None else x[:, positions]


class NextGeneModel(nn.Module):
    """Decoder with scores of the next gene; their matrix is not that of the embedding.

    Examples
    --------
    >>> config = sg.nn.LlamaConfig(100, 2, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=16, max_length=64)
    >>> sg.nn.NextGeneModel(config)(torch.tensor([[2, 50, 7, 3]])).shape
    torch.Size([1, 4, 100])
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.encoder = Llama(config)  # the backbone has this name in every model
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        init_weights(self.head, config.initializer_range)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, cache: Cache | None = None) -> Tensor:
        """Scores of the token after each token, (B, L) -> (B, L, V)."""
        return self.head(self.encoder(tokens, mask, cache=cache))
