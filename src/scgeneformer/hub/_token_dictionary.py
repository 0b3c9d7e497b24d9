"""The dictionary beside a decoder's checkpoint: which tokens are genes, and which are times."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DICTIONARY = "token_dictionary.json"
_SPECIAL = {"<pad>": 0, "<mask>": 1, "<bos>": 2, "<eos>": 3}
_OF_TIME = re.compile(r"<boq>|<eoq>|-?\d+")  # questions and intervals, of a second stage of training


def read_token_dictionary(path: Path) -> tuple[list[str], int]:
    """Names of the tokens of a cell, in their order and with ``<cls>`` for ``<bos>``, and the number of all tokens.

    Tokens of time follow those of cells, in whatever order: embeddings and scores of genes do not depend on it.

    Raises
    ------
    ValueError
        If the file is not a dictionary of tokens, or one in which special tokens, genes and times do not stand where
        MaxToki has them.
    """
    try:
        tokens = json.loads(path.read_bytes())
        names = {token: str(name) for name, token in tokens.items() if type(token) is int}
    except (ValueError, AttributeError, RecursionError):
        msg = f"{path} is not a JSON dictionary of tokens, or is damaged. Fetch it again from its source."
        raise ValueError(msg) from None
    wrong = [
        f"{name!r} is token {tokens.get(name)!r}, not {token}"
        for name, token in _SPECIAL.items()
        if tokens.get(name) != token
    ]
    if wrong:
        msg = f"{path} belongs to another model, or was extracted incorrectly: {wrong[0]}. Use the dictionary that was published with the checkpoint."
        raise ValueError(msg)
    of_cells = [name for _, name in sorted(names.items()) if not _OF_TIME.fullmatch(name)]
    if list(range(len(tokens))) != sorted(names) or [names[i] for i in range(len(of_cells))] != of_cells:
        msg = (
            f"{path} lacks tokens, has tokens twice, or has genes after tokens of time. Fetch it again from its source."
        )
        raise ValueError(msg)
    return ["<cls>" if name == "<bos>" else name for name in of_cells], len(tokens)
