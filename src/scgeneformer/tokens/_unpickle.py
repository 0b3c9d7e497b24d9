"""Read the official dictionaries, which are pickles, without executing code from them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np


class _ScalarType:
    """Replaces `numpy.dtype` in a pickled number; has its kind, width and byte order only."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or np.dtype(code).kind not in "iuf":
            msg = f"refused a pickled NumPy value of type {code!r}: only numbers are admitted"
            raise pickle.UnpicklingError(msg)
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">") else "=")


def _scalar(kind: _ScalarType, data: bytes) -> int | float:
    return np.frombuffer(data, dtype=kind.dtype, count=1)[0].item()


_ADMITTED = {
    ("numpy", "dtype"): _ScalarType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Unpickler(pickle.Unpickler):
    """Admits built-in containers, strings and numbers, which need no lookup, and NumPy's numbers only."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            msg = f"refused to load {module}.{name}: a dictionary of genes holds only strings and numbers"
            raise pickle.UnpicklingError(msg) from None


def read_dictionary(path: str | Path) -> dict[str, str | int | float]:
    """Read a pickled dictionary from names to names or numbers.

    Parameters
    ----------
    path
        One of the official ``*_dictionary_*.pkl``, ``*_dict_*.pkl`` files, or a file of the same kind.

    Raises
    ------
    pickle.UnpicklingError
        If the file has anything but dictionaries, strings, integers, floats and NumPy numbers. Nothing is imported or executed.
    ValueError
        If the file does not hold such a dictionary.
    """
    with Path(path).open("rb") as file:
        content = _Unpickler(file).load()
    if not isinstance(content, dict):
        msg = f"{path} holds a {type(content).__name__}, not a dictionary."
        raise ValueError(msg)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            msg = f"{path}: expected strings mapped to strings or numbers, found {key!r}: {value!r}."
            raise ValueError(msg)
    return content
