"""Heads on top of the encoder: masked genes, classes of cells, classes of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._cross_entropy import linear_cross_entropy
from ._dropout import Dropout
from ._encoder import _ACTIVATIONS, Encoder, init_weights
from ._llama import Llama
from ._llama_config import LlamaConfig
from .retention import CellFM, CellFMConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ._config import EncoderConfig


HEADS = ("bert", "linear")


def new_backbone(config: EncoderConfig | LlamaConfig | CellFMConfig) -> Encoder | Llama | CellFM:
    """A backbone of this shape with new weights."""
    if isinstance(config, LlamaConfig):
        return Llama(config)
    return CellFM(config) if isinstance(config, CellFMConfig) else Encoder(config)


class MaskedGeneHead(nn.Module):
    """Scores of all genes at each position; the output matrix is the gene embedding of the encoder.

    Examples
    --------
    >>> model = sg.nn.load_masked_gene_model(sg.hub.load("default").folder)
    >>> states = model.encoder(torch.tensor([[2, 50, 1, 3]]))
    >>> model.head(states, model.encoder.embedding.gene.weight).shape
    torch.Size([1, 4, 13156])
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.width, config.width)
        self.activation = _ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, x: Tensor, gene_embedding: Tensor) -> Tensor:
        return F.linear(self._states(x), gene_embedding, self.bias)  # (..., vocabulary)

    def errors(self, x: Tensor, gene_embedding: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy in nats, and whether the best score is the target's, as of :func:`linear_cross_entropy`; `x` is (M, H)."""
        return linear_cross_entropy(self._states(x), gene_embedding, self.bias, targets)

    def _states(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.transform(x)))  # (..., H)


class MaskedGeneModel(nn.Module):
    """Encoder with a masked-gene head.

    Examples
    --------
    >>> model = sg.nn.load_masked_gene_model(sg.hub.load("default").folder)
    >>> tokens = torch.tensor([[2, 50, 1, 3]])  # the third is masked
    >>> model(tokens, where=tokens == 1).shape
    torch.Size([1, 13156])
    """

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


