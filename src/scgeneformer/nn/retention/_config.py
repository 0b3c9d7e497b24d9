"""The shape of a CellFM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scgeneformer.nn._config import check_config


@dataclass(frozen=True)
class CellFMConfig:
    """Shape of an encoder of genes with values (Zeng et al. 2025).

    Attributes
    ----------
    vocab_size
        Rows of the table of genes: row 0 is padding, and the number of rows is a multiple of 8.
    n_layers
        Number of blocks: 2 of the 80M model, 40 of the 800M model.
    width
        Dimension of a state.
    n_heads
        Number of heads per block.
    n_bins
        Number of soft bins of values.
    max_length
        Maximum number of genes of a cell. Nothing in the network depends on it.
    totals
        Whether two tokens tell the number of counts before and behind a thinning, as of the 80M model.
    dropout
        Dropout rate behind the last block; that of block i of N is i / N of it.
    layer_norm_eps
        Added to the variance in layer norms.
    pooling
        Default readout of a cell: ``"cls"``, the state of a token that is there in every cell, or ``"mean"`` over genes.
    emb_layer
        Default layer of embeddings, 0 for the last.
    poolings
        ``"cls"`` and ``"mean"``.

    Examples
    --------
    >>> config = sg.nn.CellFMConfig(vocab_size=24, n_layers=2, width=8, n_heads=2)
    >>> round(config.residual_scale, 3)
    1.414
    """

    poolings = ("cls", "mean")

    vocab_size: int
    n_layers: int
    width: int
    n_heads: int
    n_bins: int = 256
    max_length: int = 2048
    totals: bool = False
    dropout: float = 0.1
    layer_norm_eps: float = 1e-7
    pooling: Literal["cls", "mean"] = "cls"
    emb_layer: int = 0

    def __post_init__(self) -> None:
        check_config(self)
        if self.width % self.n_heads:
            msg = f"width={self.width} must be a multiple of n_heads={self.n_heads}."
            raise ValueError(msg)
        if self.vocab_size % 8:
            msg = f"vocab_size={self.vocab_size} must be a multiple of 8, to which the table of genes is padded."
            raise ValueError(msg)

    def _n_weights(self) -> int:
        """Number of weights, but for norms and the encoders of values."""
        return 8 * self.n_layers * self.width**2 + self.vocab_size * self.width

    @property
    def residual_scale(self) -> float:
        """What a block multiplies its input by before it adds to it (DeepNorm, Wang et al. 2022)."""
        return float((2 * self.n_layers) ** 0.25)

    @property
    def initial_gain(self) -> float:
        """Gain of new weights of values, gates and outputs, by the same rule."""
        return float((8 * self.n_layers) ** -0.25)

    @property
    def n_prefix(self) -> int:
        """Number of states before those of genes."""
        return 3 if self.totals else 1
