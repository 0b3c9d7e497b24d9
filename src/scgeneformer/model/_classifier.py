"""What classifiers of cells and of genes share: where they start, how much of them is trained, adapters, exchange."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from scgeneformer import evaluation, hub, nn
from scgeneformer._arguments import checked
from scgeneformer.nn.adapters import config_of, draw_adapters

from ._base import TransformerModel
from .recipes._selection import Selection
from .training._random import generators_restored, seed_generators

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .objectives._cells import CellClassifierModule
    from .objectives._genes import GeneClassifierModule

SETS = ("train", "validation", "test")
SELECTED = "selected"  # key of ours in config.json, which others ignore
_NEW = 1000  # stream of the weights that are drawn; those of dropout count from 0
DOCS = {
    "start": """
        pretrained
            Model to start from: a name in :func:`scgeneformer.hub.available`, a folder in the Hugging Face layout, or a trained
            :class:`Geneformer`. To load a classifier with its head, use :meth:`from_pretrained`.
        freeze
            Number of layers, counted from the input, that keep their weights; the embedding is frozen with them (the official tool always
            trains it). ``"all"`` trains only the head.
        lora
            Rank of low-rank adapters to train instead of the encoder's weights, or arguments of :func:`scgeneformer.nn.add_lora`. Not for
            decoders.
        quantize
            ``"nf4"`` keeps the encoder's weights in four bits while adapters are trained (QLoRA).
        """,
    "dropout": """
        dropout, attention_dropout
            Dropout in training. `dropout` defaults to that of the pretrained model. Attention is fast on CPUs only without
            `attention_dropout`, which decoders do not have.
        """,
    "load": """
        config, vocabulary, registry
            For :meth:`load`.
        """,
}


class Classifier(TransformerModel):
    """A classifier on top of an encoder: it starts from a pretrained model, is trained on a split, and is exported with its head."""

    module: CellClassifierModule | GeneClassifierModule
    split_: dict[str, np.ndarray] | None
    selected_: dict[str, Any] | None
    histories_: dict[str, dict[str, pd.DataFrame]]
    start_: str | None
    _start: hub.Pretrained | None

    def _init_start(self, start: Backbone) -> None:
        """Record where the classifier starts."""
        self.module.eval()
        self.split_ = self.selected_ = None
        self.histories_ = {}
        self._start = start.pretrained
        self.start_ = None if start.pretrained is None else start.pretrained.address

    def _init_pretrained(self, network: nn.CellClassifier | nn.GeneClassifier, adata: AnnData | MuData | None) -> Self:
        """Take over a trained network, whose encoder has seen labels: there is no start to compare it with."""
        self.module.network.load_state_dict(network.state_dict())
        self.start_ = self._start = None
        self.history_, self.is_trained_ = {}, True
        if adata is not None:
            self._validate_anndata(adata)
        return self

    def check_trained(self) -> None:
        """Raise if this classifier is not trained.

        Raises
        ------
        ValueError
            If so; the message says what to do.
        """
        if not self.is_trained_:
            msg = "This classifier is not trained: its predictions would be random. Call `model.train()` first."
            raise ValueError(msg)

    @property
    def split(self) -> evaluation.Split:
        """Cells, or rows of `genes`, for training, validation and testing.

        Raises
        ------
        AttributeError
            Before training. (When scvi-tools saves a model, it takes this for a missing attribute.)
        """
        if self.split_ is None:
            msg = "This model has not been trained, and so has no split. Call `train` first."
            raise AttributeError(msg)
        return evaluation.Split(**self.split_)

    @property
    def selected(self) -> Selection | None:
        """Which classifier the last training kept, and why; None if there was no choice."""
        return None if self.selected_ is None else Selection.restored(self.selected_, self.histories_)

    def start_encoder(self) -> nn.Backbone:
        """The encoder as it was before training.

        Raises
        ------
        ValueError
            If it is unknown, because it was in memory only and the classifier has since been saved and loaded, or because the classifier was loaded
            with its head.
        """
        if self._start is not None:
            return self._start.encoder
        if self.start_ is None:
            name = type(self).__name__
            msg = (
                "The encoder that this classifier started from is not known: it was loaded with its head, its encoder "
                "was trained, or it started from a model in memory that was not saved with it. Baselines and "
                f"cross-validation need a classifier made from a pretrained model. Make a new one: `{name}(adata, ..., "
                "pretrained=...)`."
            )
            raise ValueError(msg)
        return hub.load(self.start_).encoder

    def untrained(self) -> Self:
        """A classifier of the same data, labels and arguments that starts where this one did, with a new head.

        Raises
        ------
        ValueError
            If the encoder that this one started from is not known.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> twin = model.untrained()
        >>> twin.train(max_epochs=1, learning_rate=1e-4)
        """
        arguments = dict(self.init_params_["non_kwargs"])
        for name in ("pretrained", "config", "vocabulary"):
            del arguments[name]
        shape = self.module.network.encoder.config
        arguments |= {"dropout": shape.dropout, "attention_dropout": getattr(shape, "attention_dropout", 0.0)}
        arguments["pretrained"] = hub.Pretrained("start", self.vocabulary, model=self.start_encoder())
        registration, kind = self.adata_manager, type(self)
        newest = kind._setup_adata_manager_store.get(registration.adata_uuid, registration)
        kind.register_manager(
            registration
        )  # which the constructor takes; the data may have been set up otherwise since
        try:
            return kind(self.adata, **arguments)
        finally:
            kind.register_manager(newest)

    def _draw_new(self, rng: int) -> None:
        """Draw head and adapters of a classifier that was not trained yet from `rng`, whatever the constructor drew them from."""
        if self.is_trained_:
            return
        network = self.module.network
        device = network.classifier.weight.device
        with generators_restored(device):
            seed_generators(device, rng, _NEW)
            network.draw_head()
            draw_adapters(network.encoder)

    @abstractmethod
    def _exported(self) -> tuple[list[str], dict[str, Any]]:
        """Names of the outputs, and further entries of ``config.json`` that describe the labels."""

    @checked
    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that ``from_pretrained``, :func:`scgeneformer.hub.load` and transformers load.

        In transformers, a classifier of one categorical column with ``pooling="cls"`` and ``head="bert"`` loads as a
        ``BertForSequenceClassification`` with the same scores, any other cell classifier as an encoder, and a gene classifier as a
        ``BertForTokenClassification`` with the same scores in each cell. Adapters are merged into the weights, and quantized weights
        are written as float32.

        Parameters
        ----------
        folder
            Folder for ``config.json``, ``model.safetensors`` and ``vocabulary.json.gz``, created if it does not exist.
        dtype
            Precision of the weights in the file.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> model.export("classifier")
        >>> sg.hub.load("classifier").vocabulary == model.vocabulary
        True
        """
        labels, config = self._exported()
        self._export(folder, plain_copy(self.module.network), dtype, labels=labels, **config)

    @checked
    def save_adapter(self, folder: str | Path) -> None:
        """Save the LoRA adapters and the head in the layout of peft, which ``PeftModel.from_pretrained`` loads.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.CellClassifier.setup_anndata(adata, "disease")
        >>> model = sg.model.CellClassifier(adata, "default", lora=4)
        >>> model.train(max_epochs=1)
        >>> model.save_adapter("adapter")
        >>> other = sg.model.CellClassifier(adata, "default")
        >>> other.load_adapter("adapter")
        """
        nn.save_adapter(folder, self.module.network)

    @checked
    def load_adapter(self, folder: str | Path) -> None:
        """Load adapters and head saved with :meth:`save_adapter`, or by peft for the same model in transformers.

        The model must have started from the same pretrained weights as the one whose adapters are loaded.
        """
        nn.load_adapter(folder, self.module.network)
        adapter = config_of(self.encoder)
        options = {"rank": adapter.r, "alpha": adapter.lora_alpha, "dropout": adapter.lora_dropout}
        self.init_params_["non_kwargs"]["lora"] = options | {"targets": sorted(adapter.target_modules)}  # for `load`
        self.is_trained_ = True
        self.selected_, self.histories_ = None, {}  # of other weights

    def merge_lora(self) -> None:
        """Merge the adapters into the weights; the model has no adapters afterwards."""
        nn.merge_lora(self.module.network)
        self.init_params_["non_kwargs"]["lora"] = self.init_params_["non_kwargs"]["quantize"] = None


