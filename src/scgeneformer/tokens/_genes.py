"""One resolver from whatever genes are called in an AnnData to the tokens of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from ._vocabulary import Vocabulary

VAR_NAMES = "var_names"


@dataclass(frozen=True)
class GeneMap:
    """Which token each gene of an AnnData stands for.

    Attributes
    ----------
    token_id
        Shape (n_vars,), int32; -1 where the gene is not in the vocabulary.
    source
        ``"var_names"`` or the column of ``.var`` that named the genes.
    n_exact
        Genes named by the vocabulary's own ids, versions and case aside; the others among the mapped by symbol, alias or retired id.
    """

    token_id: np.ndarray
    source: str
    n_exact: int

    @property
    def n_mapped(self) -> int:
        """Genes that have a token."""
        return int((self.token_id >= 0).sum())

    @property
    def n_duplicates(self) -> int:
        """Genes whose token another gene has too; their values are summed."""
        return self.n_mapped - len(np.unique(self.token_id[self.token_id >= 0]))


def resolve_genes(
    var: pd.DataFrame,
    vocabulary: Vocabulary,
    *,
    gene_ids: str | None = None,
) -> GeneMap:
    """Find the names that the vocabulary knows best.

    Parameters
    ----------
    var
        Genes of an AnnData, by ``var_names``.
    vocabulary
        Whose ids, symbols, aliases and retired ids are looked for.
    gene_ids
        Column of `var` to use, or ``"var_names"``. By default ``var_names`` and all columns of text are tried.

    Returns
    -------
    The names that map the most genes. Among those within 1 % of that the one with the most genes named by id is taken, since an alias
    can have come to mean another gene and an id cannot; then ``var_names``, then the columns in their order. Only `var` decides, so
    that a cell has the same tokens in whatever matrix, and beside whatever cells, it is stored.

    Raises
    ------
    KeyError
        If there is no column `gene_ids`.
    """
    if gene_ids is not None:
        return _map(_names(var, gene_ids), gene_ids, vocabulary)
    sources = [VAR_NAMES, *(column for column in var.columns if _is_text(var[column]))]
    maps = [_map(_names(var, source), source, vocabulary) for source in sources]
    most = max(m.n_mapped for m in maps)
    good = [m for m in maps if m.n_mapped >= 0.99 * most]
    return max(good, key=lambda m: m.n_exact)  # the first of equals


def _names(var: pd.DataFrame, source: str) -> list[str]:
    if source == VAR_NAMES:
        return var.index.astype(str).tolist()
    if source not in var:
        msg = f"No column {source!r} in .var, which has {list(var.columns)}. Use gene_ids='var_names' for .var_names."
        raise KeyError(msg)
    return var[source].astype(object).where(var[source].notna(), "").astype(str).tolist()


def _is_text(column: pd.Series) -> bool:
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return pd.api.types.is_object_dtype(values.dtype) or pd.api.types.is_string_dtype(values.dtype)


def _map(names: list[str], source: str, vocabulary: Vocabulary) -> GeneMap:
    token_id = vocabulary.tokens_of(names)
    return GeneMap(token_id, str(source), vocabulary.n_named_by_id(names))
