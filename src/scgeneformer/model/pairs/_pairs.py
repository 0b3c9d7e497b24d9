"""Tables of pairs of genes, resolved to tokens of a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scgeneformer import _log as logg
from scgeneformer import engine
from scgeneformer.model.data._gene_labels import few

if TYPE_CHECKING:
    from collections.abc import Hashable

    from scgeneformer.tokens import Vocabulary

SOURCE, TARGET, LABEL = "source", "target", "label"
NEGATIVE, POSITIVE = DRAWN = ("negative", "positive")  # classes of pairs without labels
RESERVED = (SOURCE, TARGET, "n_trained", "predicted")  # columns of predictions
_LETTERS = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of genes, each once.

    Attributes
    ----------
    tokens
        int64 (n, 2), source and target.
    codes
        int64 (n,), the class of each: that of `POSITIVE` where the table has no labels.
    classes
        Names of the classes.
    """

    tokens: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def labelled(self) -> bool:
        """Whether the table gave the classes. If not, all pairs are positives, and negatives are drawn."""
        return self.classes != DRAWN

    def table(self, vocabulary: Vocabulary) -> pd.DataFrame:
        """The pairs, by Ensembl id, with their class as ``label``."""
        table = pd.DataFrame(vocabulary.ids[self.tokens], columns=[SOURCE, TARGET])
        return table.assign(**{LABEL: pd.Categorical.from_codes(self.codes, list(self.classes))})

    def __getitem__(self, rows: np.ndarray) -> Pairs:
        return Pairs(self.tokens[rows], self.codes[rows], self.classes)


def read_pairs(
    table: pd.DataFrame, vocabulary: Vocabulary, *, directed: bool, missing: Literal["error", "drop"]
) -> Pairs:
    """Read and check a table with columns ``source``, ``target`` and, if there are classes, ``label``.

    Raises
    ------
    ValueError
        If a column is missing, a gene is not in the vocabulary (unless ``missing="drop"``), a pair has the same gene twice or two labels, or
        labels are missing or all the same.
    """
    tokens = pair_tokens(table, vocabulary)
    codes, classes = _read_labels(table)
    unknown = np.any(tokens < 0, axis=1)
    if unknown.any():
        names = pd.unique(table[[SOURCE, TARGET]].to_numpy().astype(str)[tokens < 0])
        text = f"{len(names)} genes of pairs= are not in the vocabulary {vocabulary.name!r}: {few(names)}."
        if missing == "error":
            msg = f'{text} Correct their names, or leave out the {unknown.sum()} pairs that have them: missing="drop".'
            raise ValueError(msg)
        if unknown.all():
            msg = f"{text} No pair is left. Name human genes by Ensembl id or symbol."
            raise ValueError(msg)
        logg.warning(f"{text} {unknown.sum()} of {len(table)} pairs are left out.")
    first = _first_of_each(tokens, codes, table, known=~unknown, directed=directed)
    return _with_all_classes(Pairs(tokens[first], codes[first], classes))


def pair_tokens(table: pd.DataFrame, vocabulary: Vocabulary) -> np.ndarray:
    """Tokens of the genes of each row, int64 (n, 2), -1 for genes that are not in the vocabulary.

    Raises
    ------
    ValueError
        If there are no rows, or not the two columns, or a pair has the same gene twice, also under two names.
    """
    lacking = [name for name in (SOURCE, TARGET) if name not in table]
    if lacking:
        msg = f"pairs= has no column {lacking[0]!r}, but {list(table.columns)}. Rename columns to {SOURCE!r} and {TARGET!r}."
        raise ValueError(msg)
    if len(table) == 0:
        msg = f"pairs= has no rows. Give a row for each pair, with genes in {SOURCE!r} and {TARGET!r}."
        raise ValueError(msg)
    names = table[[SOURCE, TARGET]].to_numpy().astype(str)
    tokens = vocabulary.tokens_of(names.ravel().tolist()).astype(np.int64).reshape(-1, 2)
    same = np.flatnonzero((tokens[:, 0] == tokens[:, 1]) & (tokens[:, 0] >= 0))
    if len(same):
        named = ", ".join("-".join(row) for row in names[same[:5]])
        msg = f"{len(same)} rows of pairs= have the same gene in {SOURCE!r} and {TARGET!r}, such as {named}. Leave them out."
        raise ValueError(msg)
    return tokens


def pair_keys(pairs: np.ndarray, n_genes: int, *, directed: bool) -> np.ndarray:
    """A number for each pair, int64 (n,), the same for both orders unless `directed`."""
    ordered = pairs if directed else np.sort(pairs, axis=1)
    return ordered[:, 0] * n_genes + ordered[:, 1]


