"""Weights in a MindSpore checkpoint, read without MindSpore: a sequence of protobuf messages without a header.

A message of a weight is ``1: {1: name, 2: {1: sizes, 2: type, 3: content}}``. Every length is checked against what holds it before
anything is read, and nothing is unpickled or executed.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_DTYPES = {
    "Float32": torch.float32,
    "Float16": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float64": torch.float64,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "Int8": torch.int8,
    "UInt8": torch.uint8,
    "Bool": torch.bool,
}
_TRAILER, _LENGTH_OF_TRAILER = b"crc_num", 17
_LONGEST_NUMBER = 10  # bytes of 64 bits, 7 in each
_MOST_SIZES = 16
_NUMBER, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields

Span = tuple[int, int]  # first byte and that after the last


class CheckpointError(ValueError):
    """A file is not a MindSpore checkpoint, or is damaged."""


@dataclass
class _Weight:
    """Sizes, type and content of a weight, in pieces where it is a large one."""

    sizes: tuple[int, ...]
    dtype: str
    pieces: list[Span] = field(default_factory=list)


def read_mindspore(path: str | Path) -> dict[str, Tensor]:
    r"""Weights and other tensors by name, as they are stored.

    Parameters
    ----------
    path
        A ``.ckpt`` file of MindSpore, not encrypted.

    Returns
    -------
    Tensors in memory of their own, in the order of the file.

    Raises
    ------
    ValueError
        If the file is damaged or of another format, or a tensor has another size than its content.

    Examples
    --------
    >>> tensor = b"\x08\x02" + b"\x12\x07Float32" + b"\x1a\x08" + np.array([1, 2], dtype="<f4").tobytes()
    >>> value = b"\x0a\x01w" + b"\x12" + bytes([len(tensor)]) + tensor
    >>> _ = open("two.ckpt", "wb").write(b"\x0a" + bytes([len(value)]) + value)
    >>> sg.nn.read_mindspore("two.ckpt")
    {'w': tensor([1., 2.])}
    """
    path = Path(path)
    if path.stat().st_size == 0:
        msg = f"{path} is empty."
        raise CheckpointError(msg)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        weights: dict[str, _Weight] = {}
        try:
            for span in _messages(data):
                _add(data, span, weights)
            return {name: _tensor(data, name, weight) for name, weight in weights.items()}
        except CheckpointError as error:
            msg = f"{path} is not a MindSpore checkpoint, or is damaged or encrypted: {error}"
            raise CheckpointError(msg) from None


def _messages(data: mmap.mmap) -> Iterator[Span]:
    """The messages of weights."""
    end = len(data)
    if end >= _LENGTH_OF_TRAILER and data[end - _LENGTH_OF_TRAILER :][: len(_TRAILER)] == _TRAILER:
        end -= _LENGTH_OF_TRAILER
    for number, kind, value in _fields(data, (0, end)):
        if (number, kind) != (1, _BYTES):
            msg = f"field {number} of kind {kind} where weights are expected."
            raise CheckpointError(msg)
        yield value


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int, Span]]:
    """Number, kind and place of each field of a message; the place of a number is that of its bytes."""
    at, end = span
    while at < end:
        key, at = _number(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == _NUMBER:
            start, (_, at) = at, _number(data, at, end)
        elif kind == _BYTES:
            length, start = _number(data, at, end)
            at = start + length
        elif kind in (_FIXED32, _FIXED64):
            start, at = at, at + (4 if kind == _FIXED32 else 8)
        else:
            msg = f"the field at byte {at} is of an unknown kind."
            raise CheckpointError(msg)
        if at > end or number == 0:
            msg = f"field {number} at byte {start} ends after the message that holds it."
            raise CheckpointError(msg)
        yield number, kind, (start, at)


def _number(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of variable length, and the place after it."""
    value = 0
    for i in range(_LONGEST_NUMBER):
        if at + i >= end:
            break
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    msg = f"the number at byte {at} has no end."
    raise CheckpointError(msg)


def _add(data: mmap.mmap, span: Span, weights: dict[str, _Weight]) -> None:
    """Note one message; pieces of a large tensor come one after the other under one name."""
    name, tensor = None, None
    for number, kind, place in _fields(data, span):
        if (number, kind) == (1, _BYTES):
            name = _text(data, place)
        elif (number, kind) == (2, _BYTES):
            tensor = place
    if name is None or tensor is None:
        msg = f"the message at byte {span[0]} has no name or no tensor."
        raise CheckpointError(msg)
    sizes, dtype, content = _described(data, tensor)
    weight = weights.setdefault(name, _Weight(sizes, dtype))
    if (weight.sizes, weight.dtype) != (sizes, dtype):
        msg = f"{name!r} occurs twice, with different sizes or types."
        raise CheckpointError(msg)
    weight.pieces.append(content)


def _described(data: mmap.mmap, span: Span) -> tuple[tuple[int, ...], str, Span]:
    sizes: list[int] = []
    dtype, content = "", (span[0], span[0])
    for number, kind, (start, end) in _fields(data, span):
        if number == 1 and kind in (_NUMBER, _BYTES):  # one by one, or packed
            while start < end:
                size, start = _number(data, start, end)
                sizes.append(size)
                if len(sizes) > _MOST_SIZES:
                    msg = f"the tensor at byte {span[0]} has more than {_MOST_SIZES} dimensions."
                    raise CheckpointError(msg)
        elif (number, kind) == (2, _BYTES):
            dtype = _text(data, (start, end))
        elif (number, kind) == (3, _BYTES):
            content = (start, end)
    return tuple(sizes), dtype, content


def _text(data: mmap.mmap, span: Span) -> str:
    try:
        return data[slice(*span)].decode("utf-8")
    except UnicodeDecodeError:
        msg = f"the name at byte {span[0]} is not text."
        raise CheckpointError(msg) from None


def _tensor(data: mmap.mmap, name: str, weight: _Weight) -> Tensor:
    if weight.dtype not in _DTYPES:
        msg = f"{name!r} is of type {weight.dtype!r}, not of {tuple(_DTYPES)}."
        raise CheckpointError(msg)
    dtype, length = _DTYPES[weight.dtype], sum(end - start for start, end in weight.pieces)
    sizes = () if weight.sizes == (0,) and length else weight.sizes  # how some versions write a number
    if math.prod(sizes) * dtype.itemsize != length:
        msg = f"{name!r} of sizes {list(sizes)} and type {weight.dtype} needs {math.prod(sizes) * dtype.itemsize:,} bytes, but has {length:,}."
        raise CheckpointError(msg)
    if length == 0:
        return torch.empty(sizes, dtype=dtype)
    content = bytearray().join(data[start:end] for start, end in weight.pieces)
    return torch.frombuffer(content, dtype=dtype).reshape(sizes)
