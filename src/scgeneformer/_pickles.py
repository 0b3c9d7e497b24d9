"""Read pickles of plain data as data: nothing that a file names is looked up, called or changed."""

from __future__ import annotations

import pickle
import pickletools
import reprlib
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_FORMS = {  # NumPy types of numbers that are admitted, and their form for `struct`
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d"},
}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES"}
_PUSHED |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_ADMITTED = {
    "numpy.dtype": "dtype",
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), "scalar"),
    "collections.defaultdict": "defaultdict",
    **dict.fromkeys(("builtins.list", "__builtin__.list"), "list"),
}
_PLAIN = "only numbers, strings, tuples, lists and dictionaries are read"


class PickleError(pickle.UnpicklingError, ValueError):
    """A file is not a pickle of plain data, or is damaged."""


class _Name:
    """A function or class that a file names; stands for it, and cannot be called."""

    def __init__(self, parts: list[object]) -> None:
        # what is not text is not hashed, which takes forever for some nested tuples
        name = ".".join(part if isinstance(part, str) else reprlib.repr(part) for part in parts)
        if name not in _ADMITTED:
            msg = f"refused to load {name[:80]}: {_PLAIN}"
            raise PickleError(msg)
        self.name = _ADMITTED[name]


class _Form:
    """A NumPy type of numbers, of which a pickle first tells kind and width, and then the byte order."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code not in _FORMS:
            msg = f"refused to load a NumPy value of type {reprlib.repr(code)}"
            raise PickleError(msg)
        self.form = _FORMS[code]
        self.unpack = struct.Struct(f"<{self.form}").unpack

    def order(self, state: Any) -> None:
        self.unpack = struct.Struct(f"{'>' if state[1] == '>' else '<'}{self.form}").unpack


class _Mark:
    """Where arguments begin."""


def read_pickle(path: Path, *, holds: str, most_bytes: int) -> Any:
    """What a pickle of numbers, strings, tuples, lists and dictionaries holds; NumPy numbers as Python's, a ``defaultdict`` as a dict.

    Parameters
    ----------
    path
        The file.
    holds
        What it should hold, for the text of errors.
    most_bytes
        Largest size that is read.

    Raises
    ------
    PickleError
        If the file is damaged, larger, or holds anything else.
    """
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        msg = f"{path} has more than {most_bytes:,} bytes, and is not {holds}."
        raise PickleError(msg)
    try:
        return _read(data)
    except PickleError as error:
        msg = f"{path}: {error}."
        raise PickleError(msg) from None
    except (ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError, MemoryError):
        msg = f"{path} is not {holds}, or is damaged. Copy it again from its source."
        raise PickleError(msg) from None


def _read(data: bytes) -> Any:
    """Follow the instructions of a pickle that make plain data, and refuse all others."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(data):
        name = code.name
        if name in _PUSHED:
            stack.append(argument)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments))
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name == "MARK":
            stack.append(_Mark)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("TUPLE", "LIST", "DICT"):
            parts = _since_mark(stack)
            stack.append(tuple(parts) if name == "TUPLE" else parts if name == "LIST" else _fill({}, parts))
        elif name in ("APPEND", "APPENDS"):
            items = _since_mark(stack) if name == "APPENDS" else [stack.pop()]
            list.extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = _since_mark(stack) if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _fill(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(_Name(argument.split(" ")))
        elif name == "STACK_GLOBAL":
            stack.append(_Name([stack.pop(), stack.pop()][::-1]))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].order(state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            msg = f"refused to load a value by {name}: {_PLAIN}"
            raise PickleError(msg)
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
        parts = (part for each in key for part in (each if isinstance(each, tuple) else (each,)))
        if not (
            isinstance(key, str | int)
            or (isinstance(key, tuple) and all(isinstance(part, str | int) for part in parts))
        ):
            msg = f"expected strings, integers or tuples of them as keys, found {type(key).__name__}"
            raise PickleError(msg)
    dict.update(target, zip(items[::2], items[1::2], strict=True))
    return target


def _made(named: _Name, arguments: tuple[Any, ...]) -> Any:
    """What the admitted names make: numbers, their types, and empty dictionaries."""
    if named.name == "dtype":
        return _Form(arguments[0])
    if named.name == "scalar":
        form, content = arguments
        return form.unpack(content if isinstance(content, bytes) else content.encode("latin-1"))[0]
    if named.name == "defaultdict" and len(arguments) <= 1:
        return {}
    raise ValueError