@dataclass(frozen=True)
class Backbone:
    """A backbone to start from.

    Attributes
    ----------
    config
        Its shape, with the dropout to train with.
    vocabulary
        Its gene vocabulary, as an object or in the form that `packed` returns.
    pretrained
        Source of its weights; None if they are filled in later.
    """

    config: nn.EncoderConfig | nn.LlamaConfig | nn.CellFMConfig
    vocabulary: Vocabulary | Mapping[str, Any] | None
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
            return cls(_restored(config), vocabulary, None)
        start = hub.load(pretrained, vocabulary=vocabulary)
        if start.model is not None:  # which may be trained further, while this is where the classifier started
            start = replace(start, model=copy.deepcopy(start.encoder))
        shape = cast("nn.EncoderConfig | nn.LlamaConfig | nn.CellFMConfig", start.encoder.config)
        dropout = shape.dropout if dropout is None else dropout
        if isinstance(shape, nn.EncoderConfig):
            shape = replace(shape, dropout=dropout, attention_dropout=attention_dropout, n_decoder_layers=0)
            return cls(shape, start.vocabulary, start)
        if attention_dropout:
            msg = f"attention_dropout={attention_dropout} has no meaning for {start.name!r}, a {start.encoder.kind}. Leave it out."
            raise ValueError(msg)
        return cls(replace(shape, dropout=dropout), start.vocabulary, start)

    @property
    def saved_config(self) -> dict[str, Any]:
        """Plain values for `of`."""
        return asdict(self.config)

    def fill(self, encoder: nn.Backbone) -> None:
        """Load the weights to start from into `encoder`."""
        if self.pretrained is not None:
            encoder.load_state_dict(self.pretrained.encoder.state_dict())


