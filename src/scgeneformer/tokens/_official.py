"""Read the dictionaries of the official models as parts of a vocabulary."""

from __future__ import annotations

import reprlib
from pathlib import Path

import numpy as np

from scgeneformer._pickles import PickleError, read_pickle

MOST_BYTES = 2**27  # the largest official dictionary has 4 MB


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


def read_dictionary(path: str | Path) -> dict[str, str | int | float]:
    """Read a pickled dictionary from names to names or numbers.

    Parameters
    ----------
    path
        One of the official ``*_dictionary_*.pkl``, ``*_dict_*.pkl`` files, or a file of the same kind.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    PickleError
        If the file is damaged, or has anything but one dictionary, strings, integers, floats and NumPy numbers. It is a ValueError and a
        :class:`pickle.UnpicklingError`.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    content = read_pickle(path, holds="a dictionary of genes", most_bytes=MOST_BYTES)
    if not isinstance(content, dict):
        msg = f"{path} holds a {type(content).__name__}, not a dictionary of genes."
        raise PickleError(msg)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            msg = (
                f"{path}: expected strings mapped to strings or numbers, as in a dictionary of genes; found {reprlib.repr(key)}, a "
                f"{type(key).__name__}, mapped to a {type(value).__name__}."
            )
            raise PickleError(msg)
    return content
