"""What a classifier starts from, and how much of it is trained."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from scgeneformer import hub, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgeneformer.tokens import Vocabulary

    from ._base import TransformerModel


@dataclass(frozen=True)
class Backbone:
    """An encoder to start from.

    Attributes
    ----------
    config
        Its shape, with the dropout of the training to come.
    vocabulary
        What it reads, whole or as `packed` takes it apart.
    pretrained
        Where its weights are; None if they will be put in later.
    """

    config: nn.EncoderConfig
    vocabulary: Vocabulary | Mapping[str, Any]
    pretrained: hub.Pretrained | None

    @classmethod
    def of(
        cls,
        pretrained: Any,
        config: Mapping[str, Any] | None,
        vocabulary: Vocabulary | Mapping[str, Any] | None,
        *,
        dropout: float | None,
        attention_dropout: float,
    ) -> Backbone:
        """Load `pretrained`, unless `config` and `vocabulary` of a saved model are given."""
        if config is not None:
            return cls(nn.EncoderConfig(**config), vocabulary, None)
        found = hub.load(pretrained, vocabulary=vocabulary)
        if found.model is not None:  # which may be trained further, while this is where the classifier started
            found = replace(found, model=copy.deepcopy(found.encoder))
        shape = found.encoder.config
        dropout = shape.dropout if dropout is None else dropout
        config = replace(shape, dropout=dropout, attention_dropout=attention_dropout, n_decoder_layers=0)
        return cls(config, found.vocabulary, found)

    @property
    def saved_config(self) -> dict[str, Any]:
        """Plain values for `of`."""
        return asdict(self.config)

    @property
    def address(self) -> str | None:
        """What :func:`scgeneformer.hub.load` finds the weights by; None if they are in memory only."""
        if self.pretrained is None or self.pretrained.folder is None:
            return None
        named = self.pretrained.name in hub.available().index
        return self.pretrained.name if named else str(self.pretrained.folder)

    def fill(self, encoder: nn.Encoder) -> None:
        """Give `encoder` the weights to start from."""
        if self.pretrained is not None:
            encoder.load_state_dict(self.pretrained.encoder.state_dict())


def limit_training(
    network: nn.CellClassifier | nn.GeneClassifier,
    *,
    freeze: int | Literal["all"],
    lora: int | Mapping[str, Any] | None,
    quantize: str | None,
) -> None:
    """Freeze layers from below, or train adapters instead of layers.

    Raises
    ------
    ValueError
        If there are not that many layers, or both are asked for.
    ImportError
        If adapters or quantized layers need a package that is not there.
    """
    n_layers = network.encoder.config.n_layers
    if freeze != "all" and not (isinstance(freeze, int) and 0 <= freeze <= n_layers):
        msg = f"freeze={freeze!r} must be a number of layers from 0 to {n_layers}, or 'all'."
        raise ValueError(msg)
    if freeze and (lora is not None or quantize is not None):
        msg = f"freeze={freeze!r} has no use beside lora or quantize, with which no layer of the encoder is trained. Leave it out."
        raise ValueError(msg)
    if quantize is not None:
        if quantize == "nf4" and lora is None:
            msg = "quantize='nf4' needs adapters to train: give lora=64, as the official tool has it, or another rank."
            raise ValueError(msg)
        nn.quantize(network, quantize)
    if lora is not None:
        nn.add_lora(network, **({"rank": lora} if isinstance(lora, int) else lora))
    elif freeze == "all":
        network.encoder.requires_grad_(requires_grad=False)
    elif freeze:
        for part in (network.encoder.embedding, *network.encoder.blocks[:freeze]):
            part.requires_grad_(requires_grad=False)


def start_encoder(model: TransformerModel) -> nn.Encoder:
    """The encoder that a classifier started from, before it was trained.

    Raises
    ------
    ValueError
        If it was a model in memory and `model` has been saved and loaded since, or if it was loaded with its head.
    """
    if model._start is not None:
        return model._start.encoder
    if model.start_ is None:
        msg = (
            "What this classifier started from is not known: it was loaded with its head, which has seen labels, or started from a "
            "model in memory that was not saved with it. Baselines and cross-validation need a classifier made from a pretrained model."
        )
        raise ValueError(msg)
    return hub.load(model.start_).encoder


def untrained(model: TransformerModel) -> TransformerModel:
    """A classifier as `model` was before it was trained: its data, labels and arguments, with a new head.

    Raises
    ------
    ValueError
        If what it started from is not known any more.
    """
    given = dict(model.init_params_["non_kwargs"])
    for name in ("pretrained", "config", "vocabulary"):
        del given[name]
    shape = model.encoder.config
    given |= {"dropout": shape.dropout, "attention_dropout": shape.attention_dropout}
    given["pretrained"] = hub.Pretrained("start", model.vocabulary, model=model.start_encoder())
    registration, kind = model.adata_manager, type(model)
    newest = kind._setup_adata_manager_store.get(registration.adata_uuid, registration)
    kind.register_manager(registration)  # which the constructor takes; the data may have been set up otherwise since
    try:
        return kind(model.adata, **given)
    finally:
        kind.register_manager(newest)
