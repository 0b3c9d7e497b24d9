"""The unpickler reads what the official dictionaries hold and runs nothing."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from scgeneformer.tokens._unpickle import read_dictionary


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
