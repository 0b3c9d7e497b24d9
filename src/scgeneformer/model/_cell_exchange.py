"""Classifiers of cells as folders that others read, and as adapters."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from scgeneformer import hub, nn

from ._adapters import AdapterMixin, plain_copy
from .data._cell_labels import CellTask
from .data._columns import LABELS_PREFIX
from .data._fields import field_registry, registry_without_data

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from anndata import AnnData
    from mudata import MuData

_TASKS, _TEMPERATURES = "tasks", "temperatures"  # keys of ours in config.json, which others pass over


class CellExchangeMixin(AdapterMixin):
    """Gives a classifier of cells its ways in and out."""

    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that :meth:`from_pretrained`, :func:`scgeneformer.hub.load` and transformers load.

        ``BertForSequenceClassification`` gives the same scores if there is one column of categories, and `pooling` is ``"cls"``.
        Adapters are merged into the weights, and quantized ones written as the float32 numbers that they stand for.

        Parameters
        ----------
        folder
            Made if missing: ``config.json``, ``model.safetensors``, ``vocabulary.json.gz``.
        dtype
            Precision of the weights in the file.
        """
        ours = {_TASKS: {task.name: task.state for task in self.tasks}, _TEMPERATURES: self.temperature_}
        self._export(folder, plain_copy(self.module.network), dtype, labels=_output_names(self.tasks), **ours)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, adata: AnnData | MuData | None = None, *, labels: str = "label", vocabulary: Any = None
    ) -> Self:
        """Load a classifier with its head, to predict or to train it further.

        Parameters
        ----------
        folder
            Written by :meth:`export`, by the official tool, or by transformers' ``BertForSequenceClassification``.
        adata
            Tokenized data to work on; None for none yet.
        labels
            What a classifier of others calls its labels; ours know.
        vocabulary
            As of :func:`scgeneformer.hub.load`.
        """
        found, network, config = (
            hub.load(folder, vocabulary=vocabulary),
            nn.load_cell_classifier(folder),
            nn.read_config(folder),
        )
        n_outputs = network.classifier.out_features
        tasks = {name: CellTask.restored(name, state) for name, state in config.get(_TASKS, {}).items()}
        if sum(task.n_outputs for task in tasks.values()) != n_outputs:  # not ours, or no longer
            tasks = {labels: _task_of_others(labels, config, n_outputs)}
        fields = {LABELS_PREFIX + name: field_registry("obs", name, task.state) for name, task in tasks.items()}
        setup = {"labels": {name: task.kind for name, task in tasks.items()}, "sample": None, "unlabeled": None}
        own = found.vocabulary
        registry = registry_without_data(cls.__name__, own.name, own.hash, setup_args=setup, fields=fields)
        shape = asdict(network.encoder.config)
        model = cls(config=shape, vocabulary=own, pooling=network.pooling, registry=registry)
        model.module.network.load_state_dict(network.state_dict())
        model.temperature_ = dict(config.get(_TEMPERATURES, {}))
        model.start_ = model._start = None  # its encoder has seen labels: nothing to compare a training with
        model.history_ = {}
        model.is_trained_ = True
        if adata is not None:
            model._validate_anndata(adata)
        return model


def _output_names(tasks: tuple[CellTask, ...]) -> list[str]:
    """A name for each score of the network."""
    if len(tasks) == 1 and tasks[0].kind == "categorical":
        return list(tasks[0].classes)
    names = []
    for task in tasks:
        classes = task.classes[1:] if task.kind == "ordinal" else task.classes or ("",)
        names += [f"{task.name}: {name}" if name else task.name for name in classes]
    return names


def _task_of_others(name: str, config: dict[str, Any], n_outputs: int) -> CellTask:
    """What a checkpoint of transformers was trained for."""
    if n_outputs == 1:
        return CellTask(name, "continuous")
    labels = config.get("id2label", {})
    classes = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(n_outputs))
    return CellTask(name, "categorical", classes)
