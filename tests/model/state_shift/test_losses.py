"""Terms of the loss against plain NumPy, and the laws of gates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scgeneformer.model.state_shift._losses import l0, p_open, soft_threshold, squared_label_means
from scgeneformer.model.state_shift._module import StateShiftModule

SIZES = {"n_hidden": 8, "n_latent": 3, "n_layers": 1, "dropout": 0.0, "corruption": 0.25}
WEIGHTS = {"l0_weight": 3.0, "prior_weight": 2.0, "independence_weight": 5.0}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def numpy_penalties(mean, var, latent, gate_mean, gate_sd, labels, free):
    """Divergence from the prior, L0 and dependence on labels, written out."""
    kl = (np.log(0.5) - 0.5 * np.log(var) + (var + mean**2) / (2 * 0.25) - 0.5).sum(1).mean()
    opened = stats.norm.cdf((np.abs(gate_mean[labels]) - 0.1) / gate_sd[labels])
    n_open = (free[labels] * (opened.sum(1) - 2 * opened.max(1))).mean()
    dependence = 0.0
    for label in np.unique(labels):
        rows = latent[labels == label]
        products = [one @ other for i, one in enumerate(rows) for j, other in enumerate(rows) if i != j]
        dependence += len(rows) / len(labels) * (np.mean(products) if products else 0)
    return kl, n_open, dependence


@pytest.mark.parametrize("counts", [True, False])
def test_the_loss_is_what_ten_lines_of_numpy_make_it(counts):
    torch.manual_seed(0)
    module = StateShiftModule(6, 4, 2, counts=counts, control=1, **SIZES, **WEIGHTS)
    module.center.fill_(0.5)
    module.scale.fill_(2.0)
    module.log_dispersion.data = draw(6, seed=1)
    x = torch.from_numpy(np.random.default_rng(2).poisson(3, (10, 6))).float()
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])  # the last has one cell
    batch = torch.arange(10)[:, None] % 2
    inference, generated, output = module(
        {"X": x, "labels": torch.from_numpy(labels)[:, None], "batch": batch}, loss_kwargs={"kl_weight": 0.5}
    )
    mean, var, latent = (inference[name].detach().double().numpy() for name in ("mean", "var", "latent"))
    gate_mean = module.offset_mean.weight.detach().double().numpy()
    gate_sd = np.exp(0.5 * module.offset_log_var.weight.detach().double().numpy())
    kl, n_open, dependence = numpy_penalties(mean, var, latent, gate_mean, gate_sd, labels, np.array([1, 0, 1, 1]))
    scale = np.exp(module.log_dispersion.detach().double().numpy())
    if counts:
        mu = generated["px"].mu.detach().double().numpy()
        np.testing.assert_allclose(mu.sum(1), x.sum(1), rtol=1e-5)
        log_p = stats.nbinom.logpmf(x.numpy(), scale, scale / (scale + mu)).sum(1)
    else:
        log_p = stats.norm.logpdf((x.numpy() - 0.5) / 2, generated["px"].loc.detach().numpy(), scale).sum(1)
    expected = -log_p.mean() + 0.5 * (2 * kl + 3 * n_open + 5 * dependence)
    np.testing.assert_allclose(output.loss.item(), expected, rtol=1e-4)


def test_soft_threshold():
    mean, value = torch.tensor([0.3, -0.3, 0.05, 0.3, -0.3]), torch.tensor([0.5, -0.5, 0.5, -0.5, 0.05])
    torch.testing.assert_close(soft_threshold(mean), torch.tensor([0.2, -0.2, 0.0, 0.2, -0.2]))
    torch.testing.assert_close(soft_threshold(mean, value), torch.tensor([0.4, -0.4, 0.4, 0.0, 0.0]))
    assert soft_threshold(torch.zeros(2), torch.ones(2)).eq(0).all()


def test_a_gate_is_open_as_often_as_it_says():
    mean, sd = torch.tensor([0.4, -0.2, 0.02]), torch.tensor([0.3, 0.5, 0.2])
    drawn = mean + sd * draw(200_000, 3)
    frequency = (soft_threshold(mean.expand_as(drawn), drawn) != 0).float().mean(0)
    torch.testing.assert_close(frequency, p_open(mean, sd), atol=5e-3, rtol=0)


def test_one_open_gate_is_rewarded_and_each_further_one_costs():
    sd = torch.full((4, 3), 1e-3)
    mean = torch.tensor([[0, 0, 0], [9, 0, 0], [9, 9, 0], [9, 9, 9]], dtype=torch.float32)
    torch.testing.assert_close(l0(mean, sd), torch.tensor([0.0, -1.0, 0.0, 1.0]))


def test_dependence_is_the_squared_mean_of_labels_without_bias():
    """Over small batches from normal clouds around known points, the mean is their squared distance from 0."""
    centers = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 2.0]])
    codes = torch.tensor([0, 0, 1, 1, 2, 2])
    drawn = [squared_label_means(codes, centers[codes] + draw(6, 2, seed=i), 3).item() for i in range(4000)]
    assert abs(np.mean(drawn) - (1 + 0 + 4) / 3) < 4 * np.std(drawn) / np.sqrt(len(drawn))
    assert squared_label_means(torch.arange(3), centers, 3) == 0


def test_corruption_keeps_the_values_of_each_gene():
    torch.manual_seed(0)
    module = StateShiftModule(400, 2, 0, counts=True, control=None, **SIZES, **WEIGHTS)
    x = torch.arange(20 * 400).reshape(20, 400).float()
    corrupted = module._corrupted(x)
    changed = (corrupted != x).any(0)
    assert 0.15 < changed.float().mean() < 0.35
    torch.testing.assert_close(corrupted.sort(0).values, x)
    assert not torch.equal(*(corrupted[:, changed][:, i] - x[:, changed][:, i] for i in (0, 1)))
    assert torch.equal(x, torch.arange(20 * 400).reshape(20, 400).float())
