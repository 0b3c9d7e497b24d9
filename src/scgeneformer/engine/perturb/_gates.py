"""How a readout changes when tokens fade in or out of a cell: all of them from one backward pass.

Every token has a gate g. It multiplies the weight that other tokens give it in every attention, and its share in the mean over genes. The
cell's own tokens (the base) have gate 1. Probes are tokens that might come in, with gate 0: they look at the base, the base does not see
them. To first order, deleting a token changes the readout f by minus df/dg, and letting a probe in changes it by plus df/dg.

Let a query q of the base give the key p the weight A = exp(q·k_p) / Z, Z summed over the base, find o = sum A v, and let G = df/do. Then each
attention adds the sum over q of A (v_p - o)·G to df/dg of p, base or probe; the mean over n genes adds (x_p - e)·(df/de) / n. G comes from one
ordinary backward pass over the base. A probe thus needs a forward pass only, and nothing of it is kept from layer to layer but its state.

The sum leaves out what a token gives itself: the q that is p, or for a probe the token that it replaces. How a token comes to its own state is
part of its way up, which a probe goes by itself; counted again here it would count twice. So a token that is replaced by itself at a
slightly other place changes the readout by exactly the derivative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from scgeneformer.engine._embed import pool
from scgeneformer.nn import attend

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scgeneformer.nn import Encoder
    from scgeneformer.nn._encoder import Block

_TILE = {"cpu": 2**21}  # attention weights of a tile: what a core's cache holds
_TILE_ELSEWHERE = 2**26


class Base(NamedTuple):
    """The tokens of B cells: `tokens` and `positions`, int64 (B, L), and `mask`, bool (B, L), False at padding, or None."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor | None


class Probes(NamedTuple):
    """P tokens that might come into each cell: `tokens` and `positions`, int64 (B, P).

    `replaces`, int64 (B, P), is the index in the base of the copy that a probe stands for and does not see; L for none.
    """

    tokens: Tensor
    positions: Tensor
    replaces: Tensor


class GateGradients(NamedTuple):
    """`values` (B, S) of S readouts, and their derivatives by the gates of the `base` (B, L, S) and of the `probes` (B, P, S)."""

    values: Tensor
    base: Tensor
    probes: Tensor


@dataclass(frozen=True)
class _Layer:
    """What probes need to know of one attention over the base."""

    queries: Tensor  # (B, N, Q, D), scaled
    keys: Tensor  # (B, N, L + 1, D); the last is zero, a place for the probe itself
    values: Tensor  # (B, N, L + 1, D)
    log_z: Tensor  # (B, N, Q)
    pull: Tensor  # (B, N, Q, S * (D + 1)): G and o·G of each readout


def gate_gradients(
    encoder: Encoder,
    base: Base,
    probes: Probes,
    readout: Callable[[Tensor], Tensor],
    *,
    pooling: str,
    n_special: int,
    n_layers: int,
    probes_at_once: int = 2048,
) -> GateGradients:
    """Derivatives of readouts of cells by the gates of their tokens and of tokens that might come in.

    Parameters
    ----------
    encoder
        In evaluation mode.
    base, probes
        The cells, and what might come in.
    readout
        From embeddings of cells (B, H) to values (B, S), differentiable, each cell for itself.
    pooling, n_special
        As for `embed`.
    n_layers
        Blocks to run.
    probes_at_once
        Probes of each cell that go through the encoder together. Memory depends on it, not on the number of probes.

    Notes
    -----
    The backward pass keeps the input of each block and computes the rest of it again.
    """
    first_only = slice(0, 1) if pooling == "cls" else None
    at_keys = None if base.mask is None else base.mask[:, None, None, :]  # (B, 1, 1, L)
    with torch.no_grad():
        x, inputs = encoder.embedding(base.tokens, base.positions), []
        for i, block in enumerate(encoder.blocks[:n_layers]):
            inputs.append(x)
            x = block(x, at_keys, first_only if i == n_layers - 1 else None)
    values, by_pooled, by_hidden = _read(x, base.tokens, readout, pooling, n_special)
    of_base = x.new_zeros(*base.tokens.shape, values.shape[1])  # (B, L, S)
    layers: list[_Layer] = []
    for i in reversed(range(n_layers)):
        layer, of_keys, by_hidden = _backward(
            encoder.blocks[i], inputs.pop(), by_hidden, at_keys, first_only if i == n_layers - 1 else None
        )
        layers.insert(0, layer)
        of_base += of_keys
    with torch.no_grad():
        share = _Share(x, base.tokens, by_pooled, n_special) if pooling == "mean" else None
        if share is not None:
            of_base += share(x, base.tokens)
        parts = []
        for start in range(0, probes.tokens.shape[1], probes_at_once):
            part = Probes(*(field[:, start : start + probes_at_once] for field in probes))
            parts.append(_follow(encoder, layers, part, at_keys, share, values.shape[1]))
        of_probes = torch.cat(parts, 1) if parts else of_base[:, :0]
    return GateGradients(values, of_base, of_probes)


