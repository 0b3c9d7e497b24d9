"""Classifier of genes, learned from lists of genes and the cells that express them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from scgeneformer import engine, evaluation, hub, nn
from scgeneformer._docs import doc_params
from scgeneformer._settings import engine_options

from ._classifier import DOCS, SETS, Backbone, Classifier, limit_training
from ._cross_validation import CrossValidation, Folds, cross_validate_genes
from ._unlabelled_cells import UnlabelledCells
from .data._fields import registry_without_data
from .data._gene_labels import GeneClasses, lists_of, prediction_table, tokens_of
from .data._rows import TokenRows
from .data._splits import Sizes, choose_genes
from .objectives._genes import GeneClassifierModule, GeneLabels, loss_weights
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

_CLASSES = "gene_classes"  # key of ours in config.json, which others ignore


@doc_params(**DOCS)
class GeneClassifier(Classifier, UnlabelledCells):
    """Classifier of genes: learns classes, such as dosage sensitivity or targets of a factor, from the cells that express the genes.

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`. Hundreds to thousands of cells of
        relevant types suffice; labels of cells are not used.
    classes
        Genes of two or more classes, by Ensembl id, symbol or alias; no gene may be in two. Or a column of ``.var``, with missing
        values for genes without a class. Genes that are not in the vocabulary are left out with a warning.
    {start}
    {dropout}
    {load}

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.model.GeneClassifier.setup_anndata(adata)
    >>> classes = {"targets": adata.var_names[:20], "others": adata.var_names[20:]}
    >>> model = sg.model.GeneClassifier(adata, classes, "default", freeze="all")
    >>> model.train(max_epochs=2)
    >>> len(model.history["validation_auc"])  # of genes held out from training, after each epoch
    2
    >>> model.export("gene_classifier")
    >>> loaded = sg.model.GeneClassifier.from_pretrained("gene_classifier", adata)
    """

    _module_cls = GeneClassifierModule
    module: GeneClassifierModule

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        classes: Mapping[str, Sequence[str]] | str | None = None,
        pretrained: Any = "default",
        *,
        freeze: int | Literal["all"] = 0,
        lora: int | Mapping[str, Any] | None = None,
        quantize: Literal["nf4"] | None = None,
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
        network = nn.GeneClassifier(start.config, len(self._classes.names))
        start.fill(network.encoder)
        limit_training(network, freeze=freeze, lora=lora, quantize=quantize)
        self.module = self._module_cls(network, frozen=freeze == "all")
        self._init_start(start)
        self.trained_genes_ = np.empty(0, dtype=np.int64)
        self._model_summary_string = (
            f"GeneClassifier of {', '.join(f'{name} ({len(genes)} genes)' for name, genes in self.classes.items())}: "
            f"{start.config.n_layers} layers, width {start.config.width}, freeze {freeze}, lora {lora}, {self.vocabulary!r}"
        )
        # saved models hold their weights themselves
        pretrained, config, classes = None, start.saved_config, self.classes
        self.init_params_ = self._get_init_params(locals())

    @property
    def classes(self) -> dict[str, list[str]]:
        """Ids of the genes of each class that are in the vocabulary."""
        return self._classes.lists(self.vocabulary)

    @property
    def genes(self) -> pd.DataFrame:
        """The classified genes with ``symbol`` and ``class``, indexed by id. Splits refer to its row numbers."""
        return self._classes.table(self.vocabulary)

    @property
    def _tokens_key(self) -> str:
        return self.registry["setup_args"]["tokens_key"]

    @train_options(learning_rate=2e-4, warmup=0.1)
    def train(
        self,
        max_epochs: int = 1,
        *,
        split: evaluation.Split | Mapping[str, Sequence[str]] | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        test_size: float = 0.1,
        max_cells: int | None = None,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Train on some of the classified genes, in the cells in which they occur; the other genes validate and test.

        All cells with a training gene are used, also those in which test genes occur: only the classes of the test genes are held out.
        Every occurrence of a gene has the same weight in the loss, as in the official tool.

        Parameters
        ----------
        max_epochs
            Maximum number of passes over the cells.
        split
            Genes that train, validate and test: a :class:`scgeneformer.evaluation.Split` of row numbers of `genes`, or a mapping
            from ``"train"``, ``"validation"``, ``"test"`` to genes. By default drawn, stratified by class, and reused by further calls
            of ``train``. Genes that occur in no cell are in no set.
        train_size, validation_size, test_size
            Fractions of the genes in each set. To predict genes of unknown class, train on all: ``train_size=1, validation_size=0, test_size=0``.
        max_cells
            Maximum number of cells to train on, drawn at random. Defaults to all. The official tool's examples use 10,000.
        class_weights
            Weight of each class in the loss, or ``"balanced"``: the occurrences of all training genes of a class have the same total weight
            in every class.
        {options}
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`, and so of Lightning's.

        Notes
        -----
        Nothing is written to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``train_accuracy`` (of
        occurrences), ``validation_loss`` and, for the validation genes, each scored by its mean over cells, ``validation_accuracy``,
        ``validation_macro_f1`` and ``validation_auc``. Scores of few genes are noisy, so by default the last weights are kept, not the
        best ones: see :meth:`cross_validate`.

        Raises
        ------
        ValueError
            If there are no data or no genes, or if a class has too few genes that occur in cells.
        {raises}
        """
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
        objective = GeneLabels(self._classes, chosen, sets["train"], len(counts))
        rows = TokenRows(tokens, lengths, sets=sets, targets=objective.targets, **loader_options(options))
        self.split_ = {name: getattr(chosen, name) for name in SETS}
        self.trained_genes_ = np.union1d(self.trained_genes_, chosen.train)
        self.module.token_weights = None if weights is None else torch.from_numpy(weights)
        run_training(self, objective, rows, max_epochs=max_epochs, options=options)

    @property
    def trained_genes(self) -> list[str]:
        """Ids of the genes that this model was trained on, by any call of ``train`` or before it was loaded from a folder."""
        return self.genes.index[self.trained_genes_].tolist()

    def _training_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        tokens, lengths = super()._training_tokens()
        if len(np.unique(self._classes.codes)) < len(self._classes.names):
            msg = f"This model knows no genes of some of its classes {list(self._classes.names)}. Give them as `from_pretrained(..., classes=)`."
            raise ValueError(msg)
        return tokens, lengths

    def _cells_and_counts(self, tokens: np.ndarray, max_cells: int | None, rng: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows with classified genes, no more than `max_cells`, and the number of occurrences of each token in them, (V,)."""
        n_tokens = len(self.vocabulary)
        cells = np.flatnonzero(engine.rows_with(tokens, self._classes.wanted(n_tokens)))
        if max_cells is not None and max_cells < len(cells):
            cells = np.sort(np.random.default_rng(rng).choice(cells, max_cells, replace=False))
        if len(cells) == 0:
            msg = f"No gene of the classes {list(self._classes.names)} is among the tokens of any cell. Check the lists, or how cells were tokenized."
            raise ValueError(msg)
        return cells, engine.count_tokens(tokens[cells], n_tokens)

    def predict_genes(
        self,
        adata: AnnData | MuData | None = None,
        genes: Sequence[str] | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        occurrences: bool = False,
        **engine_kwargs: Any,
    ) -> pd.DataFrame:
        """Predict classes of genes, whether their class is known or not, in the context of cells.

        The probabilities of a gene are averaged over the cells in which it is among the tokens. Predictions for genes that the model was
        trained on do not test the model: see :meth:`cross_validate`.

        Parameters
        ----------
        adata
            Tokenized data. Defaults to the data of this model.
        genes
            Ensembl ids, symbols or aliases. Defaults to all genes that occur.
        indices
            Cells, as numbers or as a mask. Defaults to all. Predictions depend on the type of the cells.
        occurrences
            Return a row for each gene in each cell instead of means over cells.
        **engine_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.classify_genes`. Default to the settings.

        Returns
        -------
        DataFrame indexed by gene id, in the order of `genes` or of the vocabulary: ``symbol``, a column of probabilities for each class,
        float64, ``predicted``, categorical, and ``n_cells``, int64. Genes that occur in no cell have NaN and 0 cells. With `occurrences`:
        ``cell``, ``rank`` (0 for the first gene of a cell), and a column for each class, float32; cells in order, genes by rank.

        Raises
        ------
        ValueError
            If no gene of `genes` is in the vocabulary. If only some are missing, a warning names them.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.GeneClassifier.setup_anndata(adata)
        >>> classes = {"targets": adata.var_names[:20], "others": adata.var_names[20:]}
        >>> model = sg.model.GeneClassifier(adata, classes, "default", freeze="all")
        >>> model.train(train_size=1, validation_size=0, test_size=0)
        >>> fibroblasts = (adata.obs["cell_type"] == "fibroblast").to_numpy()
        >>> model.predict_genes(genes=["STAT1", "IRF9"], indices=fibroblasts)["symbol"].tolist()
        ['STAT1', 'IRF9']
        """
        cells = self._read_tokens(adata, indices)
        n_special, ids = self.vocabulary.n_special, self.vocabulary.ids
        if genes is None:
            counts = engine.count_tokens(cells, len(ids))
            tokens = n_special + np.flatnonzero(counts[n_special:])
        else:
            tokens = tokens_of([genes] if isinstance(genes, str) else genes, self.vocabulary, "those asked for")
            if len(tokens) == 0:
                msg = f"None of the genes asked for is in the vocabulary {self.vocabulary.name!r}. Name them by Ensembl id or symbol."
                raise ValueError(msg)
        scores = self.score_tokens(cells, tokens, occurrences=occurrences, **engine_kwargs)
        if occurrences:
            table = pd.DataFrame(scores.occurrences, columns=list(self._classes.names))
            table.insert(0, "rank", scores.positions - int(self.vocabulary.has_cls))
            table.insert(0, "cell", self._names(adata, indices)[scores.rows])
            return table.set_axis(pd.Index(ids[cells[scores.rows, scores.positions]], name="gene_id"), axis=0)
        table = prediction_table(tokens, scores.proba[tokens], self._classes.names, self.vocabulary)
        return table.assign(n_cells=scores.n_cells[tokens])

    def score_tokens(
        self, cells: np.ndarray, tokens: np.ndarray, *, occurrences: bool = False, **engine_kwargs: Any
    ) -> engine.GeneScores:
        """Probabilities of the classes for some genes, from tokens that need not be registered.

        Parameters
        ----------
        cells
            Tokens of the vocabulary of this model, uint16 (n_cells, L), right-padded with 0.
        tokens
            Genes to classify, by their tokens, (n_genes,).
        occurrences, **engine_kwargs
            As in :meth:`predict_genes`.

        Raises
        ------
        ValueError
            If a cell has more tokens than the model has positions.
        """
        self.check_tokens(cells)
        wanted = np.zeros(len(self.vocabulary), dtype=bool)
        wanted[tokens] = True
        options = engine_options(**engine_kwargs)
        return engine.classify_genes(self.module.network, cells, wanted=wanted, occurrences=occurrences, **options)

    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        n_repeats: int = 1,
        validation_size: float = 0.0,
        baselines: Sequence[str] = ("expression", "probe"),
        n_bootstrap: int = 200,
        rng: int = 0,
        **train_kwargs: Any,
    ) -> CrossValidation:
        """Train a model for each fold of genes, from where this one started, and predict the genes of the fold with it.

        Folds are stratified by class; every gene that occurs in a cell is tested exactly once. This model is not changed.

        Parameters
        ----------
        n_folds, n_repeats, n_bootstrap, rng
            As in :meth:`CellClassifier.cross_validate`.
        validation_size
            Fraction of the genes of the other folds that select the best weights (with `keep_best` or `early_stopping`) instead of training.
        baselines
            Logistic regressions on the same folds, which stand first in the tables: ``"expression"``, on the number of cells, mean rank and
            corpus median; ``"probe"``, on the pretrained states of genes averaged over cells; ``"profiles"``, on principal components of the log-normalised expression across
            cells, which needs the counts that the tokens were made from.
        **train_kwargs
            For :meth:`train`. `checkpoints` gets a folder for each fold of each repeat.

        Returns
        -------
        Predictions and scores of the models and the baselines.

        Raises
        ------
        ValueError
            If a class has fewer genes in cells than there are folds, a baseline is unknown, or an argument of `train` has no meaning here.

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
        folds = Folds(n_folds, n_repeats, validation_size, n_bootstrap, rng)
        return cross_validate_genes(self, baselines, folds, train_kwargs)

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
            Folder written by :meth:`export`, by the official tool, or by ``BertForTokenClassification`` of transformers.
        adata
            Tokenized data. Defaults to none.
        classes
            Genes of each class, in the order of the outputs of the head. Folders of :meth:`export` hold them; those of other tools hold
            only the names of the classes, if any, which suffice to predict but not to train.
        vocabulary
            As in :func:`scgeneformer.hub.load`.

        Raises
        ------
        ValueError
            If the number of classes differs from the number of outputs of the head.
        """
        vocabulary = hub.load(folder, vocabulary=vocabulary).vocabulary
        network, config = nn.load_gene_classifier(folder), nn.read_config(folder)
        n_classes, labels = network.classifier.out_features, config.get("id2label", {})
        lists = config.get(_CLASSES) or {str(labels.get(str(i), f"LABEL_{i}")): [] for i in range(n_classes)}
        if classes is not None and len(classes) != n_classes:
            msg = f"classes={list(classes)}, but the head in {folder} tells {n_classes} classes apart: {list(lists)}."
            raise ValueError(msg)
        if classes is not None:
            lists = GeneClasses.of(classes, vocabulary).lists(vocabulary)
        registry = registry_without_data(cls.__name__, vocabulary.name, vocabulary.hash)
        model = cls(classes=lists, config=asdict(network.encoder.config), vocabulary=vocabulary, registry=registry)
        model.trained_genes_ = np.arange(len(model.genes))  # some of them at least
        return model._init_pretrained(network, adata)

    def _exported(self) -> tuple[list[str], dict[str, Any]]:
        return list(self._classes.names), {_CLASSES: self.classes}
