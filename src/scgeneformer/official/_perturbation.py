"""Raw values of ``InSilicoPerturber``: pickles of lists by perturbed and affected gene."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgeneformer._pickles import PickleError, read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scgeneformer.tokens import Vocabulary

MOST_BYTES = 2**28  # official files hold the values of one perturbation
PATTERN = "*_raw.pickle"
_CELL = "cell_emb"  # stands for the affected gene where the cell is measured
_CELL_NUMBER = re.compile(r"_embs_(\d+)batch-?\d+_raw$")


def read(path: Path, vocabulary: Vocabulary) -> pd.DataFrame:
    """Values of a file, or of all files of a folder; see `read_official`.

    Raises
    ------
    PickleError
        If a file does not hold values of a perturbation, or tokens that the vocabulary lacks. It is a ValueError.
    """
    files = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    tables = [_read_file(file, vocabulary) for file in files]
    if not tables:
        msg = f"{path} has no files {PATTERN}. Name the folder that the official perturber wrote to."
        raise PickleError(msg)
    return pd.concat(tables, ignore_index=True)


def _read_file(path: Path, vocabulary: Vocabulary) -> pd.DataFrame:
    content = read_pickle(path, holds="a pickle of one perturbation", most_bytes=MOST_BYTES)
    number = _CELL_NUMBER.search(path.stem)
    try:
        rows = [row for state, values in _states(content) for row in _rows(state, values, vocabulary)]
    except (TypeError, ValueError, AttributeError):
        msg = (
            f"{path} does not hold lists of numbers by perturbed and affected token of vocabulary {vocabulary.name!r}. "
            "Name the model that was perturbed."
        )
        raise PickleError(msg) from None
    table = pd.DataFrame(rows, columns=["perturbed", "affected", "state", "position", "value"])
    table.insert(3, "cell", pd.array([None if number is None else int(number[1])] * len(table), dtype="Int64"))
    return table


def _states(content: Any) -> list[tuple[str, dict[Any, Any]]]:
    """Values of each state, or of all under no name."""
    if any(isinstance(values, dict) for values in content.values()):
        return list(content.items())
    return [("", content)]


def _rows(state: Any, values: dict[Any, Any], vocabulary: Vocabulary) -> Iterator[tuple[str, str, str, int, float]]:
    if not isinstance(state, str):
        raise TypeError
    for (perturbed, affected), measured in values.items():
        tokens = perturbed if isinstance(perturbed, tuple) else (perturbed,)
        names = "|".join(_gene(token, vocabulary) for token in tokens)
        on = "" if affected == _CELL else _gene(affected, vocabulary)
        if not isinstance(measured, list) or not names:
            raise TypeError
        for position, value in enumerate(measured):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError
            yield names, on, state, position, float(value)


def _gene(token: Any, vocabulary: Vocabulary) -> str:
    if type(token) is not int or not vocabulary.n_special <= token < len(vocabulary):
        raise ValueError
    return str(vocabulary.ids[token])
