"""CellFM: genes with values, whose blocks look at all others by linear attention, to be read from top to bottom.

Shapes: B cells, L genes, n = P + L states with P before those of genes, H width, N heads, D head size, K bins of values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scgeneformer.nn._backbone import Ability, Backbone
from scgeneformer.nn._dropout import Dropout
from scgeneformer.nn._encoder import run_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._config import CellFMConfig

_SLOPE = 0.2  # of the leaky ReLU below zero
_LEAST = 1e-12  # norm of a head's output


class SoftBins(nn.Module):
    """A number as a mixture of K learned vectors."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(1, config.n_bins, bias=False)
        self.w3 = nn.Linear(config.n_bins, config.n_bins, bias=False)
        self.a = nn.Parameter(torch.zeros(1, 1))
        self.table = nn.Linear(config.n_bins, config.width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Numbers (...) as vectors (..., H)."""
        h = F.leaky_relu(self.w1(values[..., None]), _SLOPE)  # (..., K)
        return self.table((self.w3(h) + self.a * h).softmax(-1))


class Retention(nn.Module):
    """Linear attention: keys and values of all genes are summed to one matrix for each head, which queries read."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query, self.key, self.value, self.gate, self.out = (
            nn.Linear(config.width, config.width, bias=False) for _ in range(5)
        )

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, n, H) -> (B, N, n, D)

    def forward(self, x: Tensor, keys: Tensor | None, n_genes: Tensor) -> Tensor:
        """States (B, n, H), which of them are keys (B, n, 1), and the number of genes of each cell (B, 1, 1)."""
        k = F.relu(self.key(x))
        k = k if keys is None else k * keys
        v = self.value(x) / n_genes.sqrt()
        q, k, v, u = (self.heads(part) for part in (F.relu(self.query(x)), k, v, self.gate(x)))
        d = q.shape[-1]
        o = (q / math.sqrt(d)) @ ((k / math.sqrt(d)).transpose(-1, -2) @ v)  # (B, N, n, D), by way of (B, N, D, D)
        o = o / (o.norm(dim=-1, keepdim=True) / math.sqrt(d)).clamp(min=_LEAST)
        return self.out((o * F.silu(u)).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """The product of two projections, projected."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.up, self.gate, self.out = (nn.Linear(config.width, config.width, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(x) * self.gate(x))


class Block(nn.Module):
    """Retention and feed-forward, each added to a multiple of its input and normalised after."""

    def __init__(self, config: CellFMConfig, number: int) -> None:
        super().__init__()
        self.scale = config.residual_scale
        self.retention = Retention(config)
        self.retention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout * number / config.n_layers)

    def forward(self, x: Tensor, keys: Tensor | None, n_genes: Tensor) -> Tensor:
        x = self.retention_norm(self.scale * x + self.dropout(self.retention(x, keys, n_genes)))
        return self.feed_forward_norm(self.scale * x + self.dropout(self.feed_forward(x)))


class CellFM(Backbone):
    """Embedding of genes and values, and blocks.

    Parameters
    ----------
    config
        Its shape.

    Attributes
    ----------
    checkpoint_activations
        As of :class:`Encoder`.
    kind
        ``"CellFM encoder"``.
    causal
        False.
    abilities
        None beyond states.

    Notes
    -----
    Built from the equations of Zeng et al., Nature Communications 16:4679 (2025): layer norms with the epsilon and a leaky ReLU with the slope of
    MindSpore, in which the model was trained. It was not compared with the original, whose weights are licensed CC BY-NC-ND 4.0 and can be
    had from its authors only.

    Genes have no order: states are the same whatever the order of the columns.

    Examples
    --------
    >>> model = sg.nn.CellFM(sg.nn.CellFMConfig(vocab_size=24, n_layers=2, width=8, n_heads=2))
    >>> model(
    ...     torch.tensor([[3, 7, 9]]), values=torch.tensor([[1.2, 0.4, 2.0]])
    ... ).shape  # a state of the cell, and three of genes
    torch.Size([1, 4, 8])
    """

    kind: ClassVar[str] = "CellFM encoder"
    causal: ClassVar[bool] = False
    abilities: ClassVar[frozenset[Ability]] = frozenset()
    config: CellFMConfig

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.gene = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.value = SoftBins(config)
        self.hidden_value = nn.Parameter(torch.zeros(1, 1, config.width))
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        if config.totals:
            self.total_kind = nn.Parameter(torch.zeros(1, 2, config.width))
            self.total = SoftBins(config)
        blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.blocks = cast("Sequence[Block]", blocks)  # torch's list does not tell of what it is
        self._draw()

    def _draw(self) -> None:
        """Draw new weights: Xavier's, those of blocks with the gain of DeepNorm but for queries and keys."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                plain = not name.startswith("blocks.") or name.endswith((".query", ".key"))
                nn.init.xavier_normal_(module.weight, gain=1.0 if plain else self.config.initial_gain)
        nn.init.normal_(self.gene.weight, std=0.02)
        nn.init.normal_(self.cls, std=0.02)
        with torch.no_grad():
            self.gene.weight[0].zero_()

    @property
    def token_vectors(self) -> Tensor:
        """The vector of each gene before the first block, without a value, (V, H)."""
        return self.gene.weight

    def forward(  # type: ignore[override]  # values have no default: ranks say nothing here
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        values: Tensor,
        totals: Tensor | None = None,
        visible: Tensor | None = None,
        n_layers: int | None = None,
        positions: slice | None = None,
    ) -> Tensor:
        """Hidden states after `n_layers` blocks; the blocks above are not computed.

        Parameters
        ----------
        tokens
            Genes, int64 (B, L), 0 for padding.
        mask
            True at genes, False at padding, (B, L). None means that no row is padded.
        values
            log1p of counts per 10,000 of the genes of the vocabulary, float (B, L).
        totals
            Counts of each cell behind and before a thinning, (B, 2); for a model with tokens for them. Defaults to no thinning of a cell with
            1,000 counts.
        visible
            False at genes whose value is hidden, (B, L). Defaults to all visible. In the first half of the blocks nothing looks at them.
        n_layers
            How many blocks to run; None for all, 0 for the embedding.
        positions
            Return the states at these positions only.

        Returns
        -------
        Hidden states (B, P + L, H): that of the cell, of the two totals if the model has them, and of the genes.

        Raises
        ------
        ValueError
            If shapes disagree, there is no such layer, or `totals` are given to a model without tokens for them.
        """
        config, n_layers = self.config, self.n_to_run(n_layers)
        if values.shape != tokens.shape:
            msg = f"values have shape {tuple(values.shape)}, and tokens {tuple(tokens.shape)}: a value belongs to each gene."
            raise ValueError(msg)
        if totals is not None and not config.totals:
            msg = "This model has no tokens for totals. Leave them out."
            raise ValueError(msg)
        mask = tokens > 0 if mask is None and bool((tokens == 0).any()) else mask
        x = self.embed(tokens, mask, values, totals, visible)
        before = x.new_ones(len(tokens), config.n_prefix, 1)
        shown = mask if visible is None else visible if mask is None else mask & visible
        seen, looked_at = (
            None if part is None else torch.cat([before, part[..., None].to(x.dtype)], 1) for part in (mask, shown)
        )
        n_genes = (
            x.new_full((len(tokens), 1, 1), tokens.shape[1]) if mask is None else mask.sum(1)[:, None, None].to(x.dtype)
        )
        for i, block in enumerate(self.blocks[:n_layers]):
            keys = looked_at if i < config.n_layers / 2 else seen
            x = run_block(block, x, keys, n_genes.clamp(min=1), again=self.checkpoint_activations)
        return x if positions is None else x[:, positions]

    def embed(
        self, tokens: Tensor, mask: Tensor | None, values: Tensor, totals: Tensor | None, visible: Tensor | None
    ) -> Tensor:
        """States before the first block, (B, P + L, H); arguments as of `forward`."""
        of_value = self.value(values)
        if visible is not None:
            of_value = torch.where(visible[..., None], of_value, self.hidden_value)
        genes = self.gene(tokens) + of_value  # (B, L, H)
        if mask is not None:
            genes = genes * mask[..., None]
        parts = [self.cls.expand(len(tokens), -1, -1)]
        if self.config.totals:
            counts = values.new_full((len(tokens), 2), 1000.0) if totals is None else totals.to(values.dtype)
            parts.append(self.total_kind + self.total((counts / 1000).log1p()))
        return torch.cat([*parts, genes], 1)
