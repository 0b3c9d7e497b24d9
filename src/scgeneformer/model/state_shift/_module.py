"""The network of `StateShift` as a module of scvi-tools."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.nn import Encoder, FCLayers
from torch import nn
from torch.distributions import Normal, kl_divergence

from ._losses import PRIOR_SD, l0, p_open, soft_threshold, squared_label_means

if TYPE_CHECKING:
    from torch import Tensor

_FIRST_MEANS, _FIRST_NOISE = 0.1, 0.5  # standard deviations of the means of gates before training, and of their noise
_NOT_FINITE = "The loss became infinite or NaN. Train a new model with a lower learning_rate."


class StateShiftModule(BaseModuleClass):
    """Encoder of cells, a table of offsets of labels, and a decoder of their sum.

    Parameters
    ----------
    n_input, n_labels, n_batch
        Number of genes or dimensions of an embedding, of labels, and of batches (0 if there are none).
    counts
        Whether the input is counts, with a negative binomial likelihood, or an embedding, with a normal one.
    control
        Number of the label whose offset is 0, if any.
    n_hidden, n_latent, n_layers, dropout
        Sizes of the hidden layers and of the representation, number of hidden layers, dropout of the encoder.
    l0_weight, prior_weight, independence_weight
        Weights of the terms of the loss, each of which is warmed up.
    corruption
        Probability that a gene is permuted across the cells of a training batch. Embeddings are not corrupted.
    """

    center: Tensor
    scale: Tensor
    is_free: Tensor

    def __init__(
        self,
        n_input: int,
        n_labels: int,
        n_batch: int,
        *,
        counts: bool,
        control: int | None,
        n_hidden: int,
        n_latent: int,
        n_layers: int,
        dropout: float,
        l0_weight: float,
        prior_weight: float,
        independence_weight: float,
        corruption: float,
    ) -> None:
        super().__init__()
        self.counts, self.n_batch, self.corruption = counts, n_batch, corruption
        self.l0_weight, self.prior_weight, self.independence_weight = l0_weight, prior_weight, independence_weight
        layers = {"n_layers": n_layers, "n_hidden": n_hidden, "use_batch_norm": False}
        self.encoder = Encoder(n_input, n_latent, dropout_rate=dropout, use_layer_norm=True, **layers)
        self.decoder = FCLayers(n_latent, n_hidden, n_cat_list=[n_batch], dropout_rate=0, **layers)
        self.output = nn.Linear(n_hidden, n_input)
        self.log_dispersion = nn.Parameter(torch.zeros(n_input))  # of counts, or of the standard deviation
        self.offset_mean = nn.Embedding(n_labels, n_latent)
        self.offset_log_var = nn.Embedding(n_labels, n_latent)
        nn.init.normal_(self.offset_mean.weight, std=_FIRST_MEANS)
        nn.init.constant_(self.offset_log_var.weight, 2 * math.log(_FIRST_NOISE))
        self.register_buffer("center", torch.zeros(n_input))  # of an embedding in the training data
        self.register_buffer("scale", torch.ones(n_input))
        self.register_buffer("is_free", torch.ones(n_labels, 1))
        if control is not None:
            self.is_free[control] = 0

    def standardise(self, x: Tensor) -> Tensor:
        """What the encoder reads of counts or an embedding, (B, n_input)."""
        return torch.log1p(x) if self.counts else (x - self.center) / self.scale

    def gates(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the gates of each label, (B, D)."""
        return self.offset_mean(labels), torch.exp(0.5 * self.offset_log_var(labels))

    @torch.no_grad()
    def offsets(self) -> tuple[Tensor, Tensor]:
        """Offset of each label without noise, and the probability that its gate is open, (n_labels, D)."""
        mean, sd = self.gates(torch.arange(len(self.is_free), device=self.is_free.device))
        return self.is_free * soft_threshold(mean), self.is_free * p_open(mean, sd)

    def base(self, x: Tensor) -> Tensor:
        """Base representation of cells, the mean of its posterior, (B, D)."""
        return self.encoder(self.standardise(x.to(self.device)))[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs and loss of a batch of training; raise if they are not finite, which torch's distributions find first."""
        try:
            outputs = super().forward(*args, **kwargs)
        except ValueError as error:
            raise FloatingPointError(_NOT_FINITE) from error
        if not torch.isfinite(outputs[-1].loss):
            raise FloatingPointError(_NOT_FINITE)
        return outputs

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        return {"x": tensors[REGISTRY_KEYS.X_KEY]}

    def inference(self, x: Tensor) -> dict[str, Tensor]:
        """Posterior of the base representation, and a draw from it."""
        if self.training and self.counts and self.corruption:
            x = self._corrupted(x)
        mean, var, latent = self.encoder(self.standardise(x))
        return {"mean": mean, "var": var, "latent": latent}

    def _corrupted(self, x: Tensor) -> Tensor:
        """`x` with some genes, drawn for each batch, permuted across cells."""
        genes = torch.rand(x.shape[1], device=x.device) < self.corruption
        order = torch.rand(len(x), int(genes.sum()), device=x.device).argsort(0)
        x = x.clone()
        x[:, genes] = x[:, genes].gather(0, order)
        return x

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Any]:
        return {
            "latent": inference_outputs["latent"],
            "labels": tensors[REGISTRY_KEYS.LABELS_KEY].squeeze(-1),
            "batch": tensors.get(REGISTRY_KEYS.BATCH_KEY),
            "total": tensors[REGISTRY_KEYS.X_KEY].sum(1, keepdim=True),
        }

    def generative(self, latent: Tensor, labels: Tensor, batch: Tensor | None, total: Tensor) -> dict[str, Any]:
        """Distribution of counts, or of the standardised embedding, of cells with their labels."""
        mean, sd = self.gates(labels)
        drawn = mean + sd * torch.randn_like(sd) if self.training else mean
        shifted = latent + self.is_free[labels] * soft_threshold(mean, drawn)
        output = self.output(self.decoder(shifted, batch))
        if self.counts:
            rate = total * torch.softmax(output, dim=-1)
            return {"px": NegativeBinomial(mu=rate, theta=self.log_dispersion.exp())}
        return {"px": Normal(output, self.log_dispersion.exp())}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Any],
        kl_weight: float = 1.0,
    ) -> LossOutput:
        """Reconstruction, and what is warmed up: distance from the prior, number of open gates, dependence on labels."""
        x, labels = tensors[REGISTRY_KEYS.X_KEY], tensors[REGISTRY_KEYS.LABELS_KEY].squeeze(-1)
        reconstruction = -generative_outputs["px"].log_prob(x if self.counts else self.standardise(x)).sum(-1)
        posterior = Normal(inference_outputs["mean"], inference_outputs["var"].sqrt())
        kl = kl_divergence(posterior, Normal(0.0, PRIOR_SD)).sum(-1)
        n_open = (self.is_free[labels, 0] * l0(*self.gates(labels))).mean()
        dependence = squared_label_means(labels, inference_outputs["latent"], len(self.is_free))
        penalty = self.prior_weight * kl.mean() + self.l0_weight * n_open + self.independence_weight * dependence
        return LossOutput(
            loss=reconstruction.mean() + kl_weight * penalty,
            reconstruction_loss=reconstruction,
            kl_local=kl,
            extra_metrics={"l0": n_open, "dependence": dependence},
        )

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Not offered, and not a method of the model: scvi-tools' base class asks every module for it."""
        msg = "StateShift draws no cells."
        raise NotImplementedError(msg)
