"""Classes and measures of cells, learned from columns of ``obs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scgeneformer import _keys, engine, nn

from ._backbone import Backbone, limit_training, start_encoder, untrained
from ._base import TransformerModel
from ._cell_exchange import CellExchangeMixin
from ._cell_prediction import CellPredictionMixin
from ._cell_training import CellTrainingMixin
from ._cell_validation import CellValidationMixin
from .data._columns import (
    LABELS_PREFIX,
    SAMPLE_FIELD,
    ColumnField,
    LabelsField,
    MuDataColumnField,
    MuDataLabelsField,
    kinds_of,
    tasks_of,
)
from .data._fields import TOKENS_FIELD, MuDataTokensField, TokensField
from .objectives._cells import CellClassifierModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .data._cell_labels import CellTask


class CellClassifier(CellTrainingMixin, CellPredictionMixin, CellValidationMixin, CellExchangeMixin, TransformerModel):
    """Learns columns of ``obs``: cell type, disease, differentiation state, dose, several of them at once.

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`.
    pretrained
        What to start from: name in :func:`scgeneformer.hub.available`, folder in the Hugging Face layout, trained
        :class:`Geneformer`. (A classifier is loaded with its head by :meth:`from_pretrained`.)
    freeze
        Number of layers, from below, that keep their weights, and the embedding with them if there is one (the official tool trains the
        embedding always); ``"all"`` trains a head on fixed states, a linear probe but for one hidden layer.
    lora
        Train low-rank adapters of this rank instead of the encoder's weights, or arguments of :func:`scgeneformer.nn.add_lora`.
    quantize
        ``"nf4"`` keeps the encoder's weights in four bits while adapters are trained (QLoRA).
    pooling
        What is read of a cell's last states: ``"cls"``, the first token's, as in BERT; ``"mean"`` over genes; ``"attention"``, a mean with
        learned weights. None takes what the model was told, else cls where the vocabulary has it, else the mean.
    dropout, attention_dropout
        In training. None keeps the model's. CPUs have a fast attention kernel only without `attention_dropout`.
    task_weights
        Weight of each column's loss; None weights all alike, ``"learned"`` learns them (Kendall 2018).
    config, vocabulary, registry
        For ``load``.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "V2-104M")
    >>> sg.model.CellClassifier.setup_anndata(adata, "disease", sample="donor")
    >>> model = sg.model.CellClassifier(adata, "V2-104M", freeze=6)
    >>> model.train(max_epochs=5)  # on some donors; others validate and test
    >>> sg.tl.evaluate(adata, model)  # beside a linear probe and a regression on genes
    >>> sg.tl.annotate(new, model)
    """

    _module_cls = CellClassifierModule

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        pretrained: Any = "default",
        *,
        freeze: int | Literal["all"] = 0,
        lora: int | Mapping[str, Any] | None = None,
        quantize: Literal["int8", "nf4"] | None = None,
        pooling: Literal["cls", "mean", "attention"] | None = None,
        dropout: float | None = None,
        attention_dropout: float = 0.0,
        task_weights: Mapping[str, float] | Literal["learned"] | None = None,
        config: Mapping[str, Any] | None = None,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        start = Backbone.of(pretrained, config, vocabulary, dropout=dropout, attention_dropout=attention_dropout)
        vocabulary = self._begin(adata, registry, start.vocabulary)
        self.tasks = tasks_of(self.registry)
        if pooling != "attention" and config is None:
            pooling = engine.resolve_pooling(pooling, start.config, has_cls=self.vocabulary.has_cls)
        n_outputs = sum(task.n_outputs for task in self.tasks)
        network = nn.CellClassifier(start.config, n_outputs, pooling, self.vocabulary.n_special)
        start.fill(network.encoder)
        limit_training(network, freeze=freeze, lora=lora, quantize=quantize)
        weights = _task_weights(self.tasks, task_weights)
        self.module = self._module_cls(network, self.tasks, task_weights=weights, frozen=freeze == "all")
        self.module.eval()
        self.split_: dict[str, np.ndarray] | None = None
        self.temperature_: dict[str, float] = {}
        self.start_ = start.address
        self._start = start.pretrained
        self._model_summary_string = (
            f"CellClassifier of {', '.join(f'{t.name} ({t.kind})' for t in self.tasks)}: {start.config.n_layers} layers, "
            f"width {start.config.width}, pooling {pooling}, freeze {freeze}, lora {lora}, {self.vocabulary!r}"
        )
        pretrained, config = None, start.saved_config  # saved models hold their weights themselves
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels: str | Sequence[str] | Mapping[str, str | None],
        *,
        sample: str | None = None,
        unlabeled: str | None = None,
        tokens_key: str = _keys.TOKENS,
        **kwargs: Any,
    ) -> None:
        """Register tokenized and labelled data with this model class.

        Parameters
        ----------
        adata
            AnnData with tokens of :func:`scgeneformer.pp.tokenize`.
        labels
            Columns of ``.obs`` to learn: one, several, or a mapping from columns to ``"categorical"``, ``"ordinal"``, ``"continuous"``
            or None. By default ordered categoricals are ordinal, floating numbers continuous, all else categorical. Cells
            may lack labels (NaN), in some columns or all.
        sample
            Column of ``.obs`` with what cells share, such as donors: no sample will be in two sets of a split.
        unlabeled
            A value that means that a cell has no label, as ``"unknown"``.
        tokens_key
            Name of the tokens in ``.obsm``.

        Raises
        ------
        KeyError
            If there are no tokens, or no such column.
        ValueError
            If a column has no labels, one class only, or infinite numbers.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        fields = [TokensField(TOKENS_FIELD, tokens_key)]
        fields += [LabelsField(LABELS_PREFIX + name, name, kind, unlabeled) for name, kind in kinds_of(labels).items()]
        fields += [] if sample is None else [ColumnField(SAMPLE_FIELD, sample)]
        cls._register(adata, fields, setup_method_args, **kwargs)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        labels: str | Sequence[str] | Mapping[str, str | None],
        *,
        sample: str | None = None,
        unlabeled: str | None = None,
        tokens_key: str = _keys.TOKENS,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the tokenized and labelled modality of a MuData with this model class.

        Parameters
        ----------
        mdata
            MuData of which one modality has tokens and labels.
        labels, sample, unlabeled, tokens_key
            As in :meth:`setup_anndata`, in that modality.
        modalities
            Which modality: ``{"tokens_key": "rna"}``, which is also what None means.
        """
        modalities = dict(modalities or {"tokens_key": "rna"})
        setup_method_args = cls._get_setup_method_args(**locals())
        where = {
            "mod_key": cls._create_modalities_attr_dict(modalities, setup_method_args).tokens_key,
            "mod_required": True,
        }
        fields = [MuDataTokensField(TOKENS_FIELD, tokens_key, **where)]
        for name, kind in kinds_of(labels).items():
            fields.append(MuDataLabelsField(LABELS_PREFIX + name, name, kind, unlabeled, **where))
        fields += [] if sample is None else [MuDataColumnField(SAMPLE_FIELD, sample, **where)]
        cls._register(mdata, fields, setup_method_args, **kwargs)

    def start_encoder(self) -> nn.Encoder:
        """The encoder before it was trained, to compare with."""
        return start_encoder(self)

    def untrained(self) -> CellClassifier:
        """A model of the same data, labels and arguments that starts where this one did, with a new head."""
        return untrained(self)


def _task_weights(tasks: Sequence[CellTask], given: Any) -> dict[str, float] | None:
    """Weight of each task, or None to learn them."""
    if given == "learned":
        return None
    names = {task.name for task in tasks}
    if given is None:
        return dict.fromkeys(names, 1.0)
    if set(given) != names or min(given.values()) < 0:
        msg = f"task_weights={dict(given)} must give a number from 0 on to each of {sorted(names)}."
        raise ValueError(msg)
    return {name: float(weight) for name, weight in given.items()}
