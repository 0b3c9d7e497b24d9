"""Classes of genes, learned from lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import _keys, nn

from ._backbone import Backbone, limit_training, start_encoder, untrained
from ._base import TransformerModel
from ._gene_exchange import GeneExchangeMixin
from ._gene_prediction import GenePredictionMixin
from ._gene_training import GeneTrainingMixin
from ._gene_validation import GeneValidationMixin
from .data._fields import TOKENS_FIELD
from .data._gene_labels import GeneClasses, lists_of
from .objectives._genes import GeneClassifierModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary


class GeneClassifier(GeneTrainingMixin, GenePredictionMixin, GeneValidationMixin, GeneExchangeMixin, TransformerModel):
    """Learns classes of genes from the cells that express them: dosage sensitivity, chromatin state, range or targets of a factor.

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`. Hundreds to thousands of cells of
        relevant types do; no labels of cells are used.
    classes
        Genes of each class, by Ensembl id, symbol or alias: two classes or more, no gene in two. Or a column of ``.var``, with missing
        values for genes without a class. A warning names genes that the model does not know; they play no part.
    pretrained
        What to start from: name in :func:`scgeneformer.hub.available`, folder in the Hugging Face layout, trained
        :class:`Geneformer`. (A classifier is loaded with its head by :meth:`from_pretrained`.)
    freeze
        Number of layers, from below, that keep their weights, and the embedding with them if there is one (the official tool trains the
        embedding always); ``"all"`` trains a linear head on fixed states.
    lora
        Train low-rank adapters of this rank instead of the encoder's weights, or arguments of :func:`scgeneformer.nn.add_lora`.
    quantize
        ``"nf4"`` keeps the encoder's weights in four bits while adapters are trained (QLoRA).
    dropout, attention_dropout
        In training. None keeps the model's. CPUs have a fast attention kernel only without `attention_dropout`.
    config, vocabulary, registry
        For ``load``.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "V2-104M")
    >>> sg.model.GeneClassifier.setup_anndata(adata)
    >>> model = sg.model.GeneClassifier(adata, {"sensitive": [...], "insensitive": [...]}, "V2-104M", freeze=6)
    >>> cv = model.cross_validate(5)  # every gene judged by a model that was not told its class
    >>> cv.summary  # beside a linear probe and a regression on expression
    >>> sg.tl.classify_genes(adata, cv)
    >>> model.train(train_size=1, validation_size=0, test_size=0)
    >>> model.predict_genes(genes=["GATA4", "TBX5"])
    """

    _module_cls = GeneClassifierModule

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        classes: Mapping[str, Sequence[str]] | str | None = None,
        pretrained: Any = "default",
        *,
        freeze: int | Literal["all"] = 0,
        lora: int | Mapping[str, Any] | None = None,
        quantize: Literal["int8", "nf4"] | None = None,
        dropout: float | None = None,
        attention_dropout: float = 0.0,
        config: Mapping[str, Any] | None = None,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        start = Backbone.of(pretrained, config, vocabulary, dropout=dropout, attention_dropout=attention_dropout)
        vocabulary = self._begin(adata, registry, start.vocabulary)
        if config is None:
            cells = None if adata is None else self._cells()
            lists = lists_of(classes, cells, self._tokens_key, self.vocabulary)
            self._classes = GeneClasses.of(lists, self.vocabulary)
        else:
            self._classes = GeneClasses.restored(classes, self.vocabulary)
        network = nn.GeneClassifier(start.config, len(self._classes.names))
        start.fill(network.encoder)
        limit_training(network, freeze=freeze, lora=lora, quantize=quantize)
        self.module = self._module_cls(network, frozen=freeze == "all")
        self.module.eval()
        self.split_: dict[str, np.ndarray] | None = None
        self.told_ = np.empty(0, dtype=np.int64)
        self.start_ = start.address
        self._start = start.pretrained
        self._model_summary_string = (
            f"GeneClassifier of {', '.join(f'{name} ({len(genes)} genes)' for name, genes in self.classes.items())}: "
            f"{start.config.n_layers} layers, width {start.config.width}, freeze {freeze}, lora {lora}, {self.vocabulary!r}"
        )
        pretrained, config, classes = (
            None,
            start.saved_config,
            self.classes,
        )  # saved models hold their weights themselves
        self.init_params_ = self._get_init_params(locals())

    @property
    def classes(self) -> dict[str, list[str]]:
        """Ids of the genes of each class that are in the vocabulary."""
        return self._classes.lists(self.vocabulary)

    @property
    def genes(self) -> pd.DataFrame:
        """The classified genes with ``symbol`` and ``class``, indexed by id, in the order that splits count them in."""
        return self._classes.table(self.vocabulary)

    def start_encoder(self) -> nn.Encoder:
        """The encoder before it was trained, to compare with.

        Raises
        ------
        ValueError
            If it is not known any more.
        """
        if self._start is None and self.start_ is None:
            msg = (
                "What this classifier started from is not here: it was a model in memory and the classifier was saved, or the classifier was "
                "loaded with its head, its encoder trained. Make a new one: `GeneClassifier(adata, classes, pretrained)`."
            )
            raise ValueError(msg)
        return start_encoder(self)

    def untrained(self) -> GeneClassifier:
        """A model of the same data, genes and arguments that starts where this one did, with a new head."""
        return untrained(self)

    @property
    def _tokens_key(self) -> str:
        return self.registry["setup_args"]["tokens_key"]

    def _cells(self) -> AnnData:
        """The AnnData, or modality, with this model's tokens."""
        mod = dict(self.adata_manager.data_registry[TOKENS_FIELD]).get("mod_key")
        return self.adata if mod is None else _keys.as_adata(self.adata, mod)
