"""Classifier of cells: categories and numbers, learned from columns of ``obs``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import engine, evaluation, hub, nn
from scgeneformer._docs import doc_params

from ._classifier import DOCS, SETS, Backbone, limit_training
from ._cross_validation import CrossValidation, cross_validate_cells
from ._labelled_cells import LabelledCells
from .data._cell_labels import CellTask, output_names, task_of_others
from .data._fields import LABELS_PREFIX, field_registry, registry_without_data, tasks_of
from .data._rows import TokenRows
from .data._splits import Sizes, choose_split
from .objectives._cells import CellClassifierModule, CellLabels, class_weights_of, task_weights_of
from .training._options import train_options
from .training._train import loader_options, run_training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self, Unpack

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .training._options import TrainOptions

_TASKS, _TEMPERATURES = "tasks", "temperatures"  # keys of ours in config.json, which others ignore


@doc_params(**DOCS)
class CellClassifier(LabelledCells):
    """Learns columns of ``obs``: cell type, disease, differentiation state, dose, several of them at once.

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`.
    {start}
    pooling
        State of a cell: ``"cls"``, that of the first token, as in BERT; ``"mean"`` over genes; ``"attention"``, a mean with learned
        weights. Defaults to the pooling of the pretrained model, else to cls where the vocabulary has it, else to the mean.
    {dropout}
    task_weights
        Weight of the loss of each column. Defaults to equal weights.
    {load}

    Examples
    --------
    >>> sg.pp.tokenize(adata, "V2-104M")
    >>> sg.model.CellClassifier.setup_anndata(adata, "disease", sample_key="donor")
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
        quantize: Literal["nf4"] | None = None,
        pooling: Literal["cls", "mean", "attention"] | None = None,
        dropout: float | None = None,
        attention_dropout: float = 0.0,
        task_weights: Mapping[str, float] | None = None,
        config: Mapping[str, Any] | None = None,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        start = Backbone.of(pretrained, config, vocabulary, dropout=dropout, attention_dropout=attention_dropout)
        vocabulary = self._init_data(adata, registry, start.vocabulary)
        self.tasks = tasks_of(self.registry)
        if pooling is None or (pooling != "attention" and config is None):
            pooling = engine.resolve_pooling(pooling, start.config, has_cls=self.vocabulary.has_cls)
        n_outputs = sum(task.n_outputs for task in self.tasks)
        network = nn.CellClassifier(start.config, n_outputs, pooling, self.vocabulary.n_special)
        start.fill(network.encoder)
        limit_training(network, freeze=freeze, lora=lora, quantize=quantize)
        weights = task_weights_of(self.tasks, task_weights)
        self.module = self._module_cls(network, self.tasks, task_weights=weights, frozen=freeze == "all")
        self._init_start(start)
        self.temperature_: dict[str, float] = {}
        self._model_summary_string = (
            f"CellClassifier of {', '.join(f'{t.name} ({t.kind})' for t in self.tasks)}: {start.config.n_layers} layers, "
            f"width {start.config.width}, pooling {pooling}, freeze {freeze}, lora {lora}, {self.vocabulary!r}"
        )
        pretrained, config = None, start.saved_config  # saved models hold their weights themselves
        self.init_params_ = self._get_init_params(locals())

    @train_options(learning_rate=2e-4, warmup=0.1, keep_best="validation_loss")
    def train(
        self,
        max_epochs: int = 10,
        *,
        split: evaluation.Split | str | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        test_size: float = 0.1,
        balance: Sequence[str] | None = None,
        class_weights: Literal["balanced"] | Mapping[str, Any] | None = None,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Train on the labelled cells of some samples, or go on training on the same.

        Parameters
        ----------
        max_epochs
            Maximum number of passes over the training cells.
        split
            Cells that train, validate and test: a :class:`scgeneformer.evaluation.Split`, or the name of a column of ``.obs`` with
            ``"train"``, ``"validation"``, ``"test"`` or NaN. By default drawn by samples where the data were set up with any, else
            stratified by the first column of labels, and kept for further calls of ``train``.
        train_size, validation_size, test_size
            Shares of the sets.
        balance
            Columns of ``.obs`` whose distribution is to be similar in all sets.
        class_weights
            Weight of each class in the loss: ``"balanced"`` by the inverse of its frequency among the training cells; a mapping from
            classes; or a mapping from columns to either.
        {options}
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`, and so of Lightning's.

        Notes
        -----
        Writes nothing to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``validation_loss``,
        ``validation_accuracy``, ``validation_macro_f1``, ``validation_auc``, and those of each task where there are several. After training
        the scores are calibrated on the validation cells (:meth:`calibrate`).

        Raises
        ------
        ValueError
            If there are no data, a class or sample leaves no way to split, or sets share a sample.
        {raises}
        """
        tokens, lengths = self._training_tokens()
        labels, samples = self.labels(), self.samples()
        sizes: Sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        chosen = self.split if split is None and self.split_ is not None else None
        chosen = chosen or choose_split(
            self._cells(), self.tasks, labels, split, samples=samples, balance=balance, rng=options["rng"], **sizes
        )
        weights = class_weights_of(self.tasks, labels[chosen.train], class_weights)
        sets = {name: getattr(chosen, name) for name in SETS}
        objective = CellLabels(self.tasks, labels, chosen)
        rows = TokenRows(tokens, lengths, sets=sets, targets=objective.targets, **loader_options(options))
        self.module.class_weights, self.split_, self.temperature_ = weights, sets, {}
        run_training(self, objective, rows, max_epochs=max_epochs, options=options)
        self.calibrate()

    def calibrate(self) -> dict[str, float]:
        """Fit a temperature to the scores of the validation cells, for each column of categories (Guo 2017).

        Returns
        -------
        The temperature of each task, by which :meth:`predict` divides scores; empty without validation cells.
        """
        cells, labels = self.split.validation, self.labels()
        self.temperature_ = {}
        for i, task in enumerate(self.tasks):
            labelled = cells[~np.isnan(labels[cells, i])]
            if task.kind == "categorical" and len(labelled):
                scores = self.scores(indices=labelled, task=task.name)
                scored = np.isfinite(scores[:, 0])  # not cells without tokens
                if scored.any():
                    codes = labels[labelled, i].astype(np.int64)
                    self.temperature_[task.name] = evaluation.temperature(scores[scored], codes[scored])
        return dict(self.temperature_)

    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        task: str | None = None,
        validation_size: float = 0.1,
        baselines: Sequence[str] = ("probe",),
        rng: int = 0,
        **train_kwargs: Any,
    ) -> CrossValidation:
        """Train a model for each fold, from where this one started, and predict the cells of the fold with it.

        Folds are stratified by the first column of labels; where the data were set up with samples, no sample is in two folds. (The
        official tool tests a part of each fold only, and takes cells in the order of the file.) This model is not changed.

        Parameters
        ----------
        n_folds
            Number of folds.
        task
            Column to predict, where several are learned.
        validation_size
            Share of the cells outside the fold by which the best weights are chosen and scores calibrated; 0 for none.
        baselines
            Linear models on the same folds: of ``"probe"``, the embedding of the pretrained model; of ``"expression"``, principal components
            of the log-normalised expression, which needs the counts that the tokens were made from.
        rng
            Seed of folds, splits, new heads, dropout and order.
        **train_kwargs
            For :meth:`train`. `checkpoints` gets a folder for each fold.

        Raises
        ------
        ValueError
            If a class has fewer members than there are folds, there are fewer samples than folds, a baseline is unknown, an argument of
            `train` has no meaning here, or the model started from one that is no longer there.
        """
        return cross_validate_cells(
            self, task, baselines, n_folds=n_folds, validation_size=validation_size, rng=rng, train_kwargs=train_kwargs
        )

    def _exported(self) -> tuple[list[str], dict[str, Any]]:
        ours = {_TASKS: {task.name: task.state for task in self.tasks}, _TEMPERATURES: self.temperature_}
        return output_names(self.tasks), ours

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        adata: AnnData | MuData | None = None,
        *,
        labels_key: str = "label",
        vocabulary: Any = None,
    ) -> Self:
        """Load a classifier with its head, to predict or to train it further.

        Parameters
        ----------
        folder
            Written by :meth:`export`, by the official tool, or by transformers' ``BertForSequenceClassification``.
        adata
            Tokenized data to work on; None for none yet.
        labels_key
            Name of the labels of a classifier that others wrote; ours hold it.
        vocabulary
            As of :func:`scgeneformer.hub.load`.
        """
        vocabulary = hub.load(folder, vocabulary=vocabulary).vocabulary
        network, config = nn.load_cell_classifier(folder), nn.read_config(folder)
        n_outputs = network.classifier.out_features
        tasks = {name: CellTask.restored(name, state) for name, state in config.get(_TASKS, {}).items()}
        if sum(task.n_outputs for task in tasks.values()) != n_outputs:  # not ours, or no longer
            tasks = {labels_key: task_of_others(labels_key, config, n_outputs)}
        fields = {LABELS_PREFIX + name: field_registry("obs", name, task.state) for name, task in tasks.items()}
        kinds = {name: task.kind for name, task in tasks.items()}
        setup = {"labels_key": kinds, "sample_key": None, "unlabeled_category": None}
        registry = registry_without_data(
            cls.__name__, vocabulary.name, vocabulary.hash, setup_args=setup, fields=fields
        )
        shape = asdict(network.encoder.config)
        model = cls(config=shape, vocabulary=vocabulary, pooling=network.pooling, registry=registry)
        model.temperature_ = dict(config.get(_TEMPERATURES, {}))
        return model._init_pretrained(network, adata)
