"""Map the names of genes in an AnnData to the tokens of a vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._vocabulary import Vocabulary

VAR_NAMES = "var_names"
_MISSING = ("", "nan", "none", "<na>")  # empty names as text, in files too
_TOLERANCE = 0.01  # of the genes mapped, between columns that are equally good
_FEW = 0.01  # of the genes, which may have changed names
_ENOUGH, _LOOKED_AT = 50, 5000  # symbols
_MOUSE_CASE = re.compile(r"[A-Z][a-z][a-z0-9.-]*")  # Stat1, where the human gene is STAT1
_MOUSE_ONLY = re.compile(
    r"GM\d{3,}|[A-Z\d]\d{6}[A-Z]\d{2}RIK|H2-[A-Z0-9]+"
)  # Gm1234, 1700001C02Rik, A930001A20Rik, H2-K1
_AGREEMENT = 0.9  # share of the genes mapped by two columns that have the same token, where both name the same genes


# Of the counts: a fraction too small for any use, and one worth a warning. Of the genes of the vocabulary: one worth a warning.
TOO_FEW_COUNTS, FEW_COUNTS, FEW_GENES = 0.05, 0.5, 0.25


@dataclass(frozen=True)
class GeneMap:
    """Token of each gene of an AnnData.

    Attributes
    ----------
    token_id
        Shape (n_vars,), int32; -1 where the gene is not in the vocabulary.
    source
        ``"var_names"`` or the column of ``.var`` that names the genes.
    n_exact
        Number of genes named by an id of the vocabulary, version and case aside; the other mapped genes are named by symbol, alias or
        retired id.
    n_fallback
        Number of mapped genes without a name in `source`, named by another column.
    doubts
        What speaks against these tokens, in sentences.
    """

    token_id: np.ndarray
    source: str
    n_exact: int
    n_fallback: int
    doubts: tuple[str, ...] = ()

    @property
    def n_mapped(self) -> int:
        """Number of genes with a token."""
        return int((self.token_id >= 0).sum())

    @property
    def n_duplicates(self) -> int:
        """Number of genes whose token another gene has too; their values are summed."""
        return self.n_mapped - len(np.unique(self.token_id[self.token_id >= 0]))


def resolve_genes(
    var: pd.DataFrame,
    vocabulary: Vocabulary,
    *,
    gene_ids: str | None = None,
) -> GeneMap:
    """Map genes to tokens by the column of `var` whose names the vocabulary knows best.

    Parameters
    ----------
    var
        Genes of an AnnData, indexed by ``var_names``.
    vocabulary
        Vocabulary with ids, symbols, aliases and retired ids.
    gene_ids
        Column of `var` to use, or ``"var_names"``. By default ``var_names`` and all text columns are compared.

    Returns
    -------
    Tokens by the column that maps the most genes. Among those within 1 % of that number, the column that names the most genes by id is
    used, since an alias may have come to mean another gene and an id may not; then ``var_names``, then the first column.

    A gene whose name is empty or NaN in that column is named by ``var_names``, else by the first text column that knows it and names the
    same genes elsewhere (90 % of the genes that both columns map have the same token). Such a name must be spelled as in the vocabulary,
    case included, since mouse genes without a human orthologue may have symbols that differ from human ones in case only. A gene whose
    id is not in the vocabulary gets no token, whatever its other names.

    Tokens depend on `var` alone, so that a cell has the same tokens in whatever matrix, and beside whatever cells, it is stored.

    Raises
    ------
    KeyError
        If there is no column `gene_ids`.
    """
    sources = [VAR_NAMES, *(column for column in var.columns if _is_text(var[column]))]
    if gene_ids is not None:
        others = (_Names.of(var, source, vocabulary) for source in sources if source != gene_ids)
        named = _Names.of(var, gene_ids, vocabulary)
        species = _species(named, vocabulary)
        return replace(_with_fallback(named, others, vocabulary), doubts=(species,) if species else ())
    columns = [_Names.of(var, source, vocabulary) for source in sources]
    chosen = columns[_best([_with_fallback(names, (), vocabulary) for names in columns])]
    same = [names for names in columns if names is chosen or names.agrees_with(chosen)]
    maps = [_with_fallback(names, (other for other in columns if other is not names), vocabulary) for names in same]
    best = _best(maps)
    doubts = [_disagreement(same[best], other, vocabulary) for other in columns if other is not same[best]]
    return replace(maps[best], doubts=tuple(doubt for doubt in (_species(same[best], vocabulary), *doubts) if doubt))


@dataclass(frozen=True)
class _Names:
    """Names of genes in one column, and their tokens; both (n_vars,)."""

    source: str
    names: np.ndarray
    token_id: np.ndarray

    @classmethod
    def of(cls, var: pd.DataFrame, source: str, vocabulary: Vocabulary) -> _Names:
        if source != VAR_NAMES and source not in var:
            msg = (
                f"No column {source!r} in .var, which has {list(var.columns)}. Use gene_ids='var_names' for .var_names."
            )
            raise KeyError(msg)
        values = var.index.to_series() if source == VAR_NAMES else var[source]
        names = values.astype(object).where(values.notna(), "").astype(str).to_numpy(dtype=object)
        return cls(str(source), names, vocabulary.tokens_of(names))

    def agrees_with(self, other: _Names) -> bool:
        """Whether the genes that both columns map have the same tokens, except a few."""
        both = (self.token_id >= 0) & (other.token_id >= 0)
        return bool(both.any()) and (self.token_id[both] == other.token_id[both]).mean() >= _AGREEMENT


def _disagreement(chosen: _Names, other: _Names, vocabulary: Vocabulary) -> str | None:
    """Message that two columns of ids mean different genes; None if they agree, or one does not hold ids."""
    both = (chosen.token_id >= 0) & (other.token_id >= 0)
    differ = both & (chosen.token_id != other.token_id)
    if differ.sum() <= _FEW * both.sum():
        return None
    if any(vocabulary.n_named_by_id(names.names[both].tolist()) < 0.5 * both.sum() for names in (chosen, other)):
        return None
    row = int(np.flatnonzero(differ)[0])
    return (
        f"{chosen.source!r} and {other.source!r} have ids of different genes for {differ.sum():,} of {both.sum():,} "
        f"genes, such as {chosen.names[row]!r} and {other.names[row]!r}. {chosen.source!r} was used. Set `gene_ids=` "
        "to the right column."
    )


def _species(column: _Names, vocabulary: Vocabulary) -> str | None:
    """Message that symbols are those of mouse genes, which are read as the human genes of the same name; None if they are not."""
    symbols = [name for name in column.names[:_LOOKED_AT].tolist() if not name.upper().startswith("ENS")]
    if len(symbols) < _ENOUGH:
        return None
    ours = frozenset(() if vocabulary.symbols is None else vocabulary.symbols.tolist())
    in_case = sum(_MOUSE_CASE.fullmatch(name) is not None and name not in ours for name in symbols)
    only_mouse = sum(_MOUSE_ONLY.fullmatch(name.upper()) is not None for name in symbols)
    if max(in_case / len(symbols) - 0.5, only_mouse / len(symbols) - _FEW) < 0:
        return None
    n, what = (in_case, "are spelled like mouse genes") if in_case > only_mouse else (only_mouse, "exist in mouse only")
    return (
        f"{n:,} of {len(symbols):,} symbols in {column.source!r} {what}. They were read as the human genes of the same "
        "name, which are not all orthologues. Map mouse genes to the Ensembl ids of their human orthologues, and set "
        "`gene_ids=` to their column."
    )


def _best(maps: list[GeneMap]) -> int:
    """Index of the map with the most genes by id among those with the most genes, the first of equals."""
    n_mapped = [genes.n_mapped for genes in maps]
    eligible = [i for i, n in enumerate(n_mapped) if n >= (1 - _TOLERANCE) * max(n_mapped)]
    return max(eligible, key=lambda i: maps[i].n_exact)


def _with_fallback(column: _Names, others: Iterable[_Names], vocabulary: Vocabulary) -> GeneMap:
    """Tokens by one column and, where it has no name, by `others`."""
    names, token_id = column.names.copy(), column.token_id.copy()
    unnamed = np.array([row for row, name in enumerate(names) if name.strip().lower() in _MISSING], dtype=np.intp)
    n_unnamed = len(unnamed)
    if n_unnamed:
        symbols = None if vocabulary.symbols is None else frozenset(vocabulary.symbols.tolist())
        for other in others:
            if other.source != VAR_NAMES and not other.agrees_with(column):
                continue
            in_case = [symbols is None or name.isupper() or name in symbols for name in other.names[unnamed]]
            rows = unnamed[(other.token_id[unnamed] >= 0) & np.array(in_case, dtype=bool)]
            names[rows], token_id[rows] = other.names[rows], other.token_id[rows]
            unnamed = np.setdiff1d(unnamed, rows)
    return GeneMap(token_id, column.source, vocabulary.n_named_by_id(names.tolist()), n_unnamed - len(unnamed))


def _is_text(column: pd.Series) -> bool:
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return pd.api.types.is_object_dtype(values.dtype) or pd.api.types.is_string_dtype(values.dtype)
