"""Heads on top of the encoder: masked genes, classes of cells, classes of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._encoder import _ACTIVATIONS, Encoder, init_weights

if TYPE_CHECKING:
    from ._config import EncoderConfig


class MaskedGeneHead(nn.Module):
    """Scores of every gene at a position; the output matrix is the encoder's gene embedding."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.width, config.width)
        self.activation = _ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, x: Tensor, gene_embedding: Tensor) -> Tensor:
        return F.linear(self.norm(self.activation(self.transform(x))), gene_embedding, self.bias)  # (..., vocabulary)


class MaskedGeneModel(nn.Module):
    """Encoder with the head that it is pretrained with."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.head = MaskedGeneHead(config)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, where: Tensor | None = None) -> Tensor:
        """Logits over the vocabulary.

        Parameters
        ----------
        tokens, mask
            As `Encoder.forward`.
        where
            bool (B, L): score these M positions only, so that no (B, L, vocabulary) tensor is made.

        Returns
        -------
        (B, L, vocabulary), or (M, vocabulary) in row-major order of `where`.
        """
        x = self.encoder(tokens, mask)  # (B, L, H)
        return self.head(x if where is None else x[where], self.encoder.embedding.gene.weight)


class CellClassifier(nn.Module):
    """Classes of cells from the first token's last state, as BERT's sequence classification."""

    def __init__(self, config: EncoderConfig, n_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, n_classes)
        for layer in (self.pooler, self.classifier):
            init_weights(layer, config.initializer_range)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        first = self.encoder(tokens, mask, positions=slice(0, 1))[:, 0]  # (B, H)
        return self.classifier(self.dropout(torch.tanh(self.pooler(first))))  # (B, classes)


class GeneClassifier(nn.Module):
    """Classes of genes, one answer for every token, as BERT's token classification."""

    def __init__(self, config: EncoderConfig, n_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, n_classes)
        init_weights(self.classifier, config.initializer_range)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.classifier(self.dropout(self.encoder(tokens, mask)))  # (B, L, classes)
