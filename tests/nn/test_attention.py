"""Attention in tiles against torch's own, in every shape that occurs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scgeneformer.nn import _attention


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("queries", [1, 37])
@pytest.mark.parametrize("tile", [1, 500, 2**20])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1), (torch.float64, 100), (torch.bfloat16, 1)])
def test_tiles_equal_the_whole(monkeypatch, masked, queries, tile, dtype, size):
    monkeypatch.setattr(_attention, "_TILE", tile)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, generator=generator).to(dtype) for n in (queries, 37, 37))
    q = size * q  # large scores take another way
    assert (_attention._bound(q.flatten(0, 1), k.flatten(0, 1)) < _attention._LARGEST) == (size == 1)
    mask = (torch.arange(37) < torch.tensor([37, 20, 1])[:, None])[:, None, None] if masked else None
    found = _attention.TiledAttention.apply(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 0.03
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_just_below_the_bound_stay_finite(sign):
    """All keys point the same way, so that each score is at the bound, and 4,096 exponentials are added up."""
    n = 4096
    k = torch.ones(1, 1, n, 16, dtype=torch.bfloat16)
    q = sign * 15.875 * k[:, :, :20]
    v = torch.linspace(-100, 100, n, dtype=torch.bfloat16)[None, None, :, None].expand(1, 1, n, 16)
    assert 63 < _attention._bound(q[0], k[0]) < _attention._LARGEST
    found = _attention.TiledAttention.apply(q, k, v, None).double()
    torch.testing.assert_close(found, v.double().mean().expand_as(found), rtol=0, atol=0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cell_without_keys_attends_to_nothing(dtype):
    x = torch.randn(2, 2, 20, 4, dtype=dtype)
    mask = torch.tensor([[True] * 20, [False] * 20])[:, None, None]
    assert _attention.TiledAttention.apply(x, x, x, mask)[1].eq(0).all()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("queries", [1, 11])
@pytest.mark.parametrize("tile", [1, 60, 2**20])
def test_gradients_of_tiles_are_those_of_the_whole(monkeypatch, masked, queries, tile):
    monkeypatch.setattr(_attention, "_TILE", tile)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2, n, 4) for n in (queries, 11, 11)]
    mask = (torch.arange(11) < torch.tensor([11, 6, 1])[:, None])[:, None, None] if masked else None
    once = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    upstream = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    gradients = []
    for attend in (
        _attention.TiledAttention.apply,
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
    ):
        inputs = [x.clone().requires_grad_() for x in once]
        attend(*inputs, mask).backward(upstream)
        gradients.append([x.grad for x in inputs])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradients_in_half_precision_are_as_near_as_torch_s():
    """Values share a large vector, as hidden states do, and the differences between them must remain accurate."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (torch.randn(2, 2, 300, 16, generator=generator) for _ in range(4))
    v += 20 * torch.randn(1, 2, 1, 16, generator=generator)

    def gradients(attend, dtype):
        inputs = [x.bfloat16().to(dtype).requires_grad_() for x in (q, k, v)]
        attend(*inputs).backward(upstream.bfloat16().to(dtype))
        return [x.grad.double() for x in inputs]

    exact = gradients(F.scaled_dot_product_attention, torch.float64)
    fused = gradients(F.scaled_dot_product_attention, torch.bfloat16)
    tiled = gradients(lambda q, k, v: _attention.attend(q, k, v, None, 0.0), torch.bfloat16)
    for e, f, t in zip(exact, fused, tiled, strict=True):
        assert (t - e).norm() < max(1.5 * (f - e).norm(), 0.02 * e.norm())


def test_which_kernel_is_taken(monkeypatch):
    monkeypatch.setattr(_attention.TiledAttention, "apply", lambda *args: "tiles")
    x = torch.randn(1, 2, 30, 4)
    assert _attention.attend(x.bfloat16(), x.bfloat16(), x.bfloat16(), None, 0.0) == "tiles"
    few = x[:, :, :3].bfloat16()
    assert isinstance(_attention.attend(few, x.bfloat16(), x.bfloat16(), None, 0.0), torch.Tensor)
    for dtype, dropout, causal in (
        (torch.float32, 0.0, False),
        (torch.bfloat16, 0.1, False),
        (torch.bfloat16, 0.0, True),
    ):
        assert isinstance(_attention.attend(*[x.to(dtype)] * 3, None, dropout, causal=causal), torch.Tensor)