def _read(
    x: Tensor, tokens: Tensor, readout: Callable[[Tensor], Tensor], pooling: str, n_special: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Values (B, S), and their derivatives by the pooled embedding (B, S, H) and by each hidden state, S times (B, Q, H)."""
    with torch.enable_grad():
        hidden = x.detach().requires_grad_()
        pooled = pool(hidden, tokens, pooling, n_special)
        values = readout(pooled)
        grads = [torch.autograd.grad(value.sum(), (pooled, hidden), retain_graph=True) for value in values.unbind(1)]
    return values.detach(), torch.stack([g[0] for g in grads], 1), [g[1] for g in grads]


class _Share:
    """Derivative by a gate's weight in the mean over genes."""

    def __init__(self, hidden: Tensor, tokens: Tensor, by_pooled: Tensor, n_special: int) -> None:
        self.pooled = pool(hidden, tokens, "mean", n_special)[:, None]  # (B, 1, H)
        self.by_pooled = by_pooled / (tokens >= n_special).sum(1)[:, None, None]  # (B, S, H)
        self.n_special = n_special

    def __call__(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        pulled = (hidden - self.pooled) @ self.by_pooled.transpose(1, 2)  # (B, P, S)
        return torch.where((tokens >= self.n_special)[..., None], pulled, 0.0)


def _backward(
    block: Block, x: Tensor, by_output: list[Tensor], at_keys: Tensor | None, first_only: slice | None
) -> tuple[_Layer, Tensor, list[Tensor]]:
    """Through one block from the top: what probes need of it, derivatives by the base's gates (B, L, S), and by its input."""
    attention = block.attention
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        read = x if first_only is None else x[:, first_only]
        q, k, v = attention.project(read, x)
        o = attend(q, k, v, at_keys, 0.0)  # (B, N, Q, D)
        y = block.finish(read, attention.join(o))
        last = len(by_output) - 1
        grads = [torch.autograd.grad(y, (o, x), g, retain_graph=i < last) for i, g in enumerate(by_output)]
    with torch.no_grad():
        q, k, v, o = q.detach() * q.shape[-1] ** -0.5, k.detach(), v.detach(), o.detach()
        pull = torch.cat([part for g, _ in grads for part in (g, (g * o).sum(-1, keepdim=True))], -1)
        log_z, of_keys = _base_gates(q, k, v, pull, at_keys)
        n = q.shape[2]  # the queries are the first of the tokens
        of_keys[:, :n] -= _one_query(q, log_z, pull, k[:, :, :n], v[:, :, :n])
        empty = k.new_zeros(*k.shape[:2], 1, k.shape[-1])
        layer = _Layer(q, torch.cat([k, empty], 2), torch.cat([v, empty], 2), log_z, pull)
    return layer, of_keys, [g for _, g in grads]


def _base_gates(q: Tensor, k: Tensor, v: Tensor, pull: Tensor, at_keys: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logarithms of Z (B, N, Q), and derivatives by the gates of the base in this attention (B, L, S)."""
    pulled = k.new_zeros(*k.shape[:3], pull.shape[-1])  # (B, N, L, S * (D + 1))
    log_z = q.new_empty(q.shape[:3])
    for rows in _tiles(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2], q.device):
        scores = q[:, :, rows] @ k.transpose(-1, -2)  # (B, N, tile, L)
        if at_keys is not None:
            scores.masked_fill_(~at_keys, -torch.inf)
        log_z[:, :, rows] = scores.logsumexp(-1)
        weights = scores.sub_(log_z[:, :, rows, None]).exp_()
        pulled += weights.transpose(-1, -2) @ pull[:, :, rows]
    return log_z, _against_own_value(pulled, v)


def _one_query(q: Tensor, log_z: Tensor, pull: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the query beside each key adds to the derivative by its gate: all (B, N, P, ...) -> (B, P, S)."""
    weight = torch.exp((q * k).sum(-1) - log_z)  # (B, N, P)
    return _against_own_value(weight[..., None] * pull, v)


def _against_own_value(pulled: Tensor, v: Tensor) -> Tensor:
    """Sum over heads of (sum of A G)·v - sum of A o·G: (B, N, P, S * (D + 1)) and (B, N, P, D) -> (B, P, S)."""
    pulled = pulled.unflatten(-1, (-1, v.shape[-1] + 1))  # (B, N, P, S, D + 1)
    return (torch.einsum("bnpsd,bnpd->bnps", pulled[..., :-1], v) - pulled[..., -1]).sum(1)


def _follow(
    encoder: Encoder,
    layers: list[_Layer],
    probes: Probes,
    at_keys: Tensor | None,
    share: _Share | None,
    n_readouts: int,
) -> Tensor:
    """Derivatives by the gates of probes, (B, P, S), on their way up."""
    x = encoder.embedding(probes.tokens, probes.positions)  # (B, P, H)
    total = x.new_zeros(*x.shape[:2], n_readouts)
    for i, layer in enumerate(layers):
        block = encoder.blocks[i]
        q, k, v = block.attention.project(x, x)  # (B, N, P, D)
        total += _probe_gates(layer, k, v) - _replaced_query(layer, k, v, probes.replaces)
        if i < len(layers) - 1 or share is not None:
            x = block.finish(x, block.attention.join(_look_at_base(layer, q, k, v, probes.replaces, at_keys)))
    return total if share is None else total + share(x, probes.tokens)


def _probe_gates(layer: _Layer, k: Tensor, v: Tensor) -> Tensor:
    """What one attention adds to the derivatives by the gates of probes, (B, P, S)."""
    parts = []
    for rows in _tiles(k.shape[2], layer.log_z.numel(), k.device):
        weights = k[:, :, rows] @ layer.queries.transpose(-1, -2)  # (B, N, tile, Q)
        weights = weights.sub_(layer.log_z[:, :, None, :]).exp_()
        parts.append(_against_own_value(weights @ layer.pull, v[:, :, rows]))
    return torch.cat(parts, 1)


def _replaced_query(layer: _Layer, k: Tensor, v: Tensor, replaces: Tensor) -> Tensor:
    """The share of the token that each probe replaces in `_probe_gates`, 0 where it replaces none; (B, P, S)."""
    n = layer.queries.shape[2]
    at = replaces.clamp(max=n - 1)[:, None, :, None].expand(-1, k.shape[1], -1, -1)  # (B, N, P, 1)
    q, pull = (x.gather(2, at.expand(-1, -1, -1, x.shape[-1])) for x in (layer.queries, layer.pull))
    own = _one_query(q, layer.log_z.gather(2, at[..., 0]), pull, k, v)
    return torch.where((replaces < n)[..., None], own, 0.0)


def _look_at_base(layer: _Layer, q: Tensor, k: Tensor, v: Tensor, replaces: Tensor, at_keys: Tensor | None) -> Tensor:
    """Attention of probes to the base, without the copy that each replaces, and to themselves: (B, N, P, D)."""
    own = layer.keys.shape[2] - 1  # the column of a probe itself
    q = q * q.shape[-1] ** -0.5
    out = torch.empty_like(q)
    for rows in _tiles(q.shape[2], q.shape[0] * q.shape[1] * (own + 1), q.device):
        scores = q[:, :, rows] @ layer.keys.transpose(-1, -2)  # (B, N, tile, L + 1)
        if at_keys is not None:
            scores[..., :own].masked_fill_(~at_keys, -torch.inf)
        hidden = replaces[:, None, rows, None].expand(-1, q.shape[1], -1, -1)
        scores.scatter_(-1, hidden, -torch.inf)  # nothing is replaced: the place of the probe itself, filled next
        scores[..., own] = (q[:, :, rows] * k[:, :, rows]).sum(-1)
        weights = torch.softmax(scores, -1, out=scores)
        out[:, :, rows] = weights @ layer.values + weights[..., own:] * v[:, :, rows]
    return out


def _tiles(n: int, per_row: int, device: torch.device) -> list[slice]:
    """Slices of `n` rows so that a tile of `per_row` numbers a row is no larger than what a cache holds."""
    step = max(1, _TILE.get(device.type, _TILE_ELSEWHERE) // max(1, per_row))
    return [slice(start, start + step) for start in range(0, n, step)]
