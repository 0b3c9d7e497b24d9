"""CellFM: genes with values, whose blocks look at all others by linear attention, to be read from top to bottom.

Shapes: B cells, L tokens (the cell's and those of genes), n = L + 2 states where totals have tokens and else L, H width, N heads, D head size, K bins of values.
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
N_SPECIAL = 3  # padding, mask and <cls>, before the genes
N_TOTALS = 2


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


class Embedding(nn.Module):
    """The sum of a gene's vector and that of its value; tokens for totals come before."""

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.n_totals = N_TOTALS if config.totals else 0
        self.gene = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.value = SoftBins(config)
        self.hidden_value = nn.Parameter(torch.zeros(1, 1, config.width))
        if self.n_totals:
            self.total_kind = nn.Parameter(torch.zeros(1, N_TOTALS, config.width))
            self.total = SoftBins(config)

    def forward(self, tokens: Tensor, values: Tensor, visible: Tensor | None = None) -> Tensor:
        """States before the first block, (B, n, H); arguments as of :meth:`CellFM.forward`."""
        values = values.to(self.hidden_value.dtype)
        of_value = self.value(values)
        if visible is not None:
            of_value = torch.where(visible[..., None], of_value, self.hidden_value)
        x = self.gene(tokens) + of_value * (tokens >= N_SPECIAL)[..., None]  # (B, L, H); the row of padding is zero
        if not self.n_totals:
            return x
        return torch.cat([self.total_kind + self.total(values[:, :1].expand(-1, N_TOTALS)), x], 1)


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
        ``"values of genes"``.

    Notes
    -----
    Built from the equations of Zeng et al., Nature Communications 16:4679 (2025): layer norms with the epsilon and a leaky ReLU with the slope of
    MindSpore, in which the model was trained. It was not compared with the original, whose weights are licensed CC BY-NC-ND 4.0 and can be
    had from its authors only.

    Genes have no order: states are the same whatever the order of the columns. The two tokens by which the 80M model is told how many counts a cell had
    before and after a thinning, which here are the same, have no states in what is returned.

    Examples
    --------
    >>> model = sg.nn.CellFM(sg.nn.CellFMConfig(vocab_size=24, n_layers=2, width=8, n_heads=2))
    >>> model(torch.tensor([[2, 7, 9]]), values=torch.tensor([[0.9, 0.4, 2.0]])).shape  # of the cell and two genes
    torch.Size([1, 3, 8])
    """

    kind: ClassVar[str] = "CellFM encoder"
    causal: ClassVar[bool] = False
    abilities: ClassVar[frozenset[Ability]] = frozenset(("values of genes",))
    config: CellFMConfig

    def __init__(self, config: CellFMConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.embedding = Embedding(config)
        blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.blocks = cast("Sequence[Block]", blocks)  # torch's list has no type of its elements
        self._draw()

    def _draw(self) -> None:
        """Draw new weights: Xavier's, those of blocks with the gain of DeepNorm but for queries and keys."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                plain = not name.startswith("blocks.") or name.endswith((".query", ".key"))
                nn.init.xavier_normal_(module.weight, gain=1.0 if plain else self.config.initial_gain)
        nn.init.normal_(self.embedding.gene.weight, std=self.config.initializer_range)
        with torch.no_grad():
            self.embedding.gene.weight[0].zero_()

    @property
    def token_vectors(self) -> Tensor:
        """The vector of each gene before the first block, without a value, (V, H)."""
        return self.embedding.gene.weight

    def forward(  # type: ignore[override]  # values have no default, and ranks say nothing here
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        values: Tensor,
        visible: Tensor | None = None,
        n_layers: int | None = None,
        positions: slice | None = None,
    ) -> Tensor:
        """Hidden states after `n_layers` blocks; the blocks above are not computed.

        Parameters
        ----------
        tokens
            ``<cls>`` (2) and genes (3 and above), int64 (B, L), right-padded with 0.
        mask
            True at tokens, False at padding, (B, L). None means that no row is padded.
        values
            Float (B, L): of genes log1p of counts per 10,000 counts of genes of the vocabulary, of ``<cls>`` log1p of the cell's counts over 1,000, which only a
            model with tokens for totals reads.
        visible
            False at genes whose value is hidden, (B, L). Defaults to all visible. In the first half of the blocks nothing looks at them.
        n_layers
            How many blocks to run; None for all, 0 for the embedding.
        positions
            Return the states at these positions only.

        Returns
        -------
        Hidden states (B, L, H), the first that of the cell.

        Raises
        ------
        ValueError
            If shapes disagree, or there is no such layer.
        """
        config, n_layers = self.config, self.n_to_run(n_layers)
        if values.shape != tokens.shape:
            msg = f"values have shape {tuple(values.shape)}, but tokens {tuple(tokens.shape)}: each gene needs a value."
            raise ValueError(msg)
        x, n_before = self.embedding(tokens, values, visible), self.embedding.n_totals
        shown = mask if visible is None else visible if mask is None else mask & visible
        seen, looked_at = (
            None if part is None else F.pad(part, (n_before, 0), value=True)[..., None].to(x.dtype)
            for part in (mask, shown)
        )
        n_genes = (tokens >= N_SPECIAL).sum(1).clamp(min=1)[:, None, None].to(x.dtype)
        for i, block in enumerate(self.blocks[:n_layers]):
            keys = looked_at if i < config.n_layers / 2 else seen
            x = run_block(block, x, keys, n_genes, again=self.checkpoint_activations)
        x = x[:, n_before:]
        return x if positions is None else x[:, positions]
