"""Classes of genes: which genes are of which, and what a classifier predicts for genes in the context of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import engine
from scgeneformer._arguments import checked
from scgeneformer._settings import engine_options
from scgeneformer.tokens import token_of

from ._classifier import Classifier
from ._unlabelled_cells import UnlabelledCells
from .data._gene_labels import prediction_table, tokens_to_predict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from .data._gene_labels import GeneClasses
    from .objectives._genes import GeneClassifierModule
    from .recipes._genes import StatesOfGenes


class ClassifiedGenes(Classifier, UnlabelledCells):
    """A classifier that predicts classes of genes."""

    module: GeneClassifierModule
    temperature_: float
    trained_genes_: np.ndarray
    _classes: GeneClasses
    _known_states: StatesOfGenes | None = None  # shared by the folds of a cross-validation

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

    @property
    def trained_genes(self) -> list[str]:
        """Ids of the genes that this model was trained on, by any call of ``train`` or before it was loaded from a folder."""
        return self.genes.index[self.trained_genes_].tolist()

    def _training_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        tokens, lengths = super()._training_tokens()
        if len(np.unique(self._classes.codes)) < len(self._classes.names):
            msg = f"This model knows no genes of some of its classes {list(self._classes.names)}. Pass them to `from_pretrained(..., classes=)`."
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

    @checked
    def predict_genes(
        self,
        adata: AnnData | MuData | None = None,
        genes: Sequence[str] | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        occurrences: bool = False,
        **engine_kwargs: Any,
    ) -> pd.DataFrame:
        """Predict classes of genes in the context of cells, for genes of known or unknown class.

        The scores of a gene are averaged over the cells whose tokens contain it. Its probabilities are computed from the mean scores, divided by
        the temperature that fits the validation genes best. With the BERT head, probabilities are averaged, as in the official tool.
        Predictions for training genes do not test the model: see :meth:`cross_validate`.

        Parameters
        ----------
        adata
            Tokenized data. Defaults to the data of this model.
        genes
            Ensembl ids, symbols or aliases. Defaults to all genes that occur.
        indices
            Cells, as numbers or as a mask. Defaults to all. Predictions depend on the cell type.
        occurrences
            Return one row per gene and cell instead of one per gene.
        **engine_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.classify_genes`. Default to the settings.

        Returns
        -------
        DataFrame indexed by gene id, in the order of `genes` or of the vocabulary: ``symbol``, a column of probabilities for each class,
        float64, ``predicted``, categorical, and ``n_cells``, int64. Genes in no cell have NaN and 0 cells. With `occurrences`:
        ``cell``, ``rank`` (0 for the first gene of a cell), and a column for each class, float32; cells in order, genes by rank.

        Raises
        ------
        ValueError
            If the model is not trained, or no gene of `genes` is in the vocabulary. If only some are missing, a warning names them.

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
        self.check_trained()
        cells = self._read_tokens(adata, indices)
        tokens = tokens_to_predict(genes, cells, self.vocabulary)
        scores = self.score_tokens(cells, tokens, occurrences=occurrences, **engine_kwargs)
        if occurrences:
            table = pd.DataFrame(scores.occurrences, columns=list(self._classes.names))
            table.insert(0, "rank", scores.positions - int(self.vocabulary.has_cls))
            table.insert(0, "cell", self._names(adata, indices)[scores.rows])
            return table.set_axis(
                pd.Index(self.vocabulary.ids[token_of(cells)[scores.rows, scores.positions]], name="gene_id"), axis=0
            )
        table = prediction_table(tokens, scores.proba[tokens], self._classes.names, self.vocabulary)
        return table.assign(n_cells=scores.n_cells[tokens])

    @checked
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
        options: dict[str, Any] = {"occurrences": occurrences, "temperature": self.temperature_}
        return self._classify(cells, tokens, **options, **engine_kwargs)

    def _classify(
        self,
        cells: np.ndarray,
        tokens: np.ndarray,
        *,
        occurrences: bool = False,
        states: bool = False,
        temperature: float = 1.0,
        **engine_kwargs: Any,
    ) -> engine.GeneScores:
        self.check_tokens(cells)
        wanted = np.zeros(len(self.vocabulary), dtype=bool)
        wanted[tokens] = True
        options: dict[str, Any] = {"occurrences": occurrences, "states": states, "temperature": temperature}
        network = self.module.network
        return engine.classify_genes(network, cells, wanted=wanted, **options, **engine_options(**engine_kwargs))
