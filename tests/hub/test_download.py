"""Transfers that break, and servers that lie."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from scgeneformer import settings
from scgeneformer.hub import _download
from scgeneformer.hub._cache import fetch

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer.hub._registry import RemoteFile

N = 300_000  # size of the server's file
K = 2**16  # bytes that are written at once


def leftovers(path: Path) -> set[str]:
    return {p.name for p in path.parent.glob("*") if p.suffix != ".lock"} if path.parent.exists() else set()


def test_downloads_once(server: Any, online: Path, file: RemoteFile) -> None:
    assert fetch(file) == online
    assert online.read_bytes() == server.content
    assert server.ranges == [None]
    server.requests.clear()
    assert fetch(file) == online
    assert server.requests == []
    assert leftovers(online) == {"file.bin"}


def test_resumes_within_a_call(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [("drop", K), ("drop", 2 * K + 7)]
    assert fetch(file).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={K}-", f"bytes={3 * K + 7}-"]


def test_resumes_in_a_later_call(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [("drop", K)] + [("drop", 0)] * _download.TRIES
    with pytest.raises(ConnectionError, match=r"65,536 of 300,000 bytes were received; call again to resume"):
        fetch(file)
    assert leftovers(online) == {"file.bin.part"}
    server.requests.clear()
    assert fetch(file).read_bytes() == server.content
    assert server.ranges == [f"bytes={K}-"]
    assert leftovers(online) == {"file.bin"}


def test_resumes_after_the_process_was_killed(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [("stall", 4 * K)]
    content = server.content * 8
    server.files["folder/file.bin"] = content
    code = (
        "from scgeneformer.hub._cache import fetch; from scgeneformer.hub._registry import RemoteFile;"
        f"fetch(RemoteFile('folder/file.bin', '0' * 64, {len(content)}))"
    )
    env = os.environ | {"SCGENEFORMER_CACHE_DIR": str(settings.cache_dir), "SCGENEFORMER_MIRROR": server.url}
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    try:
        assert server.stalled.wait(60)
        part = online.with_name("file.bin.part")
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    there = part.stat().st_size
    assert 0 < there < len(content)
    server.requests.clear()
    assert fetch(server.remote("folder/file.bin")).read_bytes() == content
    assert server.ranges == [f"bytes={there}-"]


def test_starts_anew_where_ranges_are_ignored(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [("drop", K), "no_range"]
    assert fetch(file).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={K}-"]


@pytest.mark.parametrize("how", ["drop_whole", "quiet_whole"])
def test_gives_up_where_every_transfer_breaks_at_the_same_place(
    server: Any, online: Path, file: RemoteFile, how: str
) -> None:
    server.plan = [(how, K)] * 100
    with pytest.raises(ConnectionError, match=r"65,536 of 300,000 bytes were received"):
        fetch(file)
    assert len(server.requests) == _download.TRIES + 1
    assert leftovers(online) == {"file.bin.part"}


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(
    server: Any, online: Path, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "_WINDOW", 0.2)
    server.plan = [("trickle", K)] * 100
    with pytest.raises(ConnectionError, match=r"file\.bin: the server sent .* bytes in 0 seconds"):
        fetch(file)
    assert len(server.requests) == 1
    assert fetch_again_resumes(server, online, file)


def test_a_header_that_comes_byte_by_byte_is_given_up(
    server: Any, online: Path, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_download, "_WINDOW", 0.3)
    server.plan = ["trickle_head"]
    with pytest.raises(ConnectionError, match=r"file\.bin: the server did not answer within 0 seconds"):
        fetch(file)
    server.plan = []
    assert fetch(file).read_bytes() == server.content


def fetch_again_resumes(server: Any, online: Path, file: RemoteFile) -> bool:
    have = online.with_name("file.bin.part").stat().st_size
    server.plan = []
    return fetch(file).read_bytes() == server.content and server.ranges[-1] == f"bytes={have}-"


def test_starts_anew_from_a_wrong_range(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [("drop", K), "shifted"]
    assert fetch(file).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={K}-", None]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_busy_server_is_asked_again(server: Any, online: Path, file: RemoteFile, status: int) -> None:
    server.plan = [status, status]
    assert fetch(file).read_bytes() == server.content
    assert len(server.requests) == 3


def test_gives_up_on_a_broken_server(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [503] * 100
    with pytest.raises(ConnectionError, match=r"folder/file\.bin: 503 .*SCGENEFORMER_MIRROR"):
        fetch(file)
    assert len(server.requests) == _download.TRIES


def test_pauses_grow(server: Any, online: Path, file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(_download, "PAUSE", 1.0)
    monkeypatch.setattr(_download.time, "sleep", pauses.append)
    server.plan = [503] * 100
    with pytest.raises(ConnectionError):
        fetch(file)
    assert pauses == [1.0, 2.0, 4.0]


def test_nobody_listens(online: Path, file: RemoteFile, server: Any) -> None:
    with settings.override(mirror="http://127.0.0.1:9"), pytest.raises(ConnectionError, match=r"127\.0\.0\.1"):
        fetch(file)


def test_missing_on_the_server(server: Any, online: Path, file: RemoteFile) -> None:
    del server.files["folder/file.bin"]
    with pytest.raises(FileNotFoundError, match=r"folder/file\.bin was not found: .*404"):
        fetch(file)
    assert len(server.requests) == 1
    assert leftovers(online) == set()


def test_forbidden(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [403]
    with pytest.raises(ConnectionError, match="403 Forbidden"):
        fetch(file)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        ([("truncate", N - 1)], f"{N - 1:,}"),
        ([("quiet", K), ("truncate", K), ("truncate", K)], "65,536"),  # the range does not exist: 416
        ([("quiet", K), ("truncate", 2 * K)], "131,072"),
        ([("surplus", 5)], "more"),
    ],
)
def test_file_of_another_size_is_refused_and_removed(
    server: Any, online: Path, file: RemoteFile, plan: list, found: str
) -> None:
    server.plan = plan
    with pytest.raises(ValueError, match=rf"folder/file\.bin is not .* expected 300,000 bytes, found {found}"):
        fetch(file)
    assert server.plan == []
    assert leftovers(online) == set()


def test_altered_file_is_refused_and_removed(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = ["corrupt"]
    with pytest.raises(
        ValueError, match=rf"folder/file\.bin is not .* expected .*{file.sha256}, found .* sha256 [0-9a-f]"
    ):
        fetch(file)
    assert leftovers(online) == set()
    assert fetch(file).read_bytes() == server.content


def test_pieces_that_do_not_fit_are_fetched_anew_once(server: Any, online: Path, file: RemoteFile) -> None:
    server.plan = [("drop", K), "corrupt"]
    assert fetch(file).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={K}-", None]
    online.unlink()
    server.plan = [("drop", K), "corrupt", "corrupt"]
    with pytest.raises(ValueError, match="is not the expected file and was removed"):
        fetch(file)
    assert leftovers(online) == set()


@pytest.mark.parametrize("size", [10, N, N + 1])
def test_foreign_leftover(server: Any, online: Path, file: RemoteFile, size: int) -> None:
    online.parent.mkdir(parents=True)
    online.with_name("file.bin.part").write_bytes(b"?" * size)
    assert fetch(file).read_bytes() == server.content


def test_whole_leftover_needs_no_request(server: Any, online: Path, file: RemoteFile) -> None:
    online.parent.mkdir(parents=True)
    online.with_name("file.bin.part").write_bytes(server.content)
    assert fetch(file).read_bytes() == server.content
    assert server.requests == []


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(
    server: Any, online: Path, file: RemoteFile, capsys: pytest.CaptureFixture, progress: bool
) -> None:
    server.plan = [("drop", K)]
    with settings.override(progress=progress):
        fetch(file)
    bar = capsys.readouterr().err
    assert ("300k/300k" in bar and "file.bin" in bar) == progress
