"""The shape of an encoder, and its translation to and from the Hugging Face ``config.json``."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from scgeneformer._arguments import check

# ours -> Hugging Face's BertConfig
_HF_NAMES = {
    "vocab_size": "vocab_size",
    "n_layers": "num_hidden_layers",
    "width": "hidden_size",
    "n_heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "max_length": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "pad_id": "pad_token_id",
    "n_segments": "type_vocab_size",
    "pooling": "pooling",  # not BERT's: keys of ours, which others pass over
    "emb_layer": "emb_layer",
    "positions": "positions",
    "n_decoder_layers": "n_decoder_layers",
}
_AS_IN_BERT = {"positions": "learned", "n_decoder_layers": 0}  # not written, like anything that is None
_ACTIVATIONS = ("relu", "gelu")
# Far above any model of cells: a damaged or hostile config is refused before memory is allocated for it.
_MOST = {
    "vocab_size": 2**16,
    "n_layers": 1000,
    "n_decoder_layers": 1000,
    "n_heads": 1000,
    "n_kv_heads": 1000,
    "head_width": 2**16,
    "n_segments": 1000,
    "max_length": 2**20,
}
_MOST_WEIGHTS = 2 * 10**10


def check_config(config: Any) -> None:
    """Refuse a config, which has a method `_n_weights`, with a field of another type, or with a size that no model has, before memory is allocated for it.

    Raises
    ------
    TypeError, ValueError
        If it has one.
    """
    for name, annotation in config.__annotations__.items():
        check(name, annotation, getattr(config, name))
    for name, most in _MOST.items():
        if getattr(config, name, 0) > most:
            msg = f"{name}={getattr(config, name):,} is more than {most:,}, the maximum."
            raise ValueError(msg)
    n_weights = config._n_weights()
    if n_weights > _MOST_WEIGHTS:
        msg = f"A model of {config.n_layers:,} layers of width {config.width:,} would have {n_weights:.1e} weights, more than {_MOST_WEIGHTS:.0e}."
        raise ValueError(msg)


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a BERT encoder over rank value encodings, and of the decoder if there is one.

    Attributes
    ----------
    vocab_size
        Number of tokens, special tokens included; at most 65,536, so that token ids fit uint16.
    n_layers
        Number of blocks.
    width
        Dimension of a hidden state.
    n_heads
        Number of attention heads per block.
    feed_forward
        Inner dimension of the feed-forward network.
    max_length
        Number of positions.
    dropout
        Dropout rate of hidden states.
    attention_dropout
        Dropout rate of attention weights.
    activation
        ``"relu"`` (all published Geneformers) or ``"gelu"``.
    layer_norm_eps
        Added to the variance in layer norms.
    initializer_range
        Standard deviation of new weights.
    pad_id
        Id of the padding token.
    n_segments
        Rows of BERT's segment embedding; row 0 is added to every token.
    pooling
        Default readout of a cell, ``"mean"`` or ``"cls"``; None: ``"cls"`` if the vocabulary has ``<cls>``, else ``"mean"``.
    emb_layer
        Default layer of embeddings, 0 for the last; None is -1, the second to last, as in the official tool.
    positions
        ``"learned"`` (all published Geneformers), or ``"sinusoidal"``: the fixed table of Vaswani et al. (2017).
    n_decoder_layers
        Number of decoder blocks of an :class:`EncoderDecoder`; 0 without a decoder.
    poolings
        ``"mean"`` and ``"cls"``.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> config.to_hf()["num_hidden_layers"]
    2
    """

    poolings = ("mean", "cls")

    vocab_size: int
    n_layers: int
    width: int
    n_heads: int
    feed_forward: int
    max_length: int
    dropout: float = 0.02
    attention_dropout: float = 0.02
    activation: str = "relu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_id: int = 0
    n_segments: int = 2
    pooling: Literal["mean", "cls"] | None = None
    emb_layer: int | None = None
    positions: Literal["learned", "sinusoidal"] = "learned"
    n_decoder_layers: int = 0

    def __post_init__(self) -> None:
        check_config(self)
        if self.width % self.n_heads:
            msg = f"width={self.width} must be a multiple of n_heads={self.n_heads}."
            raise ValueError(msg)
        if self.activation not in _ACTIVATIONS:
            msg = f"activation={self.activation!r} is not one of {_ACTIVATIONS}."
            raise ValueError(msg)

    def _n_weights(self) -> int:
        """Number of weights, except biases and norms."""
        block = 4 * self.width**2 + 2 * self.width * self.feed_forward
        rows = self.vocab_size + self.max_length + self.n_segments
        return (self.n_layers + 2 * self.n_decoder_layers) * block + rows * self.width

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> EncoderConfig:
        """From the content of a Hugging Face ``config.json`` of a BERT model with absolute positions.

        Raises
        ------
        TypeError, ValueError
            If it describes another architecture, lacks a size, or has one that no model has.
        """
        kind = config.get("model_type", "bert")
        positions = config.get("position_embedding_type", "absolute")
        if kind != "bert" or positions != "absolute":
            msg = f"Expected a BERT checkpoint with absolute positions, found model_type={kind!r}, positions={positions!r}."
            raise ValueError(msg)
        missing = [
            _HF_NAMES[field.name]
            for field in fields(cls)
            if field.default is MISSING and _HF_NAMES[field.name] not in config
        ]
        if missing:
            msg = f"The config of a BERT model needs {missing}."
            raise ValueError(msg)
        return cls(**{ours: config[theirs] for ours, theirs in _HF_NAMES.items() if theirs in config})

    def to_hf(self) -> dict[str, Any]:
        """The content of a Hugging Face ``config.json``, without the name of a head's class."""
        known = {theirs: getattr(self, ours) for ours, theirs in _HF_NAMES.items()}
        known = {name: value for name, value in known.items() if value != _AS_IN_BERT.get(name)}
        return known | {
            "model_type": "bert",
            "position_embedding_type": "absolute",
            "tie_word_embeddings": True,
        }
