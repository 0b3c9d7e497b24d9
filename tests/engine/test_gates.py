"""Gate gradients against autograd through explicit gates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from scgeneformer.engine.perturb import _gates
from scgeneformer.engine.perturb._gates import Base, Probes, gate_gradients


def gated_readout(encoder, base, probes, gates, readout, pooling, n_special, n_layers, cell):
    """The readout of one cell, in which the gates of base and probes are tensors that autograd sees."""
    n = int(base.mask[cell].sum()) if base.mask is not None else base.tokens.shape[1]
    tokens = torch.cat([base.tokens[cell, :n], probes.tokens[cell]])
    positions = torch.cat([base.positions[cell, :n], probes.positions[cell]])
    total = len(tokens)
    seen = torch.zeros(total, total, dtype=torch.float64)
    seen[:n] = gates  # the base sees everything, as far as its gate is open
    seen[:n, :n].fill_diagonal_(1.0)  # gates are for others
    seen[n:, :n] = 1.0
    for p in range(total - n):
        if probes.replaces[cell, p] < n:
            seen[n + p, probes.replaces[cell, p]] = 0.0
            seen[probes.replaces[cell, p], n + p] = 0.0
        seen[n + p, n + p] = 1.0
    x = encoder.embedding(tokens[None], positions[None])
    for block in encoder.blocks[:n_layers]:
        q, k, v = block.attention.project(x, x)
        weights = seen * torch.exp(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5)
        o = weights / weights.sum(-1, keepdim=True) @ v
        x = block.finish(x, block.attention.join(o))
    share = gates * (tokens >= n_special)
    pooled = x[0, 0] if pooling == "cls" else (share[:, None] * x[0]).sum(0) / share.sum()
    return readout(pooled[None])[0]


def cells(n_states=3):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([11, 7])
    tokens = torch.randint(4, 60, (2, 11), generator=generator)
    tokens[:, 0] = 2
    mask = torch.arange(11) < lengths[:, None]
    tokens = torch.where(mask, tokens, 0)
    tokens[0, 10] = tokens[1, 6] = 3
    base = Base(tokens, torch.arange(11).expand(2, -1) + 1, mask)
    probes = Probes(
        torch.randint(3, 60, (2, 9), generator=generator),
        torch.randint(0, 40, (2, 9), generator=generator),
        torch.tensor([[1, 2, 3, 4, 5, 6, 11, 11, 10], [1, 11, 2, 3, 4, 6, 5, 11, 11]]),
    )
    goals = torch.randn(n_states, 16, generator=generator, dtype=torch.float64)
    return base, probes, lambda e: F.cosine_similarity(e[:, None], goals[None].to(e.dtype), dim=-1)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("small_tiles", [True, False])
def test_equals_autograd(small, pooling, n_layers, small_tiles, monkeypatch):
    if small_tiles:
        monkeypatch.setattr(_gates, "_TILE", {"cpu": 50})
    encoder = copy.deepcopy(small).double()
    base, probes, readout = cells()
    found = gate_gradients(
        encoder,
        base,
        probes,
        readout,
        pooling=pooling,
        n_special=4,
        n_layers=n_layers,
        probes_at_once=4 if small_tiles else 100,
    )
    for cell in range(2):
        n = int(base.mask[cell].sum())
        gates = torch.cat([torch.ones(n), torch.zeros(9)]).double().requires_grad_()
        values = gated_readout(encoder, base, probes, gates, readout, pooling, 4, n_layers, cell)
        torch.testing.assert_close(found.values[cell], values.detach(), rtol=0, atol=1e-12)
        for s, value in enumerate(values):
            expected = torch.autograd.grad(value, gates, retain_graph=True)[0]
            torch.testing.assert_close(found.base[cell, :n, s], expected[:n], rtol=0, atol=1e-11)
            torch.testing.assert_close(found.probes[cell, :, s], expected[n:], rtol=0, atol=1e-11)
        assert (found.base[cell, n:] == 0).all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_float32_is_close(small, pooling):
    base, probes, readout = cells()
    options = {"pooling": pooling, "n_special": 4, "n_layers": 2}
    expected = gate_gradients(copy.deepcopy(small).double(), base, probes, readout, **options)
    found = gate_gradients(small, base, probes, readout, **options)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_a_token_at_a_slightly_other_place_is_the_derivative(small, pooling, n_layers):
    """Replacing a token by itself at a slightly different position: probe minus base is the exact change, up to the square of the move."""
    encoder = copy.deepcopy(small).double()
    base, _, readout = cells()
    options = {"pooling": pooling, "n_special": 4, "n_layers": n_layers}
    elsewhere, moved = 39, 4
    step = 1e-5 * torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoder.embedding.position.weight[elsewhere] = (
            encoder.embedding.position.weight[base.positions[0, moved]] + step
        )
    at = torch.full((2, 1), moved)
    probes = Probes(base.tokens[:, at[0]], torch.full((2, 1), elsewhere), at)
    found = gate_gradients(encoder, base, probes, readout, **options)
    estimate = found.probes[:, 0] - found.base[:, moved]
    positions = base.positions.clone()
    positions[:, moved] = elsewhere
    after = gate_gradients(encoder, Base(base.tokens, positions, base.mask), probes, readout, **options).values
    exact = after - found.values
    torch.testing.assert_close(estimate, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))
