"""Classifier of cells: categories and numbers, learned from columns of ``obs``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch

from scgeneformer import engine, evaluation, nn
from scgeneformer._arguments import checked
from scgeneformer._docs import doc_params
from scgeneformer.hub._pretrained import load_classifier

from ._calibration import fit_calibrations
from ._classifier import DOCS, SELECTED, SETS, Backbone, limit_training
from ._cross_validation import CrossValidation, Folds, cross_validate_cells
from ._labelled_cells import LabelledCells
from .data._cell_labels import CellTask, output_names, task_of_others
from .data._fields import LABELS_PREFIX, field_registry, registry_without_data, tasks_of
from .data._splits import Sizes, choose_split
from .objectives._cells import CellClassifierModule, CellLabels, class_weights_of, task_weights_of
from .recipes._cells import TrainingCells
from .recipes._recipe import resolve_recipe, train_by
from .training._options import train_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self, Unpack

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .training._options import TrainOptions

_TASKS, _TEMPERATURES = "tasks", "temperatures"  # keys of ours in config.json, which others ignore


@doc_params(**DOCS)
class CellClassifier(LabelledCells):
    """Cell classifier: learns one or several columns of ``obs``, such as cell type, disease, differentiation state or dose.

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`.
    {start}
    pooling
        State of a cell: ``"cls"``, the state of the first token, as in BERT; ``"eos"``, the state of the last token of a decoder; ``"mean"`` over
        genes; ``"attention"``, a mean with learned weights. Defaults to the pooling of the pretrained model, else to cls if the vocabulary has
        that token, else to the mean.
    head
        ``"linear"``, one layer on standardised states, which can be initialised with a linear probe; or ``"bert"``, a layer with tanh followed by a
        linear layer, as in official checkpoints. Defaults to ``"linear"``.
    {dropout}
    task_weights
        Weight of the loss of each column. Defaults to equal weights.
    {load}

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.model.CellClassifier.setup_anndata(adata, "disease", sample_key="donor")
    >>> model = sg.model.CellClassifier(adata, "default", freeze=2)
    >>> model.train(max_epochs=2, train_size=0.5, validation_size=0.25, test_size=0.25)
    >>> adata.obs["donor"].iloc[model.split.test].nunique()  # donors held out from training
    2
    >>> predicted = model.predict(indices=model.split.test)

    :func:`scgeneformer.tl.annotate` predicts the labels of other cells, and :func:`scgeneformer.tl.evaluate` compares the classifier
    with baselines.
    """

    _module_cls = CellClassifierModule

    @checked
    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        pretrained: Any = "default",
        *,
        freeze: int | Literal["all"] = 0,
        lora: int | Mapping[str, Any] | None = None,
        quantize: Literal["nf4"] | None = None,
        pooling: Literal["cls", "mean", "eos", "attention"] | None = None,
        head: Literal["linear", "bert"] | None = None,
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
        if head is None:  # with a config: of a model that was saved when all had that of BERT
            head = "linear" if config is None else "bert"
        n_outputs = sum(task.n_outputs for task in self.tasks)
        with torch.random.fork_rng(devices=[]):  # what is drawn here, the first training draws again
            network = nn.CellClassifier(start.config, n_outputs, pooling, self.vocabulary.n_special, head)
            start.fill(network.encoder)
            limit_training(network, freeze=freeze, lora=lora, quantize=quantize)
        weights = task_weights_of(self.tasks, task_weights)
        self.module = self._module_cls(network, self.tasks, task_weights=weights, frozen=freeze == "all")
        self._init_start(start)
        self.temperature_: dict[str, float] = {}
        self.reference_: dict[str, dict[str, np.ndarray]] = {}
        self._model_summary_string = (
            f"CellClassifier of {', '.join(f'{t.name} ({t.kind})' for t in self.tasks)}: {start.config.n_layers} layers, "
            f"width {start.config.width}, pooling {pooling}, head {head}, freeze {freeze}, lora {lora}, {self.vocabulary!r}"
        )
        pretrained, config = None, start.saved_config  # saved models hold their weights themselves
        self.init_params_ = self._get_init_params(locals())

    @train_options(learning_rate=None, warmup=None, keep_best="auto")
    def train(
        self,
        max_epochs: int | None = None,
        *,
        recipe: Literal["auto", "probe", "plain", "official"] | None = None,
        split: evaluation.Split | str | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        test_size: float = 0.1,
        balance: Sequence[str] | None = None,
        class_weights: Literal["balanced"] | Mapping[str, Any] | None = None,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Train on the labelled cells of some samples, or continue training on the same cells.

        Parameters
        ----------
        max_epochs
            Maximum number of passes over the training cells. Defaults to the number of the recipe.
        recipe
            ``"auto"``, the default for a linear head: fit a linear probe (:func:`scgeneformer.evaluation.fit_logistic` or
            :func:`~scgeneformer.evaluation.fit_ridge` on the states of the pretrained encoder, which become the head), fine-tune from there, and
            keep the classifier with the lowest loss on the validation cells. The probe is kept unless the difference is larger than its standard
            error (:attr:`selected`). For two or three classes, the fine-tuning run ("B") starts from a probe with a hundred times stronger
            penalties and balanced classes, with a higher learning rate; for more classes or continuous labels, it starts from the probe itself
            ("A"). It takes 8 epochs, with a minimum of 250 and a maximum of 3,000 steps of at most 16 cells, and the weights at its end are
            compared. Classes with fewer than 3 validation cells take no part in the comparison. With fewer than 50 cells or two classes that do, or
            ``freeze="all"``, there is no run. With a given `learning_rate`, the run starts from the probe.

            ``"probe"``: the linear probe only. ``"plain"``, the default for the BERT head: one run of 10 epochs at a learning rate of 2e-4, which
            keeps the weights with the lowest ``validation_loss``. ``"official"``: one run with the options of the official tool, one epoch at
            5e-5, 12 cells per step, a warm-up of 500 steps (at most a tenth of them).

            `learning_rate`, `warmup` (a tenth of the steps) and `keep_best` are set by the recipe unless they are given.
        split
            Cells for training, validation and testing: a :class:`scgeneformer.evaluation.Split`, or the name of a column of ``.obs`` with
            ``"train"``, ``"validation"``, ``"test"`` or NaN. By default drawn at random, by sample if the data were set up with samples, or else
            stratified by the first column of labels; further calls of ``train`` reuse it.
        train_size, validation_size, test_size
            Fractions of the cells in each set.
        balance
            Columns of ``.obs`` whose distribution should be similar in all sets.
        class_weights
            Weight of each class in the loss: ``"balanced"``, the inverse of its frequency among the training cells; a mapping from
            classes to weights; or a mapping from columns to either.
        {options}
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`, and thus of the trainer of Lightning.

        Notes
        -----
        Nothing is written to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``validation_loss``,
        ``validation_accuracy``, ``validation_macro_f1``, ``validation_auc``, and these for each task if there are several. With recipe
        ``"auto"`` it is the history of the run that was kept, empty for the probe, and has no validation metrics, since validation takes place
        at the end of a run; `checkpoints` gets a folder for each run, and `ckpt_path` is the folder that was given as `checkpoints`. After training, the scores
        are calibrated on the validation cells (:meth:`calibrate`).

        Raises
        ------
        ValueError
            If there are no data, if classes or samples are too few to split, if sets share a sample, or if an option does not apply to the
            recipe.
        {raises}

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.CellClassifier.setup_anndata(adata, "disease")
        >>> model = sg.model.CellClassifier(adata, "default", freeze=2)
        >>> model.train(class_weights="balanced", balance=["cell_type"])
        >>> model.selected.reason
        'too few validation cells to tell (3; it takes 50, and 3 of each of two classes)'

        One run, of which each epoch is validated:

        >>> model.train(2, recipe="plain", learning_rate=1e-3)
        >>> len(model.history["validation_macro_f1"])
        2
        """
        by = resolve_recipe(self, recipe, max_epochs, options)
        tokens, lengths = self._training_tokens()
        labels, samples = self.labels(), self.samples()
        sizes: Sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        chosen = self.split if split is None and self.split_ is not None else None
        chosen = chosen or choose_split(
            self._cells(), self.tasks, labels, split, samples=samples, balance=balance, rng=options["rng"], **sizes
        )
        weights = class_weights_of(self.tasks, labels[chosen.train], class_weights)
        cells = TrainingCells(self, tokens, lengths, labels, chosen, CellLabels(self.tasks, labels, chosen), samples)
        self.module.class_weights, self.split_ = weights, {name: getattr(chosen, name) for name in SETS}
        self.temperature_, self.reference_, self.selected_, self.histories_ = {}, {}, None, {}
        self._draw_new(options["rng"])
        selection = train_by(by, cells, max_epochs, options)
        if selection is not None:
            self.selected_, self.histories_ = selection.state, selection.histories
        self.calibrate()

    def calibrate(self) -> dict[str, float]:
        """Fit a temperature to the scores of the validation cells, for each categorical column (Guo 2017).

        Also stores the distances of these cells to the training cells, which :func:`scgeneformer.tl.annotate` uses to detect cells of unknown classes.

        Returns
        -------
        Temperature of each task, by which :meth:`predict` divides its scores; empty without validation cells.
        """
        self.temperature_, self.reference_ = fit_calibrations(self)
        return dict(self.temperature_)

    @checked
    def readout(self, tasks: Sequence[str]) -> dict[str, np.ndarray]:
        """Directions of the embedding along which predictions change, for :func:`scgeneformer.tl.perturb`.

        The embedding is the input of the head: the last layer, pooled as in this model.

        Parameters
        ----------
        tasks
            Labels that this model learned: continuous, or with two classes.

        Returns
        -------
        For each task float64 (width,). Its product with the shift of a cell is the change in the predicted number, in units of the label, or
        in the calibrated log odds of the second class.

        Raises
        ------
        ValueError
            If the model is not trained, has no such task or no linear head, pools by attention, or a task has more than two classes.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> model.readout(["disease"])["disease"].shape
        (128,)
        """
        self.check_trained()
        network = self.module.network
        if network.head != "linear" or network.pooling == "attention":
            msg = f"Predictions change along one direction only with a linear head on pooled states; this model has head {network.head!r} and pooling {network.pooling!r}."
            raise ValueError(msg)
        weight = (network.classifier.weight.double() / network.standardise.sd.double()).detach().cpu().numpy()
        directions = {}
        for task in map(self.task, tasks):
            of_task = self._outputs(weight.T, task).T  # (outputs, H)
            if max(len(task.classes), 2) > 2:
                msg = f"{task.name!r} has {len(task.classes)} classes, whose probabilities do not change along one direction. Name labels of two classes or numbers."
                raise ValueError(msg)
            scale = task.sd if task.kind == "continuous" else 1 / self.temperature_.get(task.name, 1.0)
            directions[task.name] = scale * (of_task[0] if len(of_task) == 1 else of_task[1] - of_task[0])
        return directions

    @checked
    def load_adapter(self, folder: str | Path) -> None:
        super().load_adapter(folder)
        self.temperature_, self.reference_ = {}, {}  # of other weights

    @checked
    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        n_repeats: int = 1,
        task: str | None = None,
        validation_size: float = 0.1,
        baselines: Sequence[str] = ("probe",),
        n_bootstrap: int = 200,
        rng: int = 0,
        **train_kwargs: Any,
    ) -> CrossValidation:
        """Train a model for each fold, with the same start as this one, and predict the held-out cells of the fold.

        Folds are stratified by the first column of labels; if the data were set up with samples, no sample is in two folds. (The
        official tool tests only a part of each fold, and assigns cells in the order of the file.) This model is not changed.

        Parameters
        ----------
        n_folds
            Number of folds.
        n_repeats
            Number of repeats, with consecutive seeds from `rng` on and thus different folds, splits and orders of cells.
        task
            Column to predict, if the model learns several.
        validation_size
            Fraction of the cells outside the fold used to select the classifier and to calibrate the scores; 0 for none, in which case only linear
            probes are fitted unless ``recipe="plain"``.
        baselines
            Linear models on the same folds: ``"probe"``, on the embedding of the pretrained model; ``"expression"``, on principal components
            of the log-normalised expression, which requires the counts that were tokenized.
        n_bootstrap
            Number of bootstrap samples for the intervals; 0 for none.
        rng
            Seed for folds, splits, new heads, dropout and the order of cells.
        **train_kwargs
            For :meth:`train`, such as `recipe`. `checkpoints` gets a folder for each fold of each repeat.

        Returns
        -------
        Predictions and scores of the models and the baselines.

        Raises
        ------
        ValueError
            If a class has fewer members than there are folds, there are fewer samples than folds, a baseline is unknown, an argument of
            `train` does not apply here, or the encoder that this model started from is unknown.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.CellClassifier.setup_anndata(adata, "disease", sample_key="donor")
        >>> model = sg.model.CellClassifier(adata, "default", freeze="all")
        >>> cv = model.cross_validate(2, validation_size=0, max_epochs=1)
        >>> cv.summary.index.tolist()
        ['linear probe', 'classifier']
        """
        folds = Folds(n_folds, n_repeats, validation_size, n_bootstrap, rng)
        return cross_validate_cells(self, task, baselines, folds, train_kwargs)

    def _exported(self) -> tuple[list[str], dict[str, Any]]:
        ours = {_TASKS: {task.name: task.state for task in self.tasks}, _TEMPERATURES: self.temperature_}
        return output_names(self.tasks), ours | {SELECTED: self.selected_}

    @classmethod
    @checked
    def from_pretrained(
        cls,
        folder: str | Path,
        adata: AnnData | MuData | None = None,
        *,
        labels_key: str = "label",
        vocabulary: Any = None,
    ) -> Self:
        """Load a classifier with its head, for prediction or further training.

        Parameters
        ----------
        folder
            Folder written by :meth:`export`, by the official tool, or by ``BertForSequenceClassification`` of transformers; or the name of a
            classifier in :func:`scgeneformer.hub.available`.
        adata
            Tokenized data. Defaults to none.
        labels_key
            Name of the labels, for classifiers of other tools. Folders written by :meth:`export` contain it.
        vocabulary
            As in :func:`scgeneformer.hub.load`.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> model.export("classifier")
        >>> loaded = sg.model.CellClassifier.from_pretrained("classifier")
        >>> sg.pp.tokenize(adata, loaded.vocabulary)
        >>> predicted = loaded.predict(adata)
        """
        folder, vocabulary = load_classifier(folder, cls.__name__, vocabulary)
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
        model = cls(config=shape, vocabulary=vocabulary, pooling=network.pooling, head=network.head, registry=registry)
        model.temperature_, model.selected_ = dict(config.get(_TEMPERATURES, {})), config.get(SELECTED)
        return model._init_pretrained(network, adata)
