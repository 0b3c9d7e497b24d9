"""The product of queries, keys and values, by the kernel that is fastest where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TILE = 2**21  # attention weights of a tile: what a core's cache holds


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
    """
    # torch's fused kernel for CPUs gains nothing from bfloat16; plain products do, and their tiles stay in the cache.
    # A compiler would write out the loop over cells.
    eager = q.device.type == "cpu" and not torch.compiler.is_compiling()
    if eager and q.dtype == torch.bfloat16 and not (q.requires_grad or causal):
        return attend_in_tiles(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def attend_in_tiles(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same without dropout or gradients, cell by cell and some queries at a time; padding is left out, not masked."""
    out = torch.empty_like(q)
    scale = q.shape[-1] ** -0.5
    for b in range(len(q)):
        there = slice(None) if mask is None else mask[b, 0, 0]
        keys, values = k[b][:, there].transpose(1, 2), v[b][:, there]  # (N, D, L), (N, L, D)
        step = max(1, _TILE // (keys.shape[0] * keys.shape[2]))
        for start in range(0, q.shape[2], step):
            part = q[b, :, start : start + step]  # (N, step, D)
            weights = torch.baddbmm(q.new_empty(()), part, keys, beta=0, alpha=scale)  # (N, step, L)
            out[b, :, start : start + step] = torch.softmax(weights, -1, out=weights) @ values
    return out
