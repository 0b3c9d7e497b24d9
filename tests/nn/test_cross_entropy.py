"""The loss that never holds all scores is that of torch, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scgeneformer.nn import _cross_entropy
from scgeneformer.nn._cross_entropy import linear_cross_entropy

M, H, V = 30, 16, 40


@pytest.fixture
def given() -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=rng) for shape in ((M, H), (V, H), (V,)))
    return x, weight, bias, torch.randint(V, (M,), generator=rng)


def whole(x, weight, bias, targets):
    """The same with all scores at once."""
    scores = F.linear(x, weight, bias).float()
    return F.cross_entropy(scores, targets, reduction="sum"), scores.argmax(1) == targets


def with_gradients(function, x, weight, bias, targets, *, autocast: bool = False) -> list[torch.Tensor]:
    inputs = [value.clone().requires_grad_() for value in (x, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        total, right = function(*inputs, targets)
    (total / 7).backward()
    assert all(value.grad.dtype == value.dtype for value in inputs)
    return [total.detach(), right, *(value.grad for value in inputs)]


@pytest.mark.parametrize("positions_at_once", [1, 7, 1000])
def test_loss_and_gradients_are_torchs(given, monkeypatch, positions_at_once):
    monkeypatch.setattr(_cross_entropy, "_SCORES", V * positions_at_once)
    for found, expected in zip(
        with_gradients(linear_cross_entropy, *given), with_gradients(whole, *given), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("positions_at_once", [7, 1000])
@pytest.mark.parametrize("autocast", [True, False])
def test_in_half_precision_they_are_as_close_as_torchs(given, monkeypatch, positions_at_once, autocast):
    """With autocast, and where the network itself is in bfloat16: no farther from float32 than twice what torch is."""
    monkeypatch.setattr(_cross_entropy, "_SCORES", V * positions_at_once)
    exact = with_gradients(whole, *given)
    inputs = given if autocast else (*(value.bfloat16() for value in given[:3]), given[3])
    found, theirs = (with_gradients(f, *inputs, autocast=autocast) for f in (linear_cross_entropy, whole))
    for a, b, c in zip(found[2:], theirs[2:], exact[2:], strict=True):
        assert (a.float() - c).norm() < 2 * (b.float() - c).norm() + 1e-3 * c.norm()
    torch.testing.assert_close(found[0], theirs[0], rtol=1e-3, atol=0)


def test_only_what_is_trained_gets_a_gradient(given):
    x, weight, bias, targets = given
    x.requires_grad_()
    total, right = linear_cross_entropy(x, weight, bias, targets)
    total.backward()
    expected = x.grad.clone()
    x.grad = None
    whole(x, weight, bias, targets)[0].backward()
    torch.testing.assert_close(expected, x.grad)
    assert weight.grad is None
    assert bias.grad is None
    assert not right.requires_grad
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, bias, targets)[0].requires_grad


def test_a_matrix_that_is_also_the_embedding_gets_both_gradients(given):
    _, weight, bias, targets = given
    grads = []
    for function in (linear_cross_entropy, whole):
        table = weight.clone().requires_grad_()
        function(F.embedding(targets.flip(0), table), table, bias, targets)[0].backward()
        grads.append(table.grad)
    torch.testing.assert_close(*grads)


def test_no_positions_cost_nothing(given):
    _, weight, bias, _ = given
    x = torch.zeros(0, H, requires_grad=True)
    total, right = linear_cross_entropy(x, weight.requires_grad_(), bias, torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert total == 0
    assert right.shape == (0,)
    assert weight.grad.abs().max() == 0


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Numbers of elements of the tensors that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = torch.utils._pytree.tree_leaves(out)
        is_view = str(func) in ("aten.t.default", "aten.detach.default")
        self.seen.extend(each.numel() for each in made if torch.is_tensor(each) and not is_view)
        return out


def test_no_tensor_of_all_scores_is_made(given, monkeypatch):
    """The largest tensor that torch makes is the gradient of the matrix; scores of all positions would be V * M."""
    monkeypatch.setattr(_cross_entropy, "_SCORES", V * 3)
    with Watch() as watch:
        with_gradients(linear_cross_entropy, *given)
    assert max(watch.seen) == V * H


def test_no_gradient_is_computed_in_validation(given, monkeypatch):
    """Parameters ask for gradients there too. Scores of three positions are the largest tensor, and there is no gradient of the matrix."""
    monkeypatch.setattr(_cross_entropy, "_SCORES", V * 3)
    inputs = [value.requires_grad_() for value in given[:3]]
    with torch.no_grad(), Watch() as watch:
        total, _ = linear_cross_entropy(*inputs, given[3])
    assert max(watch.seen) == V * 3
    torch.testing.assert_close(total, whole(*given)[0].detach())