class Standardise(nn.Module):
    """States in units of their standard deviation over some cells, from their mean there; the identity until both are set.

    Both stay in float32 where the rest is cast to a lower precision: states of cells differ by little compared with
    what they share.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.float() - self.mean) / self.sd).to(x.dtype)  # (..., H)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        before = self.mean, self.sd
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.mean.dtype != torch.float32:
            self.mean, self.sd = (value.to(self.mean.device) for value in before)
        return self


class CellClassifier(nn.Module):
    """Scores of cells from one state each.

    Parameters
    ----------
    config
        Shape of the backbone.
    n_outputs
        Number of scores.
    pooling
        Which state: ``"cls"``, the first token's, as BERT's; ``"eos"``, the last token's of a decoder; ``"mean"`` over genes; ``"attention"``, a mean over all tokens with weights
        that are learned. Padding has no part in any of them.
    n_special
        Token ids below this one are not genes.
    head
        ``"bert"``: a layer with tanh and a linear one, as in BERT's sequence classification. ``"linear"``: one linear layer on states that
        are standardised by a mean and a standard deviation that are saved with the weights.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> model = sg.nn.CellClassifier(config, n_outputs=3, pooling="mean", n_special=4, head="linear")
    >>> model(torch.tensor([[2, 50, 7, 3]])).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        config: EncoderConfig | LlamaConfig | CellFMConfig,
        n_outputs: int,
        pooling: Literal["cls", "mean", "eos", "attention"] = "cls",
        n_special: int = 0,
        head: Literal["bert", "linear"] = "bert",
    ) -> None:
        super().__init__()
        poolings = (*config.poolings, "attention")
        for name, value, allowed in (("pooling", pooling, poolings), ("head", head, HEADS)):
            if value not in allowed:
                msg = f"{name}={value!r} is not one of {allowed}."
                raise ValueError(msg)
        self.pooling, self.n_special, self.head = pooling, n_special, head
        self.encoder = new_backbone(config)
        if pooling == "attention":
            self.attention = nn.Linear(config.width, 1)
            init_weights(self.attention, config.initializer_range)
        if head == "bert":
            self.pooler = nn.Linear(config.width, config.width)
            init_weights(self.pooler, config.initializer_range)
        else:
            self.standardise = Standardise(config.width)
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, n_outputs)
        init_weights(self.classifier, config.initializer_range)

    def draw_head(self) -> None:
        """Draw all weights after the encoder again, from torch's global generator."""
        parts = [getattr(self, name) for name in ("attention", "pooler", "classifier") if hasattr(self, name)]
        for part in parts:
            init_weights(part, self.encoder.config.initializer_range)

    def pooled(self, tokens: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """The state that stands for each cell, (B, H); `inputs` are what the backbone reads besides."""
        if self.pooling == "cls":
            return self.encoder(tokens, mask, positions=slice(0, 1), **inputs)[:, 0]
        x = self.encoder(tokens, mask, **inputs)  # (B, L, H)
        if self.pooling == "eos":
            return x[torch.arange(len(x), device=x.device), (tokens > 0).sum(1) - 1]
        if self.pooling == "mean":
            genes = tokens >= self.n_special  # (B, L)
            weights = genes / genes.sum(1, keepdim=True).clamp(min=1)
        else:
            scores = self.attention(x)[..., 0].float()  # (B, L)
            weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
        return (weights.to(x.dtype)[:, None] @ x)[:, 0]

    def scores(self, pooled: Tensor) -> Tensor:
        """Scores of cells with these states, (B, H) -> (B, outputs)."""
        x = torch.tanh(self.pooler(pooled)) if self.head == "bert" else self.standardise(pooled)  # (B, H)
        return self.classifier(self.dropout(x))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        return self.scores(self.pooled(tokens, mask, **inputs))  # (B, outputs)


class GeneClassifier(nn.Module):
    """Scores of classes for every token.

    Parameters
    ----------
    config
        Shape of the backbone.
    n_classes
        Number of classes.
    head
        ``"bert"``: a linear layer on states, as in BERT's token classification; the probabilities of a gene are the mean of those that it has in
        single cells. ``"linear"``: a linear layer on states that are standardised by a mean and a standard deviation that are saved with the
        weights; the score of a gene is the mean of its scores over cells, and so that of its mean state.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> model = sg.nn.GeneClassifier(config, n_classes=2, head="linear")
    >>> model(torch.tensor([[2, 50, 7, 3]])).shape
    torch.Size([1, 4, 2])
    """

    def __init__(
        self,
        config: EncoderConfig | LlamaConfig | CellFMConfig,
        n_classes: int,
        head: Literal["bert", "linear"] = "bert",
    ) -> None:
        super().__init__()
        if head not in HEADS:
            msg = f"head={head!r} is not one of {HEADS}."
            raise ValueError(msg)
        self.head = head
        self.encoder = new_backbone(config)
        if head == "linear":
            self.standardise = Standardise(config.width)
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, n_classes)
        init_weights(self.classifier, config.initializer_range)

    def draw_head(self) -> None:
        """Draw the weights after the encoder again, from torch's global generator."""
        init_weights(self.classifier, self.encoder.config.initializer_range)

    def scores(self, states: Tensor) -> Tensor:
        """Scores of genes with these states, (..., H) -> (..., classes)."""
        x = states if self.head == "bert" else self.standardise(states)
        return self.classifier(self.dropout(x))

    def averaged(self, scores: Tensor) -> Tensor:
        """What is averaged over cells, from the scores in single cells: these or, with the head of BERT, their probabilities."""
        return scores if self.head == "linear" else scores.softmax(-1)

    def proba(self, means: Tensor, temperature: float = 1.0) -> Tensor:
        """Probabilities of genes from the means of what is averaged, (..., classes); only scores have a temperature."""
        return (means / temperature).softmax(-1) if self.head == "linear" else means

    def forward(self, tokens: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        return self.scores(self.encoder(tokens, mask, **inputs))  # (B, L, classes)


def pair_features(a: Tensor, b: Tensor, *, directed: bool) -> Tensor:
    """Features of pairs of vectors, (..., H) each: ``[a, b, a * b]`` if `directed`, else ``[a + b, |a - b|, a * b]``, (..., 3 H).

    Examples
    --------
    >>> sg.nn.pair_features(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]), directed=False)
    tensor([4., 2., 2., 2., 3., 0.])
    """
    return torch.cat([a, b, a * b] if directed else [a + b, (a - b).abs(), a * b], dim=-1)


class PairClassifier(nn.Module):
    """Scores of pairs of genes from the states of both in one cell: a linear layer on standardised features.

    The mean of the scores of a pair over cells is the score of its mean features.

    Parameters
    ----------
    config
        Shape of the backbone.
    n_classes
        Number of classes.
    directed
        Whether the two genes have different roles, see :func:`pair_features`.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> model = sg.nn.PairClassifier(config, n_classes=2)
    >>> pairs = torch.tensor([[0, 1, 2], [0, 2, 3]])  # row, and positions of the two genes
    >>> model(torch.tensor([[2, 50, 7, 3]]), where=pairs).shape
    torch.Size([2, 2])
    """

    def __init__(
        self, config: EncoderConfig | LlamaConfig | CellFMConfig, n_classes: int, *, directed: bool = False
    ) -> None:
        super().__init__()
        self.head, self.directed = "linear", directed
        self.encoder = new_backbone(config)
        self.standardise = Standardise(3 * config.width)
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(3 * config.width, n_classes)
        init_weights(self.classifier, config.initializer_range)

    def features(self, tokens: Tensor, mask: Tensor | None = None, *, where: Tensor, **inputs: Tensor) -> Tensor:
        """Features of the pairs at `where`, int64 (M, 3): row, position of the source, position of the target; (M, 3 H)."""
        x = self.encoder(tokens, mask, **inputs)  # (B, L, H)
        row, source, target = where.T
        return pair_features(x[row, source], x[row, target], directed=self.directed)

    def scores(self, features: Tensor) -> Tensor:
        """Scores of pairs with these features, (..., 3 H) -> (..., classes)."""
        return self.classifier(self.dropout(self.standardise(features)))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, *, where: Tensor, **inputs: Tensor) -> Tensor:
        return self.scores(self.features(tokens, mask, where=where, **inputs))  # (M, classes)
