"""A folder has one run at a time, and its files are complete or absent."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import signal
import time

import pytest
from filelock import FileLock

from scgeneformer._run_folder import LOCK, locked, remove_unfinished, write_whole

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def held(folder, taken, orphan=False):
    """Hold the lock until killed, if asked for with a child that outlives the kill for a moment."""
    with locked(folder, "folder"):
        if orphan and os.fork() == 0:
            taken.set()
            time.sleep(1)
            os._exit(0)
        if not orphan:
            taken.set()
        time.sleep(60)


def start(folder, **options):
    context = multiprocessing.get_context("fork")
    taken = context.Event()
    process = context.Process(target=held, args=(folder, taken), kwargs=options)
    process.start()
    assert taken.wait(20)
    return process


@needs_fork
def test_the_second_of_two_runs_is_told_of_the_first(tmp_path):
    process = start(tmp_path)
    try:
        words = f"checkpoints='{tmp_path}' is in use by process {process.pid} on {platform.node()} since 20..-"
        with pytest.raises(BlockingIOError, match=re.escape(words).replace(r"\.\.", "..") + ".*another folder"):
            with locked(tmp_path, "checkpoints"):
                pass
        with locked(tmp_path, "checkpoints", name=".other"):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with locked(tmp_path, "checkpoints"):  # the killed process left its note
        assert f'"process": {os.getpid()}' in (tmp_path / f"{LOCK}.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, ".other"]


@needs_fork
def test_children_of_a_killed_process_do_not_block(tmp_path, monkeypatch):
    monkeypatch.setattr("scgeneformer._run_folder._ORPHANS", 20.0)
    process = start(tmp_path, orphan=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path, "checkpoints"):
        pass


@pytest.mark.parametrize("note", [None, "", "[1]", '{"process": "x", "host": 3}'])
def test_a_note_that_cannot_be_read(tmp_path, note):
    with FileLock(tmp_path / LOCK):
        if note is not None:
            (tmp_path / f"{LOCK}.json").write_text(note)
        with pytest.raises(BlockingIOError, match="in use by another process"), locked(tmp_path, "checkpoints"):
            pass


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="has no locks: take care"), locked(tmp_path, "checkpoints"):
        pass


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, "checkpoints"):
        raise KeyboardInterrupt
    with locked(tmp_path, "checkpoints"):
        pass


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda new: new.write_text("first"))

    def fail(new):
        new.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "first"
    for left in (".file.123", ".file.abc", ".other.1"):
        (tmp_path / left).touch()
    remove_unfinished(tmp_path, "file")
    assert sorted(found.name for found in tmp_path.iterdir()) == [".other.1", "file"]
