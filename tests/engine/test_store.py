"""Parts in a folder are complete or absent and belong to one run; damage to a file is noticed."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer._run_folder import locked
from scgeneformer.engine.perturb import Store

RUN = {"model": "tiny", "genes": None, "states": ["a", "b"], "precision": "float32", "quartiles": 1, "effects": False}
PART = {"cells": np.arange(5, dtype=np.int32), "values": np.linspace(0, 1, 10).reshape(5, 2)}


def same(found, expected):
    return list(found) == list(expected) and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name]) for name in expected
    )


def test_what_is_written_is_read(tmp_path):
    store = Store(tmp_path / "not" / "there", RUN)
    assert store.read(3) is None
    store.write(3, PART)
    assert same(store.read(3), PART)
    assert same(Store(tmp_path / "not" / "there", RUN).read(3), PART)
    left = [".lock", "part-000003.npz", "run.json"]  # nothing else
    assert sorted(path.name for path in store.folder.iterdir()) == left
    store.write(3, {"cells": np.empty(0, np.int32)})
    assert same(store.read(3), {"cells": np.empty(0, np.int32)})


def test_tuples_and_lists_are_the_same_run(tmp_path):
    Store(tmp_path, RUN)
    Store(tmp_path, RUN | {"states": ("a", "b")})


@pytest.mark.parametrize("name", [*RUN, "new"])
def test_another_run_is_refused_by_name(tmp_path, name):
    Store(tmp_path, RUN).write(0, PART)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match=f"parts of another run: {name} was .* is 'changed'") as error:
        Store(tmp_path, RUN | {name: "changed"})
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "run.json").read_bytes() == before
    fewer = {key: value for key, value in RUN.items() if key != name}
    if RUN.get(name) is not None:
        with pytest.raises(ValueError, match=f"{name} was"):
            Store(tmp_path, fewer)


@pytest.mark.parametrize("text", ["", "{", "[]", '"run"', "\x00\x01"])
def test_a_manifest_that_is_none_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json.* Use another folder"):
        Store(tmp_path, RUN)
    assert (tmp_path / "run.json").read_text() == text


def test_every_damage_of_a_part_is_noticed(tmp_path):
    store = Store(tmp_path, RUN)
    store.write(0, PART)
    whole = store.path(0).read_bytes()
    rng = np.random.default_rng(0)
    for length in (0, 1, 4, 30, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        store.path(0).write_bytes(whole[:length])
        assert store.read(0) is None, length
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        store.path(0).write_bytes(damaged)
        found = store.read(0)
        # bytes of dates and attributes tell nothing; a flipped name must not look like a part
        assert found is None or same(found, PART), at
    store.path(0).write_bytes(rng.bytes(len(whole)))
    assert store.read(0) is None


def test_code_in_a_part_does_not_run(tmp_path):
    store = Store(tmp_path, RUN)
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    np.savez(store.path(0), cells=np.array([Harm()], dtype=object))
    assert store.read(0) is None
    assert not ran.exists()


@pytest.mark.parametrize("fails", ["fsync", "savez"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, fails):
    store = Store(tmp_path, RUN)
    store.write(0, PART)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if fails == "fsync" else np, fails, full)
    for part in (0, 1):
        with pytest.raises(OSError, match="No space left"):
            store.write(part, {"cells": np.arange(9)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file", RUN)
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file" / "genes", RUN)
    assert (tmp_path / "file").read_text() == "mine"


def test_others_may_read_what_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        store = Store(tmp_path, RUN)
        store.write(0, PART)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name[0] != "."}
    assert modes == {0o644}


def test_the_manifest_can_be_read_by_people(tmp_path):
    Store(tmp_path, RUN)
    assert json.loads((tmp_path / "run.json").read_text()) == RUN


def test_altered_values_are_noticed(tmp_path):
    """Also in a complete file whose zip checksums are right."""
    store = Store(tmp_path, RUN)
    store.write(0, PART)
    with np.load(store.path(0)) as arrays:
        whole = dict(arrays)
    path = store.path(0)

    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(sorted(whole)), st.data())
    def alter(name, data):
        array = whole[name].copy()
        at = data.draw(st.integers(0, array.nbytes - 1))
        array.view(np.uint8).reshape(-1)[at] ^= data.draw(st.integers(1, 255))
        np.savez(path, **whole | {name: array})
        assert store.read(0) is None

    alter()
    for changed in ({"more": np.arange(2)}, {"cells": whole["cells"].astype(np.int64)}, {"cells": whole["cells"][:3]}):
        np.savez(path, **whole | changed)
        assert store.read(0) is None
    np.savez(path, **whole)
    assert same(store.read(0), PART)


def test_a_part_of_another_number_or_run_is_none(tmp_path):
    store, other = Store(tmp_path / "a", RUN), Store(tmp_path / "b", RUN | {"model": "large"})
    store.write(0, PART)
    store.path(1).write_bytes(store.path(0).read_bytes())
    other.path(0).write_bytes(store.path(0).read_bytes())
    assert store.read(1) is None
    assert other.read(0) is None


def test_parts_of_earlier_versions_are_told_of_and_not_taken(tmp_path):
    store = Store(tmp_path, RUN)
    np.savez(store.path(0), **PART, n_arrays=np.array(2))
    with pytest.warns(UserWarning, match="earlier version, without checksums: they are computed again"):
        assert store.read(0) is None


def test_one_process_computes_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("scgeneformer.engine.perturb._store._PATIENCE", 0.1)
    store = Store(tmp_path, RUN)
    for _ in range(2):
        with store.locked():
            with pytest.raises(BlockingIOError, match=f"is in use by process {os.getpid()} on"), store.locked():
                pass
    with locked(tmp_path, "folder"), pytest.raises(BlockingIOError, match="in use"):
        Store(tmp_path, RUN)


def test_what_killed_processes_left_is_removed_by_the_next(tmp_path):
    for name in (".part-000003.npz.12", ".part-000004.npz.0f3a", ".run.json.7"):
        (tmp_path / name).touch()
    store = Store(tmp_path, RUN)
    with store.locked():
        left = {path.name for pattern in ("*part-0*", "*run*") for path in tmp_path.glob(pattern)}
    assert left == {"run.json"}
