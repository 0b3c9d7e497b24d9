"""Classifiers of genes as folders that others read, and as adapters."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import hub, nn

from ._adapters import AdapterMixin, plain_copy
from .data._fields import registry_without_data
from .data._gene_labels import GeneClasses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from anndata import AnnData
    from mudata import MuData

_CLASSES = "gene_classes"  # key of ours in config.json, which others pass over


class GeneExchangeMixin(AdapterMixin):
    """Gives a classifier of genes its ways in and out."""

    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that :meth:`from_pretrained`, :func:`scgeneformer.hub.load` and transformers load.

        ``BertForTokenClassification`` gives the same scores; ``id2label`` has the names of the classes, in their order. Adapters are
        merged into the weights, and quantized ones written as the float32 numbers that they stand for.

        Parameters
        ----------
        folder
            Made if missing: ``config.json``, ``model.safetensors``, ``vocabulary.json.gz``.
        dtype
            Precision of the weights in the file.
        """
        ours = {_CLASSES: self.classes}
        self._export(folder, plain_copy(self.module.network), dtype, labels=list(self._classes.names), **ours)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        adata: AnnData | MuData | None = None,
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
        vocabulary: Any = None,
    ) -> Self:
        """Load a classifier with its head, to predict or to train it further.

        Parameters
        ----------
        folder
            Written by :meth:`export`, by the official tool, or by transformers' ``BertForTokenClassification``.
        adata
            Tokenized data to work on; None for none yet.
        classes
            Genes of each class, in the order of the head's outputs. Folders of ours know them; those of others know names of classes
            at most, which is enough to predict, but not to train.
        vocabulary
            As of :func:`scgeneformer.hub.load`.

        Raises
        ------
        ValueError
            If there are not as many classes as the head has outputs.
        """
        found, network, config = (
            hub.load(folder, vocabulary=vocabulary),
            nn.load_gene_classifier(folder),
            nn.read_config(folder),
        )
        n_classes, labels = network.classifier.out_features, config.get("id2label", {})
        known = config.get(_CLASSES) or {str(labels.get(str(i), f"LABEL_{i}")): [] for i in range(n_classes)}
        if classes is not None and len(classes) != n_classes:
            msg = f"classes={list(classes)}, but the head in {folder} tells {n_classes} classes apart: {list(known)}."
            raise ValueError(msg)
        own = found.vocabulary
        if classes is not None:
            known = GeneClasses.of(classes, own).lists(own)
        registry = registry_without_data(cls.__name__, own.name, own.hash)
        model = cls(classes=known, config=asdict(network.encoder.config), vocabulary=own, registry=registry)
        model.module.network.load_state_dict(network.state_dict())
        model.start_ = model._start = None  # not this encoder, which was told classes of genes
        model.told_ = np.arange(len(model.genes))  # some of them at least
        model.is_trained_, model.history_ = True, {}
        if adata is not None:
            model._validate_anndata(adata)
        return model
