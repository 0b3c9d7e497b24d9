"""Parts in a folder: whole or not there, of one run, and whatever happens to a file."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

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
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "part-000003.npz",
        "run.json",
    ]  # nothing else is left
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
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o644}


def test_the_manifest_can_be_read_by_people(tmp_path):
    Store(tmp_path, RUN)
    assert json.loads((tmp_path / "run.json").read_text()) == RUN