def pairs_in_cells(
    pairs: Pairs, tokens: np.ndarray, vocabulary: Vocabulary, missing: Literal["error", "drop"], *, together: bool
) -> Pairs:
    """The pairs both genes of which are among the tokens of cells, (n_cells, L); if `together`, a warning counts those that share no cell.

    Raises
    ------
    ValueError
        If some are not (unless ``missing="drop"``), or none is; or if, `together`, no pair shares a cell.
    """
    absent = (engine.count_tokens(tokens, len(vocabulary)) == 0)[pairs.tokens]
    lacking = absent.any(axis=1)
    if lacking.any():
        names = vocabulary.ids[np.unique(pairs.tokens[absent])]
        text = f'{len(names)} genes of pairs= are among the tokens of no cell, so that features="contextual" has no state of them: {few(names)}.'
        if missing == "error" or lacking.all():
            msg = f'{text} Leave out the {lacking.sum()} pairs that have them (missing="drop"), give other cells, or features="token".'
            raise ValueError(msg)
        logg.warning(f"{text} {lacking.sum()} of {len(pairs)} pairs are left out.")
        pairs = _with_all_classes(pairs[~lacking])
    if together:
        _check_together(pairs, tokens, vocabulary)
    return pairs


def _check_together(pairs: Pairs, tokens: np.ndarray, vocabulary: Vocabulary) -> None:
    """Warn of pairs whose genes share no cell, and raise if none does."""
    apart = engine.count_pairs(tokens, pairs.tokens, len(vocabulary))[1] == 0
    if apart.all():
        msg = (
            "No pair of pairs= has both genes in one cell, so no encoder can be fine-tuned. Give other cells, or cells with more "
            'tokens (max_length= of `sg.pp.tokenize`), or classifier="logistic".'
        )
        raise ValueError(msg)
    if apart.any():
        logg.warning(
            f"The genes of {apart.sum()} of {len(pairs)} pairs share no cell, so the encoder cannot learn them."
        )


def gene_families(
    family: Literal["prefix"] | Mapping[str, Hashable] | None, vocabulary: Vocabulary, genes: np.ndarray
) -> np.ndarray:
    """Family of each gene of the vocabulary, int64 (V,). Genes without one are families of their own.

    Raises
    ------
    ValueError
        If families by symbol are wanted of a vocabulary without symbols, or a mapping has none of the `genes`.
    """
    names: list[Hashable] = [(gene,) for gene in vocabulary.ids.tolist()]
    if family == "prefix":
        if vocabulary.symbols is None:
            msg = f'family="prefix" needs symbols, which the vocabulary {vocabulary.name!r} does not have. Give a mapping, or family=None.'
            raise ValueError(msg)
        for token, symbol in enumerate(vocabulary.symbols.tolist()):
            letters = _LETTERS.match(symbol)
            if letters:
                names[token] = letters[0].upper()
    elif isinstance(family, Mapping):
        tokens = vocabulary.tokens_of(list(family)).tolist()
        if not set(tokens) & set(np.unique(genes).tolist()):
            msg = f"family= names none of the genes of pairs= ({few(list(family))}). Name them by Ensembl id or symbol, or give family=None."
            raise ValueError(msg)
        for token, name in zip(tokens, family.values(), strict=True):
            if token >= 0:
                names[token] = name
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64)


def _read_labels(table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class of each row, int64 (n,), and the names of the classes."""
    if LABEL not in table:
        return np.full(len(table), DRAWN.index(POSITIVE)), DRAWN
    labels = table[LABEL]
    if labels.isna().any():
        msg = f"{labels.isna().sum()} rows of pairs[{LABEL!r}] are missing. Leave these rows out."
        raise ValueError(msg)
    codes, names = pd.factorize(labels.astype(str), sort=True)
    if len(names) < 2:
        msg = f"pairs[{LABEL!r}] has one class only, {names[0]!r}. Leave the column out to have negatives drawn."
        raise ValueError(msg)
    taken = sorted(set(RESERVED) & set(names))
    if taken or tuple(names) == DRAWN:
        msg = f"Classes of pairs[{LABEL!r}] cannot be called {taken or list(DRAWN)}, names that results use otherwise. Rename them."
        raise ValueError(msg)
    return codes.astype(np.int64), tuple(names)


def _with_all_classes(pairs: Pairs) -> Pairs:
    """The pairs, if those that are left have every class."""
    gone = [name for code, name in enumerate(pairs.classes) if not (pairs.codes == code).any()]
    if pairs.labelled and gone:
        msg = f"No pair is left of these classes of pairs[{LABEL!r}]: {few(gone)}. Leave their rows out."
        raise ValueError(msg)
    return pairs


def _first_of_each(
    tokens: np.ndarray, codes: np.ndarray, table: pd.DataFrame, *, known: np.ndarray, directed: bool
) -> np.ndarray:
    """Rows of different pairs of known genes."""
    keys = pair_keys(tokens, max(int(tokens.max()), 0) + 1, directed=directed)
    rows = pd.DataFrame({"key": keys, "code": codes})[known]
    two = rows.groupby("key")["code"].transform("nunique").to_numpy() > 1
    if two.any():
        row = table.iloc[rows.index[two][0]]
        order = "" if directed else " in either order"
        msg = (
            f"{rows['key'][two].nunique()} pairs of pairs= have two labels{order}, such as {row[SOURCE]}-{row[TARGET]}. Leave them out, "
            "or keep one row of each."
        )
        raise ValueError(msg)
    return rows.index[~rows["key"].duplicated()].to_numpy()
