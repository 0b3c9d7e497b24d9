"""CellFM from the files that its user has downloaded: a checkpoint and the list of its genes.

The weights are licensed CC BY-NC-ND 4.0. They are neither part of this package nor downloaded by it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scgeneformer._settings import settings
from scgeneformer.tokens import Vocabulary

SUFFIX = ".ckpt"
LICENCE = "CC BY-NC-ND 4.0 (non-commercial)"
MAX_LENGTH = 2049  # <cls> and 2,048 genes
_SPECIAL = ("<pad>", "<mask>", "<cls>")
_FOLDER = "CellFM"  # in the cache
_SYMBOL_COLUMNS = ("symbol", "gene_symbol", "approved symbol", "gene_name", "gene")
_MOST_BYTES = 2**26


@dataclass(frozen=True)
class Published:
    """A checkpoint of the authors: names of its files, and its shape."""

    weights: str
    genes: str
    n_genes: int
    n_layers: int
    parameters: int
    width: int = 1536

    @property
    def path(self) -> Path:
        """Where a user puts it to load it by name."""
        return Path(settings.cache_dir) / _FOLDER / self.weights


PUBLISHED = {
    "CellFM-80M": Published("CellFM_80M_weight.ckpt", "expand_gene_info.csv", 27_855, 2, 86_200_000),
    "CellFM-800M": Published("base_weight.ckpt", "gene_info.csv", 24_078, 40, 797_400_000),
}


def find_checkpoint(model: object) -> Path | None:
    """The checkpoint that `model` is the name or path of; None if it is neither.

    Raises
    ------
    FileNotFoundError
        If there is none at its place.
    """
    if isinstance(model, str) and model in PUBLISHED:
        path, published = PUBLISHED[model].path, PUBLISHED[model]
        if not path.is_file():
            msg = (
                f"{model} is licensed under {LICENCE}, and is not downloaded for you. Get {published.weights} and its "
                f"list of genes, {published.genes}, from its authors (https://github.com/biomed-AI/CellFM), and put "
                f"both into {path.parent}; or pass the path of the checkpoint."
            )
            raise FileNotFoundError(msg)
        return path
    if not isinstance(model, str | os.PathLike) or Path(model).suffix != SUFFIX:
        return None
    path = Path(model).expanduser()
    if not path.is_file():
        msg = f"There is no checkpoint {path}."
        raise FileNotFoundError(msg)
    return path


def list_beside(path: Path) -> Path:
    """The list of genes beside a checkpoint.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    lists = [model.genes for model in PUBLISHED.values() if (path.parent / model.genes).is_file()]
    of_file = [model.genes for model in PUBLISHED.values() if model.weights == path.name and model.genes in lists]
    if not lists:
        names = " or ".join(model.genes for model in PUBLISHED.values())
        msg = f"No list of genes beside {path}: put {names} there, or pass the path of a CSV file with one gene symbol per row as `vocabulary=`."
        raise FileNotFoundError(msg)
    if len(lists) > 1 and not of_file:
        msg = f"There are {lists} beside {path}. Pass the list of genes that belongs to it as `vocabulary=`."
        raise FileNotFoundError(msg)
    return path.parent / (of_file or lists)[0]


def read_gene_list(path: Path, reference: Vocabulary) -> Vocabulary:
    """Vocabulary of a CSV file with the symbol of a gene in each row, in the order of the checkpoint.

    Ensembl ids, aliases and former symbols of its genes are those of the `reference`.

    Raises
    ------
    ValueError
        If the file is not such a list.
    """
    symbols = _symbols(path)
    return Vocabulary(
        name=name_of_vocabulary(len(symbols)),
        ids=np.array([*_SPECIAL, *symbols]),
        medians=np.r_[[np.nan] * len(_SPECIAL), np.ones(len(symbols))],
        max_length=MAX_LENGTH,
        aliases=_aliases(symbols, reference),
        symbols=np.array([*[""] * len(_SPECIAL), *symbols]),
        values=True,
    )


def name_of_vocabulary(n_genes: int) -> str:
    """Name of a list with this number of genes."""
    return f"CellFM-{n_genes}"


def _symbols(path: Path) -> list[str]:
    if path.stat().st_size > _MOST_BYTES:
        msg = f"{path} is not a list of genes: it has {path.stat().st_size:,} bytes."
        raise ValueError(msg)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{path} is not a CSV file with a header and one gene per row: {error}"
        raise ValueError(msg) from None
    by_name = {str(name).strip().lower(): name for name in table}
    named = [by_name[name] for name in _SYMBOL_COLUMNS if name in by_name]
    column = named[0] if named else next(iter(table), None)
    symbols = [] if column is None else table[column].str.strip().tolist()
    if not symbols or "" in symbols or len(set(symbols)) != len(symbols) or all(s.isdigit() for s in symbols):
        msg = (
            f"Column {column!r} of {path} must hold one gene symbol per row, all distinct. Use the list of genes that "
            "was published with the checkpoint."
        )
        raise ValueError(msg)
    expected = next((model.n_genes for model in PUBLISHED.values() if model.genes == path.name), len(symbols))
    if len(symbols) != expected:
        msg = f"{path} has {len(symbols):,} genes below its header, but the published list has {expected:,}. Fetch it again from its source."
        raise ValueError(msg)
    return symbols


def _aliases(symbols: list[str], reference: Vocabulary) -> dict[str, str]:
    """The symbol of each Ensembl id and further name that `reference` has for its gene.

    Where two symbols of the list are names of one gene there, it is the one that the reference has for display, else the first.
    """
    tokens = reference.tokens_of(symbols)
    symbol_of: dict[str, str] = {}
    for symbol, token in zip(symbols, tokens.tolist(), strict=True):
        if token >= 0:
            gene = str(reference.ids[token])
            shown = reference.symbols is not None and reference.symbols[token] == symbol
            symbol_of[gene] = symbol if shown else symbol_of.get(gene, symbol)
    further = {alias: symbol_of[gene] for alias, gene in reference.aliases.items() if gene in symbol_of}
    return further | symbol_of
