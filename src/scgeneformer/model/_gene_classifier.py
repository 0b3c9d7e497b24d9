"""Classifier of genes, learned from lists of genes and the cells that express them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from scgeneformer import engine, evaluation, nn
from scgeneformer._arguments import checked
from scgeneformer._docs import doc_params
from scgeneformer.hub._pretrained import load_classifier

from ._classified_genes import ClassifiedGenes
from ._classifier import DOCS, SELECTED, SETS, Backbone, limit_training
from ._cross_validation import CrossValidation, Folds, cross_validate_genes
from .data._fields import registry_without_data
from .data._gene_labels import GeneClasses, lists_of
from .data._splits import Sizes, choose_genes
from .objectives._genes import GeneClassifierModule, GeneLabels, loss_weights
from .recipes._genes import TrainingGenes
from .recipes._recipe import AUTO, default_recipe, resolve_recipe, train_by
from .training._options import train_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self, Unpack

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .training._options import TrainOptions

_CLASSES, _TEMPERATURE = "gene_classes", "gene_temperature"  # keys of ours in config.json, which others ignore


@doc_params(**DOCS)
class GeneClassifier(ClassifiedGenes):
    """Gene classifier: learns classes, such as dosage sensitivity or the targets of a transcription factor, from cells that express the genes.

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`. Hundreds to thousands of cells of
        relevant types suffice; labels of cells are not used.
    classes
        Genes of two or more classes, by Ensembl id, symbol or alias; each gene may be in one class only. Or a column of ``.var``, with missing
        values for genes without a class. Genes that are not in the vocabulary are left out with a warning.
    {start}
    head
        ``"linear"``, one layer on standardised states, which can be initialised with a linear probe; scores of a gene are averaged over cells. Or
        ``"bert"``, one layer on unscaled states, as in official checkpoints; probabilities of a gene are averaged over cells. Defaults to
        ``"linear"``.
    {dropout}
    {load}

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.model.GeneClassifier.setup_anndata(adata)
    >>> classes = {"targets": adata.var_names[:20], "others": adata.var_names[20:]}
    >>> model = sg.model.GeneClassifier(adata, classes, "default", freeze="all")
    >>> model.train()
    >>> list(model.selected.table.index)  # judged on genes held out from training
    ['expression level', 'probe']
    >>> model.export("gene_classifier")
    >>> loaded = sg.model.GeneClassifier.from_pretrained("gene_classifier", adata)
    """

    _module_cls = GeneClassifierModule

    @checked
    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        classes: Mapping[str, Sequence[str]] | str | None = None,
        pretrained: Any = "default",
        *,
        freeze: int | Literal["all"] = 0,
        lora: int | Mapping[str, Any] | None = None,
        quantize: Literal["nf4"] | None = None,
        head: Literal["linear", "bert"] | None = None,
        dropout: float | None = None,
        attention_dropout: float = 0.0,
        config: Mapping[str, Any] | None = None,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        start = Backbone.of(pretrained, config, vocabulary, dropout=dropout, attention_dropout=attention_dropout)
        vocabulary = self._init_data(adata, registry, start.vocabulary)
        cells = None if adata is None else self._cells()
        lists = lists_of(classes, cells, self._tokens_key, self.vocabulary)
        self._classes = (GeneClasses.of if config is None else GeneClasses.restored)(lists, self.vocabulary)
        if head is None:  # with a config: of a model that was saved when all had that of BERT
            head = "linear" if config is None else "bert"
        with torch.random.fork_rng(devices=[]):  # what is drawn here, the first training draws again
            network = nn.GeneClassifier(start.config, len(self._classes.names), head)
            start.fill(network.encoder)
            limit_training(network, freeze=freeze, lora=lora, quantize=quantize)
        self.module = self._module_cls(network, frozen=freeze == "all")
        self._init_start(start)
        self.trained_genes_ = np.empty(0, dtype=np.int64)
        self.temperature_ = 1.0
        self._model_summary_string = (
            f"GeneClassifier of {', '.join(f'{name} ({len(genes)} genes)' for name, genes in self.classes.items())}: "
            f"{start.config.n_layers} layers, width {start.config.width}, head {head}, freeze {freeze}, lora {lora}, {self.vocabulary!r}"
        )
        # saved models hold their weights themselves
        pretrained, config, classes = None, start.saved_config, self.classes
        self.init_params_ = self._get_init_params(locals())

    @train_options(learning_rate=None, warmup=None, keep_best="auto")
    def train(
        self,
        max_epochs: int | None = None,
        *,
        recipe: Literal["auto", "probe", "plain", "official"] | None = None,
        split: evaluation.Split | Mapping[str, Sequence[str]] | None = None,
        train_size: float = 0.7,
        validation_size: float = 0.2,
        test_size: float = 0.1,
        max_cells: int | None = None,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Train on some of the classified genes, in the cells in which they occur; the other genes are for validation and testing.

        All cells with a training gene are used, including cells with test genes: only the classes of the test genes are held out.
        Every occurrence of a gene has the same weight in the loss, as in the official tool.

        Parameters
        ----------
        max_epochs
            Maximum number of passes over the cells. Defaults to the number of the recipe.
        recipe
            ``"auto"``, the default for a linear head: fit a linear probe (:func:`scgeneformer.evaluation.fit_logistic` on the mean states of the
            training genes in the pretrained encoder, which becomes the head), fine-tune from there, and keep the classifier with the lowest
            loss on the validation genes. The probe is kept unless the difference is larger than its standard error (:attr:`selected`). The run is
            as in :meth:`CellClassifier.train`. Classes with fewer than 5 validation genes take no part in the comparison. With fewer than 20 genes
            or two classes that do, or ``freeze="all"``, there is no run. With a given `learning_rate`, the run starts from the probe.

            ``"probe"``: the linear probe only. ``"plain"``, the default for the BERT head: one run of one epoch at a learning rate of 2e-4, whose
            last weights are kept. ``"official"``: one run with the options of the official tool, one epoch at 5e-5, 12 cells per step, a
            warm-up of 500 steps (at most a tenth of them).

            `learning_rate`, `warmup` (a tenth of the steps) and `keep_best` are set by the recipe unless they are given.
        split
            Genes for training, validation and testing: a :class:`scgeneformer.evaluation.Split` of row numbers of `genes`, or a mapping
            from ``"train"``, ``"validation"``, ``"test"`` to genes. By default drawn at random, stratified by class; further calls
            of ``train`` reuse it. Genes that occur in no cell are in no set.
        train_size, validation_size, test_size
            Fractions of the genes in each set. Gene lists are short, and a tenth of them is rarely enough to choose between classifiers, so the
            validation set is larger than for cells. To predict genes of unknown class, train on all known genes:
            ``train_size=1, validation_size=0, test_size=0``.
        max_cells
            Maximum number of cells to train on, drawn at random. Defaults to all. The examples of the official tool use 10,000.
        class_weights
            Weight of each class in the loss, or ``"balanced"``: the occurrences of the training genes have the same total weight
            in every class. In the probe each gene counts once.
        {options}
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`, and thus of the trainer of Lightning.

        Notes
        -----
        Nothing is written to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``train_accuracy`` (of
        occurrences), ``validation_loss`` and, for the validation genes, each scored by its mean over cells, ``validation_accuracy``,
        ``validation_macro_f1`` and ``validation_auc``. With recipe ``"auto"`` it is the history of the run that was kept, empty for the probe,
        without validation metrics; `checkpoints` and `ckpt_path` are as in :meth:`CellClassifier.train`.

        Expression level alone often separates classes of genes. The first row of the table of :attr:`selected`, ``"expression level"``, is a
        regression of the same training genes on the number of cells, mean rank and corpus median; the reason says so if it is better
        than the classifier that was kept. After training, a linear head is calibrated on the validation genes, if they suffice: all scores are
        divided by the temperature that fits the mean scores best.

        Raises
        ------
        ValueError
            If there are no data or no genes, if a class has too few genes that occur in cells, or if an option does not apply to the recipe.
        {raises}

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.GeneClassifier.setup_anndata(adata)
        >>> classes = {"targets": adata.var_names[:20], "others": adata.var_names[20:]}
        >>> model = sg.model.GeneClassifier(adata, classes, "default")
        >>> model.train()
        >>> model.selected.kept, model.selected.reason
        ('probe', 'too few validation genes to tell (8; it takes 20, and 5 of each of two classes)')

        One run, of which each epoch is validated:

        >>> model.train(2, recipe="plain")
        >>> len(model.history["validation_auc"])
        2
        """
        by = resolve_recipe(self, recipe, max_epochs, options)
        tokens, lengths = self._training_tokens()
        cells, counts = self._cells_and_counts(tokens, max_cells, options["rng"])
        occurs = counts[self._classes.tokens] > 0
        sizes: Sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        chosen = self.split if split is None and self.split_ is not None else None
        chosen = chosen or choose_genes(self._classes, occurs, split, self.vocabulary, rng=options["rng"], **sizes)
        sets = {"test": cells[:0]}
        for name in ("train", "validation"):
            wanted = self._classes.wanted(len(counts), getattr(chosen, name))
            sets[name] = cells[engine.rows_with(tokens[cells], wanted)]
        weights = loss_weights(self._classes, chosen, counts, class_weights)
        objective = GeneLabels(self._classes, chosen, sets["train"], self.module.network)
        labels = self._classes.codes[:, None].astype(np.float32)
        genes = TrainingGenes(self, tokens, lengths, labels, chosen, objective, cells, sets, counts, class_weights)
        self.split_ = {name: getattr(chosen, name) for name in SETS}
        self.trained_genes_ = np.union1d(self.trained_genes_, chosen.train)
        self.module.token_weights = None if weights is None else torch.from_numpy(weights)
        self._draw_new(options["rng"])
        self.temperature_, self.selected_, self.histories_ = 1.0, None, {}
        selection = train_by(by, genes, max_epochs, options)
        if selection is not None:
            self.selected_, self.histories_ = selection.state, selection.histories
        self.temperature_ = genes.temperature()

    @checked
    def load_adapter(self, folder: str | Path) -> None:
        super().load_adapter(folder)
        self.temperature_ = 1.0  # of other weights

    @checked
    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        n_repeats: int = 1,
        validation_size: float | None = None,
        baselines: Sequence[str] = ("expression", "probe"),
        n_bootstrap: int = 200,
        rng: int = 0,
        **train_kwargs: Any,
    ) -> CrossValidation:
        """Train a model for each fold of genes, with the same start as this one, and predict the held-out genes of the fold.

        Folds are stratified by class; every gene that occurs in a cell is tested exactly once. This model is not changed.

        Parameters
        ----------
        n_folds, n_repeats, n_bootstrap, rng
            As in :meth:`CellClassifier.cross_validate`.
        validation_size
            Fraction of the genes of the other folds used to select the classifier (recipe ``"auto"``) or the best weights (with `keep_best` or
            `early_stopping`) instead of training. Defaults to 0.2 with recipe ``"auto"`` unless ``freeze="all"``, and else to 0.
        baselines
            Logistic regressions on the same folds, listed first in the tables: ``"expression"``, on the number of cells, mean rank and
            corpus median; ``"probe"``, on the pretrained states of genes averaged over cells; ``"profiles"``, on principal components of the
            log-normalised expression across cells, which requires the counts that were tokenized; or the name of a numeric column of ``.var``,
            such as the degree of genes in a network (:func:`scgeneformer.tl.centrality`), whose missing values are replaced by its median.
        **train_kwargs
            For :meth:`train`. `checkpoints` gets a folder for each fold of each repeat.

        Returns
        -------
        Predictions and scores of the models and the baselines.

        Raises
        ------
        ValueError
            If a class has fewer genes in cells than there are folds, a baseline is unknown, or an argument of `train` does not apply here.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.GeneClassifier.setup_anndata(adata)
        >>> classes = {"targets": adata.var_names[:20], "others": adata.var_names[20:]}
        >>> model = sg.model.GeneClassifier(adata, classes, "default", freeze="all")
        >>> cv = model.cross_validate(2)
        >>> cv.summary.index.tolist()
        ['expression level', 'linear probe', 'classifier', 'classifier, per occurrence']
        """
        if validation_size is None:
            recipe = train_kwargs.get("recipe") or default_recipe(self)
            validation_size = 0.2 if recipe == AUTO and not self.module.frozen else 0.0
        folds = Folds(n_folds, n_repeats, validation_size, n_bootstrap, rng)
        return cross_validate_genes(self, baselines, folds, train_kwargs)

    @classmethod
    @checked
    def from_pretrained(
        cls,
        folder: str | Path,
        adata: AnnData | MuData | None = None,
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
        vocabulary: Any = None,
    ) -> Self:
        """Load a classifier with its head, for prediction or further training.

        Parameters
        ----------
        folder
            Folder written by :meth:`export`, by the official tool, or by ``BertForTokenClassification`` of transformers; or the name of a
            classifier in :func:`scgeneformer.hub.available`.
        adata
            Tokenized data. Defaults to none.
        classes
            Genes of each class, in the order of the outputs of the head. Folders written by :meth:`export` contain them; those of other tools contain
            only the names of the classes, if any, which suffice for prediction but not for training.
        vocabulary
            As in :func:`scgeneformer.hub.load`.

        Raises
        ------
        ValueError
            If the number of classes differs from the number of outputs of the head.
        """
        folder, vocabulary = load_classifier(folder, cls.__name__, vocabulary)
        network, config = nn.load_gene_classifier(folder), nn.read_config(folder)
        n_classes, labels = network.classifier.out_features, config.get("id2label", {})
        lists = config.get(_CLASSES) or {str(labels.get(str(i), f"LABEL_{i}")): [] for i in range(n_classes)}
        if classes is not None and len(classes) != n_classes:
            msg = f"classes={list(classes)}, but the head in {folder} distinguishes {n_classes} classes: {list(lists)}."
            raise ValueError(msg)
        if classes is not None:
            lists = GeneClasses.of(classes, vocabulary).lists(vocabulary)
        registry = registry_without_data(cls.__name__, vocabulary.name, vocabulary.hash)
        shape = asdict(network.encoder.config)
        model = cls(classes=lists, config=shape, vocabulary=vocabulary, head=network.head, registry=registry)
        model.temperature_, model.selected_ = float(config.get(_TEMPERATURE, 1.0)), config.get(SELECTED)
        model.trained_genes_ = np.arange(len(model.genes))  # some of them at least
        return model._init_pretrained(network, adata)

    def _exported(self) -> tuple[list[str], dict[str, Any]]:
        ours = {_CLASSES: self.classes, _TEMPERATURE: self.temperature_, SELECTED: self.selected_}
        return list(self._classes.names), ours
