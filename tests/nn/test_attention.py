"""Attention in tiles against torch's own, in every shape that occurs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scgeneformer.nn import _attention


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("queries", [1, 37])
@pytest.mark.parametrize("tile", [1, 500, 2**20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tiles_equal_the_whole(monkeypatch, masked, queries, tile, dtype):
    monkeypatch.setattr(_attention, "_TILE", tile)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, generator=generator).to(dtype) for n in (queries, 37, 37))
    mask = (torch.arange(37) < torch.tensor([37, 20, 1])[:, None])[:, None, None] if masked else None
    found = _attention.attend_in_tiles(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 0.03
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


def test_gradients_take_the_fused_kernel():
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    _attention.attend(q, k, v, None, 0.0).sum().backward()
    assert v.grad is not None
