"""Cross-entropy of a linear layer with many outputs, whose scores never exist all at once.

Shapes: M positions, H width, V genes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores that exist at once. On CPUs 16 MB of float32: glibc asks the system for every larger block anew, which took a third of a step.
_SCORES, _SCORES_ON_GPU = 2**22, 2**26


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the softmax of ``x @ weight.T + bias``, in float32, summed over positions.

    Its gradients are computed with it, some positions at a time, so that no (M, V) tensor is stored for the backward pass.

    Parameters
    ----------
    x
        States, (M, H).
    weight, bias
        Of the layer, (V, H) and (V,).
    targets
        The right outputs, int64 (M,).

    Returns
    -------
    The sum in nats, and whether the best score is the target's, bool (M,).
    """
    if (
        not torch.is_grad_enabled()
    ):  # which the function cannot see: it asks the inputs, and parameters say yes in validation too
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
    total, right = _LinearCrossEntropy.apply(x, weight, bias, targets)  # type: ignore[no-untyped-call]
    return total, right


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total, right = x.new_zeros((), dtype=torch.float32), torch.empty_like(targets, dtype=torch.bool)
        of_x, of_weight, of_bias = (
            torch.zeros_like(of, dtype=torch.float32) if wanted else None
            for of, wanted in zip((x, weight, bias), ctx.needs_input_grad, strict=False)
        )
        step = max(1, (_SCORES if x.device.type == "cpu" else _SCORES_ON_GPU) // len(weight))
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            states, target = x[rows], targets[rows, None]
            scores = F.linear(states, weight, bias)  # (m, V), in the precision of autocast
            # float16 cannot hold gradients that no loss scale has enlarged
            dtype = torch.float32 if scores.dtype == torch.float16 else scores.dtype
            scores = scores.float()
            right[rows] = scores.argmax(1) == target[:, 0]
            norm = scores.logsumexp(1, keepdim=True)  # (m, 1)
            total += (norm - scores.gather(1, target)).sum()
            if not any(ctx.needs_input_grad):
                continue
            errors = scores.sub_(norm).exp_()  # probabilities, less 1 for the target: the gradient by the scores
            errors.scatter_add_(1, target, torch.full_like(norm, -1.0))
            if of_bias is not None:
                of_bias += errors.sum(0)
            with torch.autocast(x.device.type, enabled=False):
                errors = errors.to(dtype)
                if of_x is not None:
                    of_x[rows] = errors @ weight.to(dtype)
                if of_weight is not None:
                    of_weight += errors.T @ states.to(dtype)
        ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        ctx.save_for_backward(of_x, of_weight, of_bias)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if of is None else (gradient * of).to(dtype) for of, dtype in found), None
