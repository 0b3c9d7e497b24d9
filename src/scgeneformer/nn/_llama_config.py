"""The shape of a LLaMA decoder, and its translation to and from the Hugging Face ``config.json``."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from scgeneformer._arguments import check

from ._config import check_config

# ours -> Hugging Face's LlamaConfig
_HF_NAMES = {
    "vocab_size": "vocab_size",
    "n_layers": "num_hidden_layers",
    "width": "hidden_size",
    "n_heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "max_length": "max_position_embeddings",
    "n_kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "norm_eps": "rms_norm_eps",
    "initializer_range": "initializer_range",
    "dropout": "classifier_dropout",
    "pad_id": "pad_token_id",
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "pooling": "pooling",  # keys of ours, which others pass over
    "emb_layer": "emb_layer",
}
_HF_SCALING = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "original_length": "original_max_position_embeddings",
}
# What this implementation computes; a config that says otherwise is refused.
_ONLY = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}


@dataclass(frozen=True)
class RopeScaling:
    """Slower rotation of the low frequencies, as in Llama 3, for rows longer than those of the first training.

    Attributes
    ----------
    factor
        By which frequencies of long wavelengths are divided.
    original_length
        Number of positions of the first training.
    low
        Frequencies with fewer rotations than this within `original_length` are divided by the factor.
    high
        Frequencies with more rotations than this stay; between the two they are blended.

    Examples
    --------
    >>> sg.nn.RopeScaling(factor=4.0, original_length=4096).high
    4.0
    """

    factor: float
    original_length: int
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self) -> None:
        for name, annotation in self.__annotations__.items():
            check(name, annotation, getattr(self, name))
        if self.factor < 1 or self.original_length < 1 or not 0 < self.low < self.high:
            msg = f"{self} needs factor >= 1, original_length >= 1 and 0 < low < high."
            raise ValueError(msg)


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a LLaMA decoder over rank value encodings.

    Attributes
    ----------
    vocab_size
        Number of tokens, special tokens included; at most 65,536, so that token ids fit uint16.
    n_layers
        Number of blocks.
    width
        Dimension of a hidden state.
    n_heads
        Number of heads of queries per block.
    n_kv_heads
        Number of heads of keys and values, each shared by ``n_heads / n_kv_heads`` heads of queries.
    head_width
        Dimension of a head, even.
    feed_forward
        Inner dimension of the feed-forward network.
    max_length
        Number of positions.
    norm_eps
        Added to the mean square in norms.
    rope_theta
        Base of the wavelengths of rotary positions.
    rope_scaling
        Slower rotation, or None.
    initializer_range
        Standard deviation of new weights.
    dropout
        Dropout rate of the states that the head of a classifier reads; the decoder has no other.
    pad_id
        Id of the padding token.
    bos_id
        Id of the token at the start of a cell.
    eos_id
        Id of the token at the end of a cell.
    pooling
        Default readout of a cell: ``"mean"`` over genes, or ``"eos"``, the state of the last token, the only one that sees the whole cell.
    emb_layer
        Default layer of embeddings, 0 for the last, after the final norm.
    poolings
        ``"mean"`` and ``"eos"``.

    Examples
    --------
    >>> config = sg.nn.LlamaConfig(100, 2, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=16, max_length=64)
    >>> config.to_hf()["model_type"]
    'llama'
    """

    poolings = ("mean", "eos")  # the first token sees itself only, and is the same in all cells

    vocab_size: int
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    feed_forward: int
    max_length: int
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    initializer_range: float = 0.02
    dropout: float = 0.0
    pad_id: int = 0
    bos_id: int = 2
    eos_id: int = 3
    pooling: Literal["mean", "eos"] = "mean"
    emb_layer: int = 0

    def __post_init__(self) -> None:
        check_config(self)
        if self.n_heads % self.n_kv_heads:
            msg = f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}."
            raise ValueError(msg)
        if self.head_width % 2:
            msg = f"head_width={self.head_width} must be even: rotary positions rotate pairs of channels."
            raise ValueError(msg)

    def _n_weights(self) -> int:
        """Number of weights, except norms; the table of tokens and the matrix of scores are two."""
        attention = 2 * self.width * (self.n_heads + self.n_kv_heads) * self.head_width
        return self.n_layers * (attention + 3 * self.width * self.feed_forward) + 2 * self.vocab_size * self.width

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> LlamaConfig:
        """From the content of a Hugging Face ``config.json`` of a LLaMA, as transformers 4 or 5 writes it.

        Raises
        ------
        TypeError, ValueError
            If it describes another architecture, lacks a size, or has one that no model has.
        """
        other = {name: config[name] for name, value in _ONLY.items() if config.get(name, value) != value}
        if config.get("model_type") != "llama" or other:
            msg = f"Expected a LLaMA without biases and with its own matrix of scores, found model_type={config.get('model_type')!r}, {other}."
            raise ValueError(msg)
        values = {ours: config[theirs] for ours, theirs in _HF_NAMES.items() if config.get(theirs) is not None}
        if {"width", "n_heads"} <= values.keys():  # what is not written down follows from these
            width, n_heads = (check(name, "int", values[name]) for name in ("width", "n_heads"))
            values = {"n_kv_heads": n_heads, "head_width": width // n_heads} | values
        missing = [
            _HF_NAMES[field.name] for field in fields(cls) if field.default is MISSING and field.name not in values
        ]
        if missing:
            msg = f"The config of a LLaMA needs {missing}."
            raise ValueError(msg)
        return cls(**values, **_rope_from_hf(config))

    def to_hf(self) -> dict[str, Any]:
        """The content of a Hugging Face ``config.json``, without the name of a head's class."""
        scaling = self.rope_scaling
        return {
            **{theirs: getattr(self, ours) for ours, theirs in _HF_NAMES.items()},
            **_ONLY,
            "model_type": "llama",
            "rope_theta": self.rope_theta,
            "rope_scaling": None
            if scaling is None
            else {"rope_type": "llama3", **{theirs: getattr(scaling, ours) for ours, theirs in _HF_SCALING.items()}},
        }


def _rope_from_hf(config: dict[str, Any]) -> dict[str, Any]:
    """Base and scaling of rotary positions: transformers 5 has both in ``rope_parameters``, 4 has the base beside ``rope_scaling``.

    Raises
    ------
    TypeError, ValueError
        If the scaling is of another type than ``"llama3"``, or incomplete.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        msg = f"rope_scaling={rope!r} must be a dict."
        raise TypeError(msg)
    kind = rope.get("rope_type", rope.get("type", "default"))
    values: dict[str, Any] = {}
    if (theta := rope.get("rope_theta", config.get("rope_theta"))) is not None:
        values["rope_theta"] = theta
    if kind == "llama3":
        missing = [name for name in _HF_SCALING.values() if name not in rope]
        if missing:
            msg = f"The scaling of rotary positions needs {missing}."
            raise ValueError(msg)
        values["rope_scaling"] = RopeScaling(**{ours: rope[theirs] for ours, theirs in _HF_SCALING.items()})
    elif kind != "default":
        msg = f"Rotary positions of type {kind!r} are not implemented, only 'default' and 'llama3'."
        raise ValueError(msg)
    return values
