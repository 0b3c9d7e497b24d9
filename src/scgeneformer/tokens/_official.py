"""Read the dictionaries of the official models as parts of a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._unpickle import read_dictionary

if TYPE_CHECKING:
    from pathlib import Path


def read_official(
    token_file: str | Path, median_file: str | Path, mapping_file: str | Path | None, name_file: str | Path | None
) -> tuple[np.ndarray, np.ndarray, dict[str, str], np.ndarray | None]:
    """Ids, medians, aliases and symbols; see `Vocabulary.from_official`."""
    tokens, medians = read_dictionary(token_file), read_dictionary(median_file)
    ids = sorted(tokens, key=tokens.__getitem__)
    if [tokens[gene] for gene in ids] != list(range(len(ids))):
        msg = f"The tokens in {token_file} are not the integers from 0 to {len(ids) - 1}, each once."
        raise ValueError(msg)
    names = {} if name_file is None else read_dictionary(name_file)
    mapping = {} if mapping_file is None else read_dictionary(mapping_file)
    # the mapping takes precedence where both have a name
    pairs = [*names.items(), *mapping.items()]
    aliases = {alias.upper(): gene for alias, gene in pairs if gene in tokens and gene != alias}
    symbol_of = {gene: symbol for symbol, gene in names.items()}
    symbols = np.array([symbol_of.get(gene, "") for gene in ids]) if names else None
    return np.array(ids), np.array([medians.get(gene, np.nan) for gene in ids]), aliases, symbols
