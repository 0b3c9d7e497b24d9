"""Terms of the loss of `StateShift`, as functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLD = 0.1  # offsets below it are 0
PRIOR_SD = 0.5  # of the base representation


def soft_threshold(mean: Tensor, value: Tensor | None = None) -> Tensor:
    """The value of a gate: `value` moved towards 0 by the threshold on the side of its `mean`, and 0 beyond.

    Parameters
    ----------
    mean
        Means of the gates, any shape.
    value
        Values drawn with these means, of the same shape. Defaults to the means themselves, for the value without noise.
    """
    side = torch.sign(mean)
    return side * torch.relu(side * (mean if value is None else value) - THRESHOLD)


def p_open(mean: Tensor, sd: Tensor) -> Tensor:
    """Probability that a gate is open, as a function of its mean and standard deviation."""
    return torch.special.ndtr((mean.abs() - THRESHOLD) / sd)


def l0(mean: Tensor, sd: Tensor) -> Tensor:
    """Expected number of open gates less twice the most probable one, so that the first is rewarded and each further one costs.

    Parameters
    ----------
    mean, sd
        Of the gates of each cell, (B, D).

    Returns
    -------
    (B,)
    """
    opened = p_open(mean, sd)
    return opened.sum(-1) - 2 * opened.amax(-1)


def squared_label_means(codes: Tensor, latent: Tensor, n_labels: int) -> Tensor:
    """Squared length of the mean of `latent` in each label, averaged over cells, without bias.

    The products of different cells of a label have the square of its mean as their expectation. A label with one cell in the batch has no such
    product and counts as 0.

    Parameters
    ----------
    codes
        Label of each cell, (B,).
    latent
        Base representation, (B, D).
    n_labels
        Number of labels.
    """
    one_hot = torch.nn.functional.one_hot(codes, n_labels).to(latent.dtype)  # (B, P)
    n = one_hot.sum(0)  # (P,)
    totals = one_hot.T @ latent  # (P, D)
    products = totals.square().sum(1) - one_hot.T @ latent.square().sum(1)  # (P,), over pairs of different cells
    return (n * products / (n * (n - 1)).clamp(min=1)).sum() / len(codes)
