"""The product of queries, keys and values, by the kernel that is fastest where it runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FEWEST = 16  # queries
_TILE = 2**21  # attention weights of a tile: what a core's cache holds
_LARGEST = 64.0  # score; exp(64), summed over thousands of keys, is far from the largest number of bfloat16 and float32


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention.

    Parameters
    ----------
    q
        (B, N, Q, D).
    k, v
        (B, N, L, D).
    mask
        bool (B, 1, 1, L), True where a key may be looked at; None for everywhere.
    dropout
        Of the attention weights.
    causal
        A query looks at keys up to its own position only; without a `mask`.

    Returns
    -------
    (B, N, Q, D).

    Examples
    --------
    >>> q = k = v = torch.randn(1, 2, 5, 4)  # one cell, two heads, five positions, four dimensions
    >>> sg.nn.attend(q, k, v, mask=None, dropout=0.0).shape
    torch.Size([1, 2, 5, 4])
    """
    # torch's fused kernel for CPUs gains nothing from bfloat16; plain products do, and their tiles stay in the cache, if there
    # are queries enough for products. A compiler would write out the loop over cells.
    eager = q.device.type == "cpu" and not torch.compiler.is_compiling()
    if eager and q.dtype == torch.bfloat16 and q.shape[2] >= _FEWEST and not (causal or dropout):
        in_tiles: Callable[..., Tensor] = TiledAttention.apply
        return in_tiles(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


class TiledAttention(torch.autograd.Function):
    """Attention without dropout, cell by cell and some queries at a time; padding is left out, not masked.

    Nothing of size L x L outlives its tile: the backward pass computes the weights again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = torch.zeros_like(q)
        for b, there, tiles in _cells(q, k, mask):
            keys, (common, differences) = _of_cell(k, b, there), _centred(_of_cell(v, b, there))
            means = _means_of_small if _bound(q[b], keys) < _LARGEST else _means
            for rows in tiles:
                out[b, :, rows] = means(q[b, :, rows], keys, differences) + common  # (N, step, D)
        ctx.save_for_backward(q, k, v, out)
        ctx.mask = mask
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        wide = torch.promote_types(q.dtype, torch.float32)
        dq, dk, dv = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        for b, there, tiles in _cells(q, k, ctx.mask):
            keys, (common, differences) = _of_cell(k, b, there), _centred(_of_cell(v, b, there))
            for rows in tiles:
                part, g = _of_cell(q, b, rows), _of_cell(grad, b, rows)  # (N, step, D)
                weights = _weights(part, keys)  # (N, step, L)
                dv[b, :, there] += weights.transpose(1, 2) @ g
                of_weights = g @ differences.transpose(1, 2)  # (N, step, L)
                attended = out[b, :, rows].to(wide) - common.to(wide)  # (N, step, D)
                shared = (g.to(wide) * attended).sum(-1, keepdim=True)  # (N, step, 1)
                of_scores = of_weights.sub_(shared).mul_(weights).mul_(scale)
                dq[b, :, rows] = of_scores @ keys
                dk[b, :, there] += of_scores.transpose(1, 2) @ part
        return dq, dk, dv, None


def _cells(q: Tensor, k: Tensor, mask: Tensor | None) -> Iterator[tuple[int, Tensor | slice, list[slice]]]:
    """Each cell that has keys, with them, and its queries in parts whose weights a cache holds."""
    for b in range(len(q)):
        there: Tensor | slice = slice(None)
        n_keys = k.shape[2]
        if mask is not None:
            row = mask[b, 0, 0]
            n_keys = int(row.sum())
            # keys on the left, as in all rows of tokens, are a slice
            there = slice(n_keys) if row[:n_keys].all() else row.nonzero()[:, 0]
        if n_keys > 0:
            step = max(1, _TILE // (k.shape[1] * n_keys))
            yield b, there, [slice(start, start + step) for start in range(0, q.shape[2], step)]


def _of_cell(x: Tensor, b: int, positions: Tensor | slice) -> Tensor:
    """Some positions of a cell, (B, N, L, D) -> (N, positions, D), in one piece: a product copies what is not, in each tile anew."""
    return x[b][:, positions].contiguous()


def _centred(v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the values of a cell, (N, 1, D), and differences from it, (N, L, D).

    Weights sum to one, so that a vector common to all values passes unchanged. Without it, half precision resolves the differences.
    """
    common = v.mean(1, keepdim=True)
    return common, v - common


def _bound(q: Tensor, k: Tensor) -> Tensor:
    """Upper bound of the absolute scaled scores, by Cauchy and Schwarz: (N, Q, D) and (N, L, D) -> ()."""
    query, key = (torch.linalg.vector_norm(x, dim=-1).amax(-1) for x in (q, k))  # (N,)
    return (query * key).max() * q.shape[-1] ** -0.5


def _means(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Weighted means of values, (N, step, D)."""
    return _weights(q, k) @ v


def _means_of_small(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same for scores whose exponentials cannot overflow: without their maxima, and divided by the sums of weights at the end."""
    weights = _scores(q, k, math.log2(math.e)).exp2_()  # (N, step, L)
    return (weights @ v) / weights.sum(-1, keepdim=True)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled scores, (N, step, D) and (N, L, D) -> (N, step, L)."""
    scores = _scores(q, k)
    return torch.softmax(scores, -1, out=scores)


def _scores(q: Tensor, k: Tensor, unit: float = 1.0) -> Tensor:
    """Scaled scores times `unit`, (N, step, L)."""
    return torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=unit * q.shape[-1] ** -0.5)
