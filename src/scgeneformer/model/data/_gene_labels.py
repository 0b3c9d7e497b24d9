"""Classes of genes, resolved to tokens of a vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer.engine import count_tokens
from scgeneformer.tokens import token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer.tokens import Vocabulary

RESERVED = ("cell", "rank", "n_cells", "predicted")  # columns of tables that also have a column for each class
_SHOWN = 5  # names in a message
_EXAMPLE = "{'sensitive': ['GATA4', ...], 'insensitive': [...]}"


@dataclass(frozen=True, eq=False)
class GeneClasses:
    """Which genes are of which class.

    Attributes
    ----------
    names
        Of the classes.
    tokens
        int64 (n_genes,), the classified genes, ascending and unique.
    codes
        int64 (n_genes,), the class of each.
    """

    names: tuple[str, ...]
    tokens: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, classes: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> GeneClasses:
        """Find the genes of lists in a vocabulary; unknown ones are left out with a warning.

        Parameters
        ----------
        classes
            Genes of each class by Ensembl id (version or not), symbol, alias or retired id. A gene may be listed twice in one class.
        vocabulary
            Where they are looked for.

        Raises
        ------
        ValueError
            If there are fewer than two classes, one has no gene in the vocabulary or a name that tables need, or a gene is in two.
        """
        if len(classes) < 2:
            msg = f"There are {len(classes)} classes of genes ({list(classes)}), but two or more are needed, such as classes={_EXAMPLE}."
            raise ValueError(msg)
        reserved = sorted(set(RESERVED) & {str(name) for name in classes})
        if reserved:
            msg = f"Classes cannot be called {reserved}, which are other columns of tables of genes. Rename them."
            raise ValueError(msg)
        code_of: dict[int, int] = {}
        for code, (name, genes) in enumerate(classes.items()):
            if isinstance(genes, str):
                msg = f"classes[{name!r}] is one string. Pass a list of genes: classes={_EXAMPLE}."
                raise ValueError(msg)
            tokens = tokens_of(genes, vocabulary, f"class {str(name)!r}", stacklevel=5)  # who makes the model
            if len(tokens) == 0:
                msg = (
                    f"Class {str(name)!r} has no gene of the vocabulary {vocabulary.name!r}. Name human genes by Ensembl id or symbol, "
                    "or leave the class out."
                )
                raise ValueError(msg)
            twice = [token for token in tokens.tolist() if code_of.setdefault(token, code) != code]
            if twice:
                other = list(classes)[code_of[twice[0]]]
                msg = f"Genes of class {str(name)!r} are also in another class, such as {other!r}: {few(vocabulary.ids[twice])}. Leave them out of one."
                raise ValueError(msg)
        tokens = np.array(sorted(code_of), dtype=np.int64)
        return cls(tuple(map(str, classes)), tokens, np.array([code_of[t] for t in tokens.tolist()], dtype=np.int64))

    @classmethod
    def restored(cls, lists: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> GeneClasses:
        """The classes of `lists`; they may have no genes, as those of a checkpoint of others."""
        tokens = [vocabulary.token_of(genes).astype(np.int64) for genes in lists.values()]
        codes = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
        order = np.argsort(np.concatenate(tokens), kind="stable")
        return cls(tuple(lists), np.concatenate(tokens)[order], codes[order])

    def lists(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        """Ids of the genes of each class."""
        return {name: vocabulary.ids[self.tokens[self.codes == i]].tolist() for i, name in enumerate(self.names)}

    def table(self, vocabulary: Vocabulary) -> pd.DataFrame:
        """The genes with ``symbol`` and ``class``, indexed by id, in the order of `tokens`."""
        classes = pd.Categorical.from_codes(self.codes, list(self.names))
        return _named(self.tokens, vocabulary).assign(**{"class": classes})

    def code_of_token(self, n_tokens: int, genes: np.ndarray) -> np.ndarray:
        """Class of each token of some `genes`, given by their numbers here, and -1 for all others; int64 (V,)."""
        codes = np.full(n_tokens, -1, dtype=np.int64)
        codes[self.tokens[genes]] = self.codes[genes]
        return codes

    def wanted(self, n_tokens: int, genes: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Which tokens are those of some `genes`, bool (V,)."""
        wanted = np.zeros(n_tokens, dtype=bool)
        wanted[self.tokens[genes]] = True
        return wanted


