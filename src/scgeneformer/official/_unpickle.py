"""Read pickles of numbers, names, tuples, lists and dictionaries as data: nothing that a file names is looked up, called or changed."""

from __future__ import annotations

import pickle
import pickletools
import reprlib
import struct
from typing import TYPE_CHECKING, Any

from scgeneformer.tokens._unpickle import FORMS

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 2**28  # official files hold the values of one perturbation
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES"}
_PUSHED |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
_ADMITTED = {
    **dict.fromkeys(("numpy dtype",), "dtype"),
    **dict.fromkeys(("numpy.core.multiarray scalar", "numpy._core.multiarray scalar"), "scalar"),
    "collections defaultdict": "defaultdict",
    **dict.fromkeys(("builtins list", "__builtin__ list"), "list"),
}


class PerturbationError(pickle.UnpicklingError, ValueError):
    """A file does not hold the values of a perturbation, or is damaged."""


class _Name:
    """A function or class that a file names; stands for it, and cannot be called."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or name not in _ADMITTED:
            msg = f"refused to load {reprlib.repr(name)}: a perturbation holds only numbers, names, tuples, lists and dictionaries"
            raise PerturbationError(msg)
        self.name = _ADMITTED[name]


class _Form:
    """A NumPy type of numbers, of which a pickle first tells kind and width, and then the byte order."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code not in FORMS:
            msg = f"refused to load a NumPy value of type {reprlib.repr(code)}"
            raise PerturbationError(msg)
        self.code, self.order = code, "<"


class _Mark:
    """Where arguments begin."""


def read_pickle(path: Path) -> Any:
    """What a pickle of numbers, names, tuples, lists and dictionaries holds; NumPy numbers as Python's, a ``defaultdict`` as a dict.

    Raises
    ------
    PerturbationError
        If the file is damaged, too large, or holds anything else.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        msg = f"{path} has more than {MOST_BYTES:,} bytes, and is not a file of one perturbation."
        raise PerturbationError(msg)
    try:
        return _read(data)
    except PerturbationError as error:
        msg = f"{path}: {error}."
        raise PerturbationError(msg) from None
    except (ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError, MemoryError):
        msg = f"{path} is not a pickle of a perturbation, or is damaged. Copy it again from its source."
        raise PerturbationError(msg) from None


def _read(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for code, argument, _ in pickletools.genops(data):
        name = code.name
        if name in _PUSHED:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_Mark)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE", "LIST", "DICT"):
            parts = _since_mark(stack)
            stack.append(tuple(parts) if name == "TUPLE" else parts if name == "LIST" else _fill({}, parts))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name in ("APPEND", "APPENDS"):
            items = _since_mark(stack) if name == "APPENDS" else [stack.pop()]
            list.extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = _since_mark(stack) if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _fill(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "STACK_GLOBAL":
            parts = [stack.pop(), stack.pop()][::-1]
            stack.append(_Name(" ".join(parts) if all(isinstance(part, str) for part in parts) else None))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Form) or state[1] not in ("<", ">", "|", "="):
                raise ValueError
            stack[-1].order = ">" if state[1] == ">" else "<"
        elif name not in ("PROTO", "FRAME", "STOP"):
            msg = f"refused to load a value by {name}: a perturbation holds only numbers, names, tuples, lists and dictionaries"
            raise PerturbationError(msg)
    (content,) = stack
    return content


def _since_mark(stack: list[Any]) -> list[Any]:
    values = []
    while (value := stack.pop()) is not _Mark:
        values.append(value)
    return values[::-1]


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Put pairs of keys and values into a dictionary, after a look at the keys: hashing some nested tuples takes forever."""
    for key in items[::2]:
        parts = (
            [part for each in key for part in (each if isinstance(each, tuple) else [each])]
            if isinstance(key, tuple)
            else [key]
        )
        if not all(isinstance(part, str | int) for part in parts):
            raise ValueError
    dict.update(target, zip(items[::2], items[1::2], strict=True))
    return target


def _made(named: _Name, arguments: tuple[Any, ...]) -> Any:
    """What the admitted names make: numbers, their types, and empty dictionaries."""
    if named.name == "dtype":
        return _Form(arguments[0])
    if named.name == "scalar":
        form, content = arguments
        content = content if isinstance(content, bytes) else content.encode("latin-1")
        return struct.unpack(f"{form.order}{FORMS[form.code]}", content)[0]
    if named.name == "defaultdict" and len(arguments) <= 1:
        return {}
    raise ValueError
