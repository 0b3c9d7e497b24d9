"""The shape of a CellFM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from scgeneformer.nn._config import check_config

MODEL_TYPE = "cellfm"
_NAMES = {  # ours -> those of config.json, as other models have them
    "vocab_size": "vocab_size",
    "n_layers": "num_hidden_layers",
    "width": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_bins": "num_value_bins",
    "max_length": "max_position_embeddings",
    "totals": "reads_totals",
    "dropout": "hidden_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "pooling": "pooling",
    "emb_layer": "emb_layer",
}


@dataclass(frozen=True)
class CellFMConfig:
    """Shape of an encoder of genes with values (Zeng et al. 2025).

    Attributes
    ----------
    vocab_size
        Number of tokens: three special ones (padding, mask, which is not used, and ``<cls>``) and the genes.
    n_layers
        Number of blocks: 2 of the 80M model, 40 of the 800M model.
    width
        Dimension of a state.
    n_heads
        Number of heads per block.
    n_bins
        Number of soft bins of values.
    max_length
        Maximum number of tokens of a cell: ``<cls>`` and 2,048 genes. Nothing in the network depends on it.
    totals
        Whether two tokens tell the number of counts of a cell, as of the 80M model.
    dropout
        Dropout rate after the last block; that of block i of N is i / N of it.
    layer_norm_eps
        Added to the variance in layer norms.
    initializer_range
        Standard deviation of new vectors of genes and weights of heads.
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
    max_length: int = 2049
    totals: bool = False
    dropout: float = 0.1
    layer_norm_eps: float = 1e-7
    initializer_range: float = 0.02
    pooling: Literal["cls", "mean"] = "cls"
    emb_layer: int = 0

    def __post_init__(self) -> None:
        check_config(self)
        if self.width % self.n_heads:
            msg = f"width={self.width} must be a multiple of n_heads={self.n_heads}."
            raise ValueError(msg)

    def _n_weights(self) -> int:
        """Number of weights, except norms and the encoders of values."""
        return 8 * self.n_layers * self.width**2 + self.vocab_size * self.width

    @property
    def residual_scale(self) -> float:
        """What a block multiplies its input by before it adds to it (DeepNorm, Wang et al. 2022)."""
        return float((2 * self.n_layers) ** 0.25)

    @property
    def initial_gain(self) -> float:
        """Gain of new weights of values, gates and outputs, by the same rule."""
        return float((8 * self.n_layers) ** -0.25)

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> CellFMConfig:
        """From the content of a ``config.json`` that `to_hf` wrote.

        Raises
        ------
        TypeError, ValueError
            If it describes another architecture, lacks a size, or has one that no model has.
        """
        missing = [theirs for ours, theirs in _NAMES.items() if theirs not in config]
        if config.get("model_type") != MODEL_TYPE or missing:
            msg = f"Expected a CellFM, found model_type={config.get('model_type')!r}, without {missing}."
            raise ValueError(msg)
        return cls(**{ours: config[theirs] for ours, theirs in _NAMES.items()})

    def to_hf(self) -> dict[str, Any]:
        """The content of a ``config.json`` in Hugging Face's layout, which only this package reads."""
        return {"model_type": MODEL_TYPE, **{theirs: getattr(self, ours) for ours, theirs in _NAMES.items()}}
