"""The unpickler reads what the official dictionaries hold and runs nothing."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from scgeneformer._pickles import PickleError
from scgeneformer.tokens._official import read_dictionary


class Calls:
    """Asks the unpickler for a function and to call it."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.request = function, arguments

    def __reduce__(self) -> tuple:
        return self.request


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_reads_what_dictionaries_hold(tmp_path: Path, protocol: int) -> None:
    content = {"A": 1, "B": "text", "C": 0.1, "D": np.float64(1 / 3), "E": np.int16(-7), "F": np.float32(0.5)}
    content["G"] = np.array([258], ">i4")[0]  # NumPy keeps the byte order of no scalar, but older files may name one
    path = tmp_path / "d.pkl"
    # protocol 2 writes bytes by way of a function, which is refused like any other
    if protocol == 2:
        content = {key: value for key, value in content.items() if not isinstance(value, np.generic)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_dictionary(path)
    assert read == {key: value.item() if isinstance(value, np.generic) else value for key, value in content.items()}
    assert {type(value) for value in read.values()} <= {int, float, str}


def test_reads_numbers_of_either_byte_order(tmp_path: Path) -> None:
    class Scalar(Calls):
        pass

    scalar = np.float64(0).__reduce__()[0]
    content = {"A": Scalar(scalar, np.dtype(">f8"), np.array(2.5, ">f8").tobytes())}
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(content))
    assert read_dictionary(tmp_path / "d.pkl") == {"A": 2.5}


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"A": x}, lambda x: {"A": 1, "B": [x]}], ids=["top", "value", "nested"]
)
@pytest.mark.parametrize("function", ["os.system", "builtins.eval", "builtins.open", "getattr", "pathlib"])
def test_refuses_to_call(tmp_path: Path, function: str, wrap: object) -> None:
    trace = tmp_path / "trace"
    attack = {
        "os.system": Calls(os.system, f"touch {trace}"),
        "builtins.eval": Calls(builtins.eval, f"open({str(trace)!r}, 'w').close()"),
        "builtins.open": Calls(builtins.open, str(trace), "w"),
        "getattr": Calls(builtins.getattr, "text", "upper"),
        "pathlib": Path(trace),
    }[function]
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(wrap(attack)))
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        read_dictionary(tmp_path / "d.pkl")
    assert not trace.exists()


def test_refuses_arrays_and_objects_of_numpy(tmp_path: Path) -> None:
    scalar = np.float64(0).__reduce__()[0]
    for attack in (np.arange(3), Calls(scalar, np.dtype("O"), b"x"), np.dtype("O")):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps({"A": attack}))
        with pytest.raises(pickle.UnpicklingError, match="refused"):
            read_dictionary(tmp_path / "d.pkl")


@pytest.mark.parametrize("content", [[1, 2], "text", {1: 2}, {"A": None}, {"A": {"B": 1}}, {"A": np.dtype("f8")}])
def test_refuses_other_content(tmp_path: Path, content: object) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="dictionary|expected strings"):
        read_dictionary(tmp_path / "d.pkl")


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


GLOBAL = b"cnumpy.core.multiarray\nscalar\n"
NESTED = b")" + b"".join(
    b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60)
)  # a tuple of 2^60 empty ones
DAMAGED = {
    "nothing": b"",
    "no end": b"}",
    "half a text": b"}\x8c\xffab",
    "text of 2^60 bytes": b"}\x8d" + (2**60).to_bytes(8, "little") + b"a",
    "bytes of 2^60 bytes": b"}\x8e" + (2**60).to_bytes(8, "little") + b"a",
    "array of 2^60 bytes": b"}\x96" + (2**60).to_bytes(8, "little") + b"a",
    "frame of 2^60 bytes": b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"}",
    "place 2^32 in the memo": b"}r\xff\xff\xff\xff",
    "number of 2^31 bytes": b"}\x8b\xff\xff\xff\x7f1",
    "long number as text": b"}" + text("a") + b"I" + b"9" * 10**6 + b"\n",
    "deep key": b"}" + NESTED + b"K\x01s.",
    "deep value": b"}" + text("a") + NESTED + b"s.",
    "deep type": b"}" + text("a") + b"cnumpy\ndtype\n" + NESTED + b"\x85Rs.",
    "deep name": b"}" + text("a") + NESTED + text("x") + b"\x93s.",
    "itself": b"}q\x00" + text("a") + b"h\x00s.",
    "change of a function": GLOBAL + b"}" + text("__defaults__") + b")s" + b"b.",
    "number of no type": b"}" + text("a") + GLOBAL + text("x") + b"C\x01a\x86Rs.",
    "call of a text": b"}" + text("a") + text("x") + b")Rs.",
    "empty stack": b"s.",
    "no mark": b"}u.",
    "odd items": b"}(" + text("a") + b"u.",
    "no text": b"}\x8c\x01\xffK\x01s.",
    "unknown place": b"}h\x07.",
    "random": bytes(np.random.default_rng(0).integers(0, 256, 2000, np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_dictionaries_are_one_error_and_change_nothing(tmp_path: Path, damage: str) -> None:
    (tmp_path / "d.pkl").write_bytes(DAMAGED[damage])
    with pytest.raises(PickleError, match=r"d\.pkl") as raised:
        read_dictionary(tmp_path / "d.pkl")
    assert isinstance(raised.value, ValueError)
    assert len(str(raised.value)) < 1000
    test_reads_numbers_of_either_byte_order(tmp_path)


def test_a_dictionary_cut_anywhere_or_with_a_changed_byte_is_an_error_or_a_dictionary(tmp_path: Path) -> None:
    content = pickle.dumps({"A": 1, "B": np.float64(0.5), "C": -70000, "D": "text"}, protocol=4)
    rng = np.random.default_rng(0)
    changed = [bytearray(content) for _ in range(300)]
    for bytes_ in changed:
        bytes_[rng.integers(len(content))] = rng.integers(256)
    for damaged in [*(content[:n] for n in range(len(content))), *map(bytes, changed)]:
        (tmp_path / "d.pkl").write_bytes(damaged)
        try:
            assert isinstance(read_dictionary(tmp_path / "d.pkl"), dict)
        except PickleError:
            pass


def test_pipes_folders_and_huge_files_are_no_dictionaries(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="no file"):
            read_dictionary(path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(PickleError, match="more than"):
        read_dictionary(tmp_path / "huge")
