"""What the cache contains, what counts as a mirror, and what uses the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from scgeneformer import settings
from scgeneformer.hub import _cache
from scgeneformer.hub._cache import fetch, is_cached
from scgeneformer.hub._registry import RemoteFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def mirror(tmp_path: Path, server: Any) -> Path:
    """A local folder with the file tree of the repository."""
    folder = tmp_path / "mirror"
    for path, content in server.files.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    return folder


def test_offline_and_not_cached(server: Any, online: Path, file: RemoteFile) -> None:
    with (
        settings.override(offline=True),
        pytest.raises(FileNotFoundError, match=r"file\.bin is not cached.*SCGENEFORMER_OFFLINE.*CACHE_DIR.*MIRROR"),
    ):
        fetch(file)
    assert server.requests == []
    assert not settings.cache_dir.exists()


def test_offline_and_cached(server: Any, online: Path, file: RemoteFile) -> None:
    fetch(file)
    server.requests.clear()
    with settings.override(offline=True):
        assert fetch(file) == online
    assert server.requests == []


def test_altered_later_is_noticed_and_fetched_again(server: Any, online: Path, file: RemoteFile) -> None:
    fetch(file)
    online.write_bytes(b"?" + server.content[1:])  # the same size
    with (
        settings.override(offline=True),
        pytest.raises(FileNotFoundError, match=rf"altered \(expected .*{file.sha256}"),
    ):
        fetch(file)
    with pytest.warns(UserWarning, match=rf"was altered: expected .*{file.sha256}, found .* Downloading it again"):
        fetch(file)
    assert online.read_bytes() == server.content
    assert len(server.requests) == 2


def test_shortened_later_is_noticed(server: Any, online: Path, file: RemoteFile) -> None:
    fetch(file)
    with online.open("r+b") as handle:
        handle.truncate(10)
    assert not is_cached(file)
    with pytest.warns(UserWarning, match="found 10 bytes"):
        assert fetch(file).read_bytes() == server.content


def test_altered_file_is_not_given_out_if_there_is_no_other(server: Any, online: Path, file: RemoteFile) -> None:
    fetch(file)
    online.write_bytes(b"?" + server.content[1:])
    server.plan = ["corrupt"]
    with pytest.warns(UserWarning, match="was altered"), pytest.raises(ValueError, match="is not the expected file"):
        fetch(file)
    assert not online.exists()


def test_hashed_again_only_when_touched(
    server: Any, online: Path, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(file)
    hashed: list[Path] = []
    real = _cache.sha256_of
    monkeypatch.setattr(_cache, "sha256_of", lambda path: hashed.append(path) or real(path))
    fetch(file)
    assert hashed == []
    os.utime(online, ns=(1, 1))
    fetch(file)
    fetch(file)
    assert hashed == [online]
    assert len(server.requests) == 1


def test_file_put_there_by_hand(server: Any, online: Path, file: RemoteFile) -> None:
    online.parent.mkdir(parents=True)
    online.write_bytes(server.content)
    assert fetch(file) == online
    assert server.requests == []


def test_a_marker_of_an_older_version_proves_nothing(server: Any, online: Path, file: RemoteFile) -> None:
    online.parent.mkdir(parents=True)
    online.write_bytes(b"?" + server.content[1:])
    stat = online.stat()
    stamp = {"sha256": file.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    online.with_name("file.bin.checked").write_text(json.dumps(stamp))
    with pytest.warns(UserWarning, match="was altered"):
        assert fetch(file).read_bytes() == server.content


def test_another_file_of_the_same_size_and_time_is_noticed(server: Any, online: Path, file: RemoteFile) -> None:
    stat = fetch(file).stat()
    other = online.with_name("other")
    other.write_bytes(b"?" + server.content[1:])
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(online)
    with pytest.warns(UserWarning, match="was altered"):
        assert fetch(file).read_bytes() == server.content


def test_an_unfinished_download_that_is_a_link_leaves_what_is_behind_it(
    server: Any, online: Path, cache: Path, mirror: Path, file: RemoteFile, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    for source in (server.url, mirror):
        mine.write_bytes(b"my file")
        online.parent.mkdir(parents=True, exist_ok=True)
        online.unlink(missing_ok=True)
        online.with_name("file.bin.part").symlink_to(mine)
        with settings.override(mirror=source):
            assert fetch(file).read_bytes() == server.content
        assert mine.read_bytes() == b"my file"
        assert not online.is_symlink()


@pytest.mark.parametrize("plan", [[403], [404], [503] * 9, ["corrupt"] * 9, [("truncate", 9)] * 9, ["proper"]], ids=str)
def test_the_password_of_a_mirror_is_not_shown(
    server: Any, online: Path, file: RemoteFile, plan: list, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    server.plan, said = list(plan), ""
    with settings.override(mirror=server.url.replace("http://", "http://me:s@cret@")):
        try:
            fetch(file)
        except (OSError, ValueError) as error:
            said = f"{error} {error.__cause__}"
    written = capfd.readouterr()
    assert "cret" not in said + caplog.text + written.out + written.err
    assert ("***@127.0.0.1" in said) == (plan != ["proper"])


def test_two_at_once_download_once(server: Any, online: Path, file: RemoteFile) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, [file] * 4)) == [online] * 4
    assert len(server.requests) == 1


def test_mirror_folder_needs_no_network(server: Any, cache: Path, mirror: Path, file: RemoteFile) -> None:
    with settings.override(mirror=mirror, offline=True):
        assert fetch(file) == cache / file.path
    assert (cache / file.path).read_bytes() == server.content
    assert (mirror / file.path).read_bytes() == server.content
    assert server.requests == []


def test_a_cache_can_be_the_mirror_of_another(server: Any, online: Path, file: RemoteFile, tmp_path: Path) -> None:
    fetch(file)
    with settings.override(cache_dir=tmp_path / "second", mirror=str(settings.cache_dir), offline=True):
        assert fetch(file).read_bytes() == server.content
    assert len(server.requests) == 1


@pytest.mark.parametrize(("content", "found"), [(b"?" * 300_000, "300,000 bytes with sha256"), (b"?", "1 bytes")])
def test_altered_file_in_a_mirror_folder(
    cache: Path, mirror: Path, file: RemoteFile, content: bytes, found: str
) -> None:
    (mirror / file.path).write_bytes(content)
    with settings.override(mirror=mirror), pytest.raises(ValueError, match=rf"expected .*{file.sha256}, found {found}"):
        fetch(file)
    assert not list(cache.rglob("file.bin")) + list(cache.rglob("*.part"))
    assert (mirror / file.path).read_bytes() == content


def test_mirror_folder_without_the_file(cache: Path, mirror: Path, file: RemoteFile) -> None:
    (mirror / file.path).unlink()
    with settings.override(mirror=mirror), pytest.raises(FileNotFoundError, match="no such file in the mirror folder"):
        fetch(file)


def test_mirror_that_is_nothing(cache: Path, file: RemoteFile) -> None:
    with settings.override(mirror="ftp://x"), pytest.raises(FileNotFoundError, match=r"SCGENEFORMER_MIRROR.*'ftp://x'"):
        fetch(file)


def test_mirror_url_may_have_a_path_and_a_slash(server: Any, cache: Path, file: RemoteFile) -> None:
    server.files = {f"some/where/{path}": content for path, content in server.files.items()}
    with settings.override(mirror=f"{server.url}/some/where/"):
        assert fetch(file).read_bytes() == server.content
    assert server.requests == [("some/where/folder/file.bin", None)]


def test_second_official_address(server: Any, cache: Path, file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteFile, "sources", (f"{server.url}/revision/", f"{server.url}/"))
    assert fetch(file).read_bytes() == server.content
    assert [path for path, _ in server.requests] == ["revision/folder/file.bin", "folder/file.bin"]
    server.files.clear()
    (cache / file.path).unlink()
    with pytest.raises(FileNotFoundError, match=r"revision/folder/file\.bin: 404.*; .*/folder/file\.bin: 404"):
        fetch(file)


def test_environment(tmp_path: Path, mirror: Path, file: RemoteFile, server: Any) -> None:
    code = (
        "import sys; from scgeneformer import settings; from scgeneformer.hub import _cache, _registry;"
        f"file = _registry.{file!r}; print(_cache.fetch(file)); settings.mirror, settings.cache_dir = sys.argv[1:];"
        "_cache.fetch(file)"
    )
    env = os.environ | {
        "SCGENEFORMER_CACHE_DIR": str(tmp_path / "elsewhere"),
        "SCGENEFORMER_MIRROR": str(mirror),
        "SCGENEFORMER_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, server.url, str(tmp_path / "third")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(tmp_path / "elsewhere" / file.path)
    assert (tmp_path / "elsewhere" / file.path).read_bytes() == server.content
    assert "forbids downloads" in done.stderr
    assert server.requests == []


def test_nothing_is_said_about_a_good_file(server: Any, online: Path, file: RemoteFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetch(file)
        fetch(file)