def _restored(config: Mapping[str, Any]) -> nn.EncoderConfig | nn.LlamaConfig | nn.CellFMConfig:
    """The shape that `saved_config` gave."""
    if "n_bins" in config:
        return nn.CellFMConfig(**config)
    if "n_kv_heads" not in config:
        return nn.EncoderConfig(**config)
    scaling = config["rope_scaling"]
    return nn.LlamaConfig(**{**config, "rope_scaling": None if scaling is None else nn.RopeScaling(**scaling)})


def limit_training(
    network: nn.CellClassifier | nn.GeneClassifier | nn.PairClassifier,
    *,
    freeze: int | Literal["all"],
    lora: int | Mapping[str, Any] | None,
    quantize: Literal["nf4"] | None,
) -> None:
    """Freeze the first layers, or train adapters instead of layers.

    Raises
    ------
    ValueError
        If there are not that many layers, both are requested, or the backbone has no adapters.
    ImportError
        If adapters or quantized layers need a package that is not installed.
    """
    for name, value in (("lora", lora), ("quantize", quantize)):
        if value is not None:
            network.encoder.check_offers("low-rank adapters", f"{name}={value!r}")
    n_layers = network.encoder.config.n_layers
    if freeze != "all" and not (isinstance(freeze, int) and 0 <= freeze <= n_layers):
        msg = f"freeze={freeze!r} must be a number of layers from 0 to {n_layers}, or 'all'."
        raise ValueError(msg)
    if freeze and (lora is not None or quantize is not None):
        msg = f"freeze={freeze!r} has no effect together with lora or quantize, with which no layer of the encoder is trained. Leave it out."
        raise ValueError(msg)
    if quantize is not None:
        if quantize != "nf4" or lora is None:
            msg = f"quantize={quantize!r} must be 'nf4', together with adapters to train: lora=64, as in the official tool, or another rank."
            raise ValueError(msg)
        nn.quantize(network, quantize)
    if lora is not None:
        nn.add_lora(network, **({"rank": lora} if isinstance(lora, int) else lora))
    elif freeze == "all":
        network.encoder.requires_grad_(requires_grad=False)
    elif freeze:
        for part in (network.encoder.embedding, *network.encoder.blocks[:freeze]):
            part.requires_grad_(requires_grad=False)


def plain_copy(network: nn.CellClassifier | nn.GeneClassifier) -> nn.CellClassifier | nn.GeneClassifier:
    """A copy without adapters and quantized layers that computes the same; the network itself if it has none."""
    if hasattr(network.encoder, "peft_config"):
        network = copy.deepcopy(network)
        nn.merge_lora(network)
    elif nn.is_quantized(network):
        network = copy.deepcopy(network)
        nn.dequantize(network)
    return network