def tokens_of(genes: Sequence[str], vocabulary: Vocabulary, where: str, *, stacklevel: int = 4) -> np.ndarray:
    """Tokens of genes in their order, each once, int64; a warning names those that have none."""
    names = list(dict.fromkeys(str(gene) for gene in genes))
    tokens = vocabulary.tokens_of(names)
    unknown = [name for name, token in zip(names, tokens.tolist(), strict=True) if token < 0]
    if unknown:
        msg = f"{len(unknown)} of {len(names)} genes of {where} are not in the vocabulary {vocabulary.name!r} and are left out: {few(unknown)}."
        warnings.warn(msg, stacklevel=stacklevel)
    return np.array(list(dict.fromkeys(tokens[tokens >= 0].tolist())), dtype=np.int64)


def tokens_to_predict(genes: Sequence[str] | str | None, cells: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Tokens of `genes`, or of all that occur in the tokens `cells`, (n_cells, L).

    Raises
    ------
    ValueError
        If no gene of `genes` is in the vocabulary. If only some are missing, a warning names them.
    """
    if genes is None:
        occurring = np.flatnonzero(count_tokens(cells, len(vocabulary)))
        return occurring[occurring >= vocabulary.n_special]
    names = [genes] if isinstance(genes, str) else genes
    tokens = tokens_of(names, vocabulary, "those asked for", stacklevel=5)
    if len(tokens) == 0:
        msg = (
            f"None of the genes asked for is in the vocabulary {vocabulary.name!r}. Name them by Ensembl id or symbol."
        )
        raise ValueError(msg)
    return tokens


def lists_of(
    classes: Any, cells: AnnData | None, tokens_key: str, vocabulary: Vocabulary
) -> Mapping[str, Sequence[str]]:
    """Lists of genes as they are, or from a column of ``var``, whose missing values are genes without a class.

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        If `classes` is neither.
    """
    if isinstance(classes, Mapping):
        return classes
    if not isinstance(classes, str) or cells is None:
        msg = f"classes={classes!r} must give lists of genes, {_EXAMPLE}, or the name of a column of .var of the data."
        raise TypeError(msg)
    if classes not in cells.var:
        msg = (
            f"No column {classes!r} in .var, which has {list(cells.var)}. Name one with classes of genes by `classes=`."
        )
        raise KeyError(msg)
    column = cells.var[classes]
    labelled = column[column.notna()]
    tokens = token_ids(cells, tokens_key, vocabulary)[column.notna().to_numpy()]
    ids = np.where(tokens >= 0, vocabulary.ids[np.maximum(tokens, 0)], labelled.index.to_numpy().astype(str))
    names = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(labelled.unique())
    return {str(name): ids[(labelled == name).to_numpy()].tolist() for name in names if (labelled == name).any()}


def few(names: Sequence[str] | np.ndarray) -> str:
    """The first few of them, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def prediction_table(
    tokens: np.ndarray, proba: np.ndarray, classes: Sequence[str], vocabulary: Vocabulary
) -> pd.DataFrame:
    """Genes with ``symbol``, a column of probabilities for each class and ``predicted``, indexed by id."""
    table = _named(tokens, vocabulary)
    probabilities = pd.DataFrame(proba, columns=list(classes), index=table.index)
    return table.join(probabilities).assign(predicted=most_probable(proba, classes))


def _named(tokens: np.ndarray, vocabulary: Vocabulary) -> pd.DataFrame:
    """Genes with ``symbol``, indexed by id."""
    symbols = np.full(len(tokens), "") if vocabulary.symbols is None else vocabulary.symbols[tokens]
    return pd.DataFrame({"symbol": symbols.astype(object)}, index=pd.Index(vocabulary.ids[tokens], name="gene_id"))


def most_probable(proba: np.ndarray, classes: Sequence[str]) -> pd.Categorical:
    """The most probable class of each row, missing where there is none."""
    codes = np.where(np.isnan(proba[:, 0]), -1, np.nan_to_num(proba).argmax(1))
    return pd.Categorical.from_codes(codes, list(classes))
