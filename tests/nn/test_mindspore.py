"""MindSpore checkpoints, written here by a few lines and read back; damaged ones are refused, whatever the damage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from scgeneformer.nn import read_mindspore

TYPES = {"f4": "Float32", "f2": "Float16", "f8": "Float64", "i4": "Int32", "i8": "Int64", "u1": "UInt8"}


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number % 128 + 128])
        number //= 128
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(8 * number + 2) + varint(len(content)) + content


def tensor(array: np.ndarray, piece: bytes, *, packed: bool) -> bytes:
    if packed:
        sizes = field(1, b"".join(varint(n) for n in array.shape))
    else:
        sizes = b"".join(varint(8) + varint(n) for n in array.shape)
    kind = TYPES[array.dtype.str[1:]]
    return sizes + field(2, kind.encode()) + field(3, piece)


def checkpoint(weights: dict[str, np.ndarray], *, packed: bool = False, at_most: int = 2**30) -> bytes:
    """A file with these tensors; content above `at_most` bytes in pieces."""
    out = b""
    for name, array in weights.items():
        content = array.tobytes()
        for start in range(0, max(len(content), 1), at_most):
            piece = tensor(array, content[start : start + at_most], packed=packed)
            out += field(1, field(1, name.encode()) + field(2, piece))
    return out


@given(
    weights=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.sampled_from([f"<{kind}" for kind in TYPES]).flatmap(
            lambda kind: arrays(kind, array_shapes(min_dims=1, max_dims=3, max_side=4))
        ),
        max_size=4,
        min_size=1,
    ),
    packed=st.booleans(),
    at_most=st.sampled_from([3, 8, 2**30]),
    trailer=st.booleans(),
)
def test_what_was_written_is_read(tmp_path_factory, weights, packed, at_most, trailer):
    path = tmp_path_factory.mktemp("ckpt") / "a.ckpt"
    path.write_bytes(checkpoint(weights, packed=packed, at_most=at_most) + b"crc_num0123456789" * trailer)
    found = read_mindspore(path)
    assert list(found) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
        assert found[name].numpy().dtype == array.dtype


def test_numbers_and_bfloat16(tmp_path):
    half = field(1, varint(2)) + field(2, b"BFloat16") + field(3, b"\x80\x3f\x00\x40")
    scalar = field(2, b"Float32") + field(3, np.float32(3).tobytes())
    zero_sizes = field(1, varint(0)) + scalar
    parts = {"half": half, "scalar": scalar, "number": zero_sizes}
    content = b"".join(field(1, field(1, name.encode()) + field(2, part)) for name, part in parts.items())
    (tmp_path / "a.ckpt").write_bytes(content)
    found = read_mindspore(tmp_path / "a.ckpt")
    assert found["half"].tolist() == [1.0, 2.0]
    assert found["half"].dtype == torch.bfloat16
    assert found["scalar"].item() == found["number"].item() == 3


WEIGHTS = {"w": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.ones(3, dtype="<f2")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(40), "not a MindSpore checkpoint"),
        (checkpoint(WEIGHTS)[:-1], "ends after the message that holds it"),
        (varint(10) + varint(10**10), "ends after the message that holds it"),
        (varint(10) + b"\xff" * 12, "has no end"),
        (field(1, field(1, b"w")), "no name or no tensor"),
        (field(1, field(1, b"\xff\xfe") + field(2, tensor(WEIGHTS["w"], b"", packed=False))), "is not text"),
        (field(1, field(1, b"w") + field(2, tensor(WEIGHTS["w"], b"1234", packed=False))), "needs 24 bytes, but has 4"),
        (
            field(1, field(1, b"w") + field(2, field(1, varint(2**62) * 2) + field(2, b"Float32") + field(3, b"1234"))),
            "bytes, but has 4",
        ),
        (field(1, field(1, b"w") + field(2, field(1, varint(1) * 40))), "more than 16 dimensions"),
        (field(1, field(1, b"w") + field(2, field(2, b"String") + field(3, b"ab"))), "of type 'String'"),
        (checkpoint({"w": WEIGHTS["w"]}) + checkpoint({"w": WEIGHTS["b"]}), "occurs twice"),
        (checkpoint({"w": WEIGHTS["w"]}) * 2, "needs 24 bytes, but has 48"),
        (field(2, b"x"), "where weights are expected"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_mindspore(tmp_path / "a.ckpt")


def test_five_hundred_damaged_files_are_read_or_refused(tmp_path):
    """Bytes changed, left out, doubled: nothing but tensors of the right size, or a ValueError."""
    rng, whole, path = np.random.default_rng(0), checkpoint(WEIGHTS), tmp_path / "a.ckpt"
    n_refused = 0
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(content)))
            how = rng.integers(3)
            if how == 0:
                content[at] = int(rng.integers(256))
            elif how == 1:
                del content[at : at + int(rng.integers(1, 9))]
            else:
                content[at:at] = content[max(0, at - 5) : at]
            if not content:
                break
        path.write_bytes(bytes(content))
        try:
            found = read_mindspore(path)
        except ValueError:
            n_refused += 1
        else:
            assert sum(value.nbytes for value in found.values()) <= len(content)
    assert n_refused > 250
