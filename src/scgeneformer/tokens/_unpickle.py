"""Read the official dictionaries, which are pickles, as data: nothing that a file names is looked up, called or changed."""

from __future__ import annotations

import pickle
import reprlib
import struct
from pathlib import Path
from typing import Any

MOST_BYTES = 2**27  # the largest official dictionary has 4 MB


class DictionaryError(pickle.UnpicklingError, ValueError):
    """A file is not a dictionary of genes, or is damaged."""


class _Name:
    """A function or class that a file names; stands for it, and cannot be called."""

    def __init__(self, module: object, name: object) -> None:
        # what is not text is not hashed, which takes forever for some nested tuples
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in _ADMITTED:
            raise DictionaryError(_refusal(f"{reprlib.repr(module)[1:-1]}.{reprlib.repr(name)[1:-1]}"))
        self.is_scalar = name == "scalar"


class _NumberType:
    """A NumPy type of numbers, of which a pickle first tells kind and width, and then the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in FORMS:
            raise DictionaryError(_refusal(f"a NumPy value of type {reprlib.repr(code)}"))
        self.form = FORMS[code]
        self.unpack = struct.Struct(f"<{self.form}").unpack

    def order(self, state: Any) -> None:
        self.unpack = struct.Struct(f"{'>' if state[1] == '>' else '<'}{self.form}").unpack


FORMS: dict[Any, str] = {  # NumPy types of numbers that are admitted, and their form for `struct`
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d"},
}
_ADMITTED = {("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}
_MARK = object()
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False, pickle.EMPTY_TUPLE: ()}
_NAMES = {
    getattr(pickle, name): name for name in dir(pickle) if name.isupper() and isinstance(getattr(pickle, name), bytes)
}
_INTEGER, _LENGTH, _LONG_LENGTH, _SHORT, _FLOAT = (struct.Struct(form) for form in ("<i", "<I", "<Q", "<H", ">d"))
# Instructions that official dictionaries have for every gene, as bytes of the file.
(TEXT1, TEXT4, BYTES1, INT1, INT2, FLOAT, PUT, PUT1, PUT4, GET1, GET4, PAIR, CALL) = (
    code[0]
    for code in (
        *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.SHORT_BINBYTES, pickle.BININT1, pickle.BININT2),
        *(pickle.BINFLOAT, pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.TUPLE2, pickle.REDUCE),
    )
)


def _refusal(what: str) -> str:
    return f"refused to load {what}: a dictionary of genes holds only strings and numbers"


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
    DictionaryError
        If the file is damaged, or has anything but one dictionary, strings, integers, floats and NumPy numbers. It is a ValueError and a
        :class:`pickle.UnpicklingError`.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        msg = f"{path} has more than {MOST_BYTES:,} bytes, and is not a dictionary of genes."
        raise DictionaryError(msg)
    try:
        content = _Reader(data).read()
    except DictionaryError as error:
        msg = f"{path}: {error}."
        raise DictionaryError(msg) from None
    except (ValueError, TypeError, LookupError, AttributeError, struct.error):
        msg = f"{path} is not a dictionary of genes, or is damaged. Fetch it again from its source."
        raise DictionaryError(msg) from None
    for key, value in content.items():
        if not isinstance(value, str | int | float):
            msg = f"{path}: expected strings mapped to strings or numbers, found {reprlib.repr(key)}: a {type(value).__name__}."
            raise DictionaryError(msg)
    return content


class _Reader:
    """Goes through the instructions of a pickle that make a dictionary of strings and numbers, and refuses all others."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.content: dict[Any, Any] | None = None

    def read(self) -> dict[Any, Any]:
        """The dictionary. Where the file ends too early, an index is beyond its last byte."""
        data, stack, at = self.data, self.stack, 0
        memo: dict[int, Any] = {}
        while (code := data[at]) != pickle.STOP[0]:
            at += 1
            if code == TEXT1:
                end = at + 1 + data[at]
                stack.append(str(data[at + 1 : end], "utf-8"))
                at = end
            elif code == PUT:
                memo[len(memo)] = stack[-1]
            elif code == PUT1:
                memo[data[at]] = stack[-1]
                at += 1
            elif code == PUT4:
                memo[_LENGTH.unpack_from(data, at)[0]] = stack[-1]
                at += 4
            elif code == GET1:
                stack.append(memo[data[at]])
                at += 1
            elif code == GET4:
                stack.append(memo[_LENGTH.unpack_from(data, at)[0]])
                at += 4
            elif code == INT1:
                stack.append(data[at])
                at += 1
            elif code == INT2:
                stack.append(_SHORT.unpack_from(data, at)[0])
                at += 2
            elif code == FLOAT:
                stack.append(_FLOAT.unpack_from(data, at)[0])
                at += 8
            elif code == TEXT4:
                end = at + 4 + _LENGTH.unpack_from(data, at)[0]
                stack.append(str(data[at + 4 : end], "utf-8"))
                at = end
            elif code == BYTES1:
                end = at + 1 + data[at]
                stack.append(data[at + 1 : end])
                at = end
            elif code == PAIR:
                last = stack.pop()
                stack.append((stack.pop(), last))
            elif code == CALL:
                arguments, named = stack.pop(), stack.pop()
                stack.append(arguments[0].unpack(arguments[1])[0] if named.is_scalar else _NumberType(*arguments))
            else:
                at = self._rare(data[at - 1 : at], at)
        if self.content is None or len(stack) != 1 or stack[0] is not self.content:
            msg = "the file holds no dictionary"
            raise DictionaryError(msg)
        return self.content

    def _rare(self, code: bytes, at: int) -> int:
        """Follow an instruction whose arguments begin at byte `at`; return where they end."""
        stack, data = self.stack, self.data
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code == pickle.MARK:
            stack.append(_MARK)
        elif code == pickle.EMPTY_DICT:
            if self.content is not None:
                raise DictionaryError(_refusal("a dictionary within it"))
            self.content = {}
            stack.append(self.content)
        elif code in (pickle.SETITEMS, pickle.SETITEM):
            items = self._since_mark() if code == pickle.SETITEMS else [stack.pop(), stack.pop()][::-1]
            if self.content is None or stack[-1] is not self.content:
                raise DictionaryError(_refusal("items of something else"))
            self._check_keys(items[::2])
            self.content.update(zip(items[::2], items[1::2], strict=True))
        elif code == pickle.TUPLE:
            stack.append(tuple(self._since_mark()))
        elif code in (pickle.TUPLE1, pickle.TUPLE3):
            parts = [stack.pop() for _ in range(1 if code == pickle.TUPLE1 else 3)]
            stack.append(tuple(parts[::-1]))
        elif code == pickle.STACK_GLOBAL:
            name = stack.pop()
            stack.append(_Name(stack.pop(), name))
        elif code == pickle.GLOBAL:
            module, name, _ = data[at:].split(b"\n", 2)
            stack.append(_Name(module.decode(), name.decode()))
            at += len(module) + len(name) + 2
        elif code == pickle.BUILD:
            state = stack.pop()
            stack[-1].order(state)
        elif code == pickle.BININT:
            stack.append(_INTEGER.unpack_from(data, at)[0])
            at += 4
        elif code == pickle.LONG1:
            end = at + 1 + data[at]
            stack.append(int.from_bytes(data[at + 1 : end], "little", signed=True))
            at = end
        elif code in (pickle.PROTO, pickle.FRAME):
            at += 1 if code == pickle.PROTO else 8
        else:
            raise DictionaryError(_refusal(f"a value by {_NAMES.get(code, code)}"))
        return at

    def _since_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _check_keys(self, keys: list[Any]) -> None:
        """Before they are hashed."""
        if not all(isinstance(key, str) for key in keys):
            wrong = next(key for key in keys if not isinstance(key, str))
            msg = f"expected strings as names, found {type(wrong).__name__}; a dictionary of genes holds only strings and numbers"
            raise DictionaryError(msg)
