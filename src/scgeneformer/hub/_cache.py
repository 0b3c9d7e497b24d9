"""Local copy of the official repositories; each file is verified by size and sha256 before it is opened."""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
from filelock import FileLock

from scgeneformer._settings import settings

from ._download import download, without_password

if TYPE_CHECKING:
    from ._registry import RemoteFile

_hashed: dict[
    Path, tuple[str | None, int, int, int, int, int]
] = {}  # files that this process found to be the expected ones


def fetch(file: RemoteFile) -> Path:
    """Path of the local copy of `file`, downloaded if it is not cached.

    A cached file is hashed once in each process, which takes seconds for the largest weights, and again when it was changed or replaced
    since. A cached file needs no network. Where this package knows no sha256, that of the first copy is pinned in the cache, with a warning.

    Raises
    ------
    FileNotFoundError
        If it is not cached, and `settings.offline` is set or neither mirror nor repository has it.
    ConnectionError
        If the download was interrupted; the next call resumes it.
    ValueError
        If the downloaded file has another size or sha256; it is removed.
    """
    path = settings.cache_dir / file.path
    file = _pinned(path, file)
    if _is_checked(path, file):
        return path
    sources = _sources(path, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        file = _pinned(path, file)
        if _is_checked(path, file):  # another process was first
            return path
        if path.exists():
            msg = f"{path} was altered: expected {_expected(file)}, found {_found(path, file)}. Downloading it again."
            warnings.warn(msg, stacklevel=3)
            path.unlink()
        _bring_from_any(sources, path, file)
        _hashed[path] = _state(path, _pinned(path, file))
    return path


def intact(file: RemoteFile) -> Path | None:
    """Path of the local copy of `file` if it is cached and not altered; nothing is downloaded."""
    path = settings.cache_dir / file.path
    return path if _is_checked(path, file) else None


def is_cached(file: RemoteFile) -> bool:
    """Whether a file of the expected size is in the cache; `fetch` verifies its content."""
    path = settings.cache_dir / file.path
    return path.is_file() and file.size in (None, path.stat().st_size)


def sha256_of(path: Path) -> str:
    """Sha256 of a file's content, in hexadecimal."""
    return pooch.file_hash(str(path), alg="sha256")


def _pinned(path: Path, file: RemoteFile) -> RemoteFile:
    """`file` with sha256 and size: its own, else those of the first copy; as it is if there was none."""
    first = None if file.sha256 is not None else first_copy(path)
    return file if first is None else replace(file, sha256=first[0], size=first[1])


def first_copy(path: Path) -> tuple[str, int] | None:
    """Pinned sha256 and size of the first copy at `path`, pinned now if it was copied there by hand; None if there was none.

    Raises
    ------
    ValueError
        If the pin is damaged.
    """
    if path.is_file() and not pin_of(path).is_file():
        pin(path, path)
    if not pin_of(path).is_file():
        return None
    pinned = re.fullmatch(r"([0-9a-f]{64}) (\d{1,12})\n", pin_of(path).read_text(errors="replace"))
    if pinned is None:
        msg = f"{pin_of(path)} does not hold the sha256 and size of {path.name}. Remove it, to pin those of the next copy."
        raise ValueError(msg)
    return pinned[1], int(pinned[2])


def pin(path: Path, copy: Path) -> None:
    """Expect the content of `copy` at `path` from now on."""
    sha256 = sha256_of(copy)
    pin_of(path).write_text(f"{sha256} {copy.stat().st_size}\n")
    msg = f"The official sha256 of {path} is not known to this version of scgeneformer. That of this copy, {sha256}, was pinned in {pin_of(path).name}: other files will be refused."
    warnings.warn(msg, stacklevel=2)


def pin_of(path: Path) -> Path:
    """Where the sha256 and size of the first copy at `path` are."""
    return path.with_name(path.name + ".sha256")


def _sources(path: Path, file: RemoteFile) -> tuple[str, ...]:
    """Addresses to get `file` from, ending in "/": URLs or one folder."""
    mirror = settings.mirror and str(settings.mirror)
    if mirror and not _is_url(mirror):
        folder = Path(mirror).expanduser()
        if not folder.is_dir():
            msg = f"SCGENEFORMER_MIRROR (`settings.mirror`) {without_password(mirror)!r} is neither a http(s) URL nor an existing folder."
            raise FileNotFoundError(msg)
        return (f"{folder.resolve().as_posix()}/",)
    if settings.offline:
        state = f"altered (expected {_expected(file)}, found {_found(path, file)})" if path.exists() else "not cached"
        msg = (
            f"{path} is {state}, and `settings.offline` (SCGENEFORMER_OFFLINE) forbids downloads. Unset it once to fetch the "
            "file, copy the cache folder from a machine that has it (`settings.cache_dir`, SCGENEFORMER_CACHE_DIR), or "
            "point `settings.mirror` (SCGENEFORMER_MIRROR) to a local folder with the files of the official repository."
        )
        raise FileNotFoundError(msg)
    return (f"{mirror.rstrip('/')}/",) if mirror else file.sources


def _bring_from_any(sources: tuple[str, ...], path: Path, file: RemoteFile) -> None:
    missing = []
    for source in sources:
        # pooch, which reports the address, does not get its password
        known = None if file.sha256 is None else f"sha256:{file.sha256}"
        manager = pooch.create(settings.cache_dir, without_password(source), registry={file.path: known})
        try:
            manager.fetch(file.path, downloader=partial(_bring, source=source, path=path, file=file))
        except FileNotFoundError as error:
            missing.append(str(error))
        else:
            return
    msg = f"{file.path} was not found: {'; '.join(missing)}"
    raise FileNotFoundError(msg)


def _bring(_url: str, output: str, _pooch: pooch.Pooch, *, source: str, path: Path, file: RemoteFile) -> None:
    """Downloader for pooch: download from `source` to ``<name>.part``, verify it and move it to `output`."""
    url, part = f"{source}{file.path}", path.with_name(path.name + ".part")
    if part.is_symlink() or (part.exists() and not part.is_file()):  # writing there would change another file, or hang
        part.unlink()
    if file.sha256 is None:  # nothing would show that it was started with another file
        part.unlink(missing_ok=True)
    if _is_url(url):
        is_resumed = part.exists()
        joined = download(url, part, file.size, progress=settings.progress)
        found = _found(part, file)
        # the pieces may be of two different files
        if file.sha256 is not None and found != _expected(file) and (is_resumed or joined):
            part.unlink()
            download(url, part, file.size, progress=settings.progress)
            found = _found(part, file)
    else:
        if not Path(url).is_file():
            msg = f"no such file in the mirror folder: {url}"
            raise FileNotFoundError(msg)
        shutil.copyfile(url, part)
        found = _found(part, file)
    if file.sha256 is None:
        pin(path, part)
    elif found != _expected(file):
        part.unlink()
        msg = f"{without_password(url)} is not the expected file and was removed: expected {_expected(file)}, found {found}."
        if pin_of(path).is_file():
            msg += (
                " The expected values were pinned on the first download: if you trust the new file, remove "
                f"{pin_of(path)}."
            )
        raise ValueError(msg)
    part.replace(output)


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _expected(file: RemoteFile) -> str:
    return f"{file.size:,} bytes with sha256 {file.sha256}"


def _found(path: Path, file: RemoteFile) -> str:
    """Size of `path`, and its sha256 if the size is as expected; to be compared with `_expected`."""
    size = path.stat().st_size
    return f"{size:,} bytes" if size != file.size else f"{size:,} bytes with sha256 {sha256_of(path)}"


def _state(path: Path, file: RemoteFile) -> tuple[str | None, int, int, int, int, int]:
    """What was expected of a file when it was hashed, and by what a change or another file is noticed."""
    stat = path.stat()
    return file.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino


def _is_checked(path: Path, file: RemoteFile) -> bool:
    if not path.is_file():
        return False
    now = _state(path, file)  # before hashing, so that a change meanwhile is noticed next time
    if _hashed.get(path) != now:
        if _found(path, file) != _expected(file):
            return False
        _hashed[path] = now
    return True
