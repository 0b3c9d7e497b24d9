from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from scgeneformer.nn._dropout import Dropout


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drops_that_share_and_scales_the_rest(p, dtype):
    torch.manual_seed(0)
    x = torch.full((40, 1001), 3.0, dtype=dtype)  # not a multiple of four
    found = Dropout(p).train()(x)
    assert found.dtype == dtype
    for some in (found, found[:, ::4], found[::2], found[:, :7]):
        assert binomtest(int((some == 0).sum()), some.numel(), p).pvalue > 1e-4
    torch.testing.assert_close(found[found != 0].unique(), torch.tensor([3 / (1 - p)], dtype=dtype), rtol=1e-2, atol=0)


def test_decisions_are_independent():
    """Neighbours, which may come from one random number, agree as often as by chance."""
    torch.manual_seed(0)
    kept = Dropout(0.5).train()(torch.ones(100_000)) != 0
    for lag in (1, 2, 3, 4):
        both = int((kept[lag:] == kept[:-lag]).sum())
        assert binomtest(both, len(kept) - lag, 0.5).pvalue > 1e-4


def test_gradient_goes_where_values_went():
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    found = Dropout(0.3).train()(x)
    found.sum().backward()
    torch.testing.assert_close(x.grad, found.detach())


def test_off_and_extremes():
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
    assert not Dropout(1.0).train()(x).any()
    assert Dropout(0.5).train()(x[:0]).shape == (0, 3)


def test_same_seed_same_masks():
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(Dropout(0.5).train()(torch.ones(100)))
    assert torch.equal(*found)
