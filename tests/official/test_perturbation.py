"""Pickles of the official perturber are read as data, and nothing else is."""

from __future__ import annotations

import builtins
import os
import pickle
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from pathlib import Path


def dump(path: Path, content: object, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


class Calls:
    """Asks the unpickler for a function and to call it."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.request = function, arguments

    def __reduce__(self) -> tuple:
        return self.request


@pytest.mark.parametrize("name", ["v1-tiny_all_delete_cell_short6", "v2-tiny_all_delete_cls_states"])
def test_recorded_values_in_files_of_single_cells(shared, official, tmp_path, name):
    """Recordings written as the perturber writes them, two files a cell: they come back with cell and value."""
    recorded = pd.read_parquet(shared / f"conformance/perturb/{name}.parquet")
    vocabulary = official(name[:2].upper())
    number = np.int16 if name.startswith("v1") else int  # as in the official dictionaries
    goal = (recorded["state"] != "").any()
    for cell, (_, rows) in enumerate(recorded.groupby("cell", sort=False)):
        for batch, part in ((-1, rows.iloc[::2]), (0, rows.iloc[1::2])):
            content = defaultdict(list)
            for row in part.itertuples():
                of_state = content.setdefault(row.state, defaultdict(list)) if goal else content
                of_state[number(row.perturbed), "cell_emb"].append(float(row.value))
            dump(tmp_path / f"in_silico_delete_x_dict_cell_embs_{cell}batch{batch}_raw.pickle", content)
    read = sg.read_official(tmp_path, vocabulary)
    assert (read["affected"] == "").all()
    cells = pd.Series(recorded["cell"].unique())
    theirs = recorded.assign(perturbed=vocabulary.ids[recorded["perturbed"].astype(int)])
    ours = read.assign(cell=cells[read["cell"]].to_numpy())
    by = ["cell", "perturbed", "state"]
    a, b = (frame.set_index(by)["value"].sort_index() for frame in (ours, theirs))
    pd.testing.assert_series_equal(a, b, check_exact=True, check_index_type=False)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_sets_effects_on_genes_and_numbers_of_numpy(vocabulary, tmp_path, protocol):
    content = defaultdict(list)
    content[(np.int16(5), np.int16(7)), "cell_emb"] = [0.5, np.float32(0.25), np.float64(1 / 3)]
    content[9, 10] = [1, 2.0]
    path = dump(tmp_path / "in_silico_delete_x_gene_embs_dict_[5, 7]_raw.pickle", content, protocol)
    read = sg.read_official(path, vocabulary)
    gene = lambda token: str(vocabulary.ids[token])
    assert read["perturbed"].tolist() == [f"{gene(5)}|{gene(7)}"] * 3 + [gene(9)] * 2
    assert read["affected"].tolist() == [""] * 3 + [gene(10)] * 2
    assert read["position"].tolist() == [0, 1, 2, 0, 1]
    assert read["value"].tolist() == [0.5, 0.25, 1 / 3, 1.0, 2.0]
    assert read["cell"].isna().all()


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: {(5, "cell_emb"): x}, lambda x: {(5, "cell_emb"): [x]}],
    ids=["top", "value", "item"],
)
@pytest.mark.parametrize("attack", ["system", "eval", "open", "getattr", "list", "array", "object"])
def test_nothing_is_called(vocabulary, tmp_path, wrap, attack):
    trace = tmp_path / "trace"
    scalar = np.float64(0).__reduce__()[0]
    hostile = {
        "system": Calls(os.system, f"touch {trace}"),
        "eval": Calls(builtins.eval, f"open({str(trace)!r}, 'w').close()"),
        "open": Calls(builtins.open, str(trace), "w"),
        "getattr": Calls(builtins.getattr, "text", "upper"),
        "list": Calls(list, "abc"),
        "array": np.arange(3),
        "object": Calls(scalar, np.dtype("O"), b"x"),
    }[attack]
    path = dump(tmp_path / "a_raw.pickle", wrap(hostile))
    with pytest.raises(pickle.UnpicklingError, match=r"a_raw\.pickle"):
        sg.read_official(path, vocabulary)
    assert not trace.exists()


NESTED = b")" + b"".join(
    b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60)
)  # a tuple of 2^60 empty ones
DAMAGED = {
    "nothing": b"",
    "no end": b"}",
    "text of 2^60 bytes": b"}\x8d" + (2**60).to_bytes(8, "little") + b"a.",
    "bytes of 2^60 bytes": b"}\x8e" + (2**60).to_bytes(8, "little") + b"a.",
    "number of 2^31 bytes": b"}\x8b\xff\xff\xff\x7f1.",
    "long number as text": b"}I" + b"9" * 10**6 + b"\n.",
    "deep key": b"}" + NESTED + b"K\x01s.",
    "deep value": b"}K\x05" + NESTED + b"s.",
    "change of a function": b"cnumpy.core.multiarray\nscalar\n}\x8c\x0c__defaults__)s" + b"b.",
    "call of a text": b"\x8c\x01x)R.",
    "list of itself": b"]q\x00h\x00a.",
    "empty stack": b"s.",
    "no mark": b"}u.",
    "unknown place": b"}h\x07.",
    "persistent": b"Px\n.",
    "extension": b"\x82\x01.",
    "text": pickle.dumps("text"),
    "list": pickle.dumps([1, 2]),
    "numbers for lists": pickle.dumps({(5, "cell_emb"): 0.5}),
    "text for values": pickle.dumps({(5, "cell_emb"): ["a"]}),
    "one token as key": pickle.dumps({5: [0.5]}),
    "token beyond": pickle.dumps({(44, "cell_emb"): [0.5]}),
    "special token": pickle.dumps({(2, "cell_emb"): [0.5]}),
    "affected beyond": pickle.dumps({(5, 10**9): [0.5]}),
    "states of other things": pickle.dumps({"a": {(5, "cell_emb"): [0.5]}, "b": 3}),
    "random": bytes(np.random.default_rng(0).integers(0, 256, 2000, np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_one_error(vocabulary, tmp_path, damage):
    path = tmp_path / "a_raw.pickle"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"a_raw\.pickle") as raised:
        sg.read_official(path, vocabulary)
    assert isinstance(raised.value, pickle.UnpicklingError)
    assert len(str(raised.value)) < 1000


def test_a_file_cut_or_changed_anywhere_is_an_error_or_values(vocabulary, tmp_path):
    content = pickle.dumps({((5, 6), "cell_emb"): [0.5, np.float32(1)], (np.int16(9), 10): [0.25]})
    path, rng = tmp_path / "a_raw.pickle", np.random.default_rng(0)
    changed = [bytearray(content) for _ in range(300)]
    for each in changed:
        each[rng.integers(len(content))] = rng.integers(256)
    for damaged in [*(content[:n] for n in range(len(content))), *map(bytes, changed)]:
        path.write_bytes(damaged)
        try:
            assert "value" in sg.read_official(path, vocabulary)
        except pickle.UnpicklingError:
            pass


def test_huge_files_pipes_and_other_paths_are_refused(vocabulary, tmp_path):
    with (tmp_path / "huge_raw.pickle").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(ValueError, match="more than"):
        sg.read_official(tmp_path / "huge_raw.pickle", vocabulary)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match="pipe"):
        sg.read_official(tmp_path / "pipe.csv")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cells.h5ad").write_bytes(b"x")
    for path in (tmp_path / "empty", tmp_path / "cells.h5ad"):
        with pytest.raises(ValueError, match="Cannot tell what"):
            sg.read_official(path)
    (tmp_path / "empty" / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match="several data sets"):
        sg.read_official(tmp_path / "empty")
    with pytest.raises(ValueError, match="no files"):
        sg.read_official(tmp_path / "empty", vocabulary, kind="perturbation")
    with pytest.raises(ValueError, match="arrow files"):
        sg.read_official(tmp_path / "empty", vocabulary, kind="tokens")
    with pytest.raises(ValueError, match="damaged"):
        sg.read_official(tmp_path / "empty", kind="statistics")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        sg.read_official(tmp_path / "none")
    with pytest.raises(ValueError, match="numbers of genes"):
        sg.read_official(tmp_path / "huge_raw.pickle")
