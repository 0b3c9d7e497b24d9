"""What a classifier says of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import engine

from ._representation import settled
from .data._gene_labels import tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData


class GenePredictionMixin:
    """Gives a classifier of genes its predictions."""

    def predict_genes(
        self,
        adata: AnnData | MuData | None = None,
        genes: Sequence[str] | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        occurrences: bool = False,
        **engine_kwargs: Any,
    ) -> pd.DataFrame:
        """Predict classes of genes, of known class or not, in the context of cells.

        A gene's probabilities are averaged over the cells in which it is among the tokens. Of genes that the model was trained on, this
        says what it was told: see :meth:`cross_validate` for an honest answer.

        Parameters
        ----------
        adata
            Tokenized data; None for those of this model.
        genes
            Ensembl ids, symbols or aliases; None for all genes that occur.
        indices
            Cells, as numbers or as a mask; None for all. A type of cells has its own answer.
        occurrences
            Return a row for each gene in each cell instead of their means.
        **engine_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.classify_genes`.

        Returns
        -------
        DataFrame indexed by gene id, in the order of `genes` or of the vocabulary: ``symbol``, a column of probabilities for each class,
        float64, ``predicted``, categorical, and ``n_cells``, int64. Genes in no cell have NaN, and 0 cells. Of `occurrences`: ``cell``,
        ``rank`` (0 for the first gene of a cell), and a column for each class, float32; cells in order, genes by rank.

        Raises
        ------
        ValueError
            If no gene of `genes` is in the vocabulary; of those that are not, a warning tells.
        """
        cells = self._read_tokens(adata, indices)
        n_special, ids = self.vocabulary.n_special, self.vocabulary.ids
        if genes is None:
            counts = engine.count_tokens(cells, len(ids))
            asked = n_special + np.flatnonzero(counts[n_special:])
        else:
            asked = tokens_of([genes] if isinstance(genes, str) else genes, self.vocabulary, "those asked for")
            if len(asked) == 0:
                msg = f"None of the genes asked for is in the vocabulary {self.vocabulary.name!r}. Name them by Ensembl id or symbol."
                raise ValueError(msg)
        wanted = np.zeros(len(ids), dtype=bool)
        wanted[asked] = True
        found = engine.classify_genes(
            self.module.network, cells, wanted=wanted, occurrences=occurrences, **settled(engine_kwargs)
        )
        if occurrences:
            first = int(self.vocabulary.has_cls)
            names = self._cell_names(adata, indices)
            table = pd.DataFrame(found.occurrences, columns=list(self._classes.names))
            table.insert(0, "rank", found.positions - first)
            table.insert(0, "cell", names[found.rows])
            return table.set_axis(pd.Index(ids[cells[found.rows, found.positions]], name="gene_id"), axis=0)
        return self._gene_table(asked, found.proba[asked], found.n_cells[asked])

    def _gene_table(self, tokens: np.ndarray, proba: np.ndarray, n_cells: np.ndarray) -> pd.DataFrame:
        """Table of genes, given by their tokens, with what was said of them."""
        names, symbols = list(self._classes.names), self.vocabulary.symbols
        table = pd.DataFrame(proba, columns=names, index=pd.Index(self.vocabulary.ids[tokens], name="gene_id"))
        table.insert(
            0, "symbol", np.full(len(tokens), "", object) if symbols is None else symbols[tokens].astype(object)
        )
        table["predicted"] = predicted(proba, names)
        table["n_cells"] = n_cells
        return table

    def _cell_names(self, adata: AnnData | MuData | None, indices: Any) -> pd.Index:
        names = (self.adata if adata is None else adata).obs_names
        return names if indices is None else names[np.asarray(indices)]


def predicted(proba: np.ndarray, classes: Sequence[str]) -> pd.Categorical:
    """The most probable class of each row, missing where there is none."""
    codes = np.where(np.isnan(proba[:, 0]), -1, np.nan_to_num(proba).argmax(1))
    return pd.Categorical.from_codes(codes, list(classes))
