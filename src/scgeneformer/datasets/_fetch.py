"""Files of public data at pinned addresses, verified by sha256 before they are opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from scgeneformer._settings import settings


@dataclass(frozen=True)
class DataFile:
    """A public file.

    Attributes
    ----------
    path
        Its place in the folder ``settings.data`` and in the cache.
    url
        Where it is downloaded from, pinned to a commit.
    sha256
        Of its content.
    """

    path: str
    url: str
    sha256: str


def fetch(file: DataFile) -> Path:
    """Path of a local copy of `file`, downloaded if there is none.

    Raises
    ------
    ConnectionError
        If it cannot be downloaded.
    FileNotFoundError
        If there is no copy and `settings.offline` is set.
    ValueError
        If a copy in `settings.data`, or what was downloaded, has another sha256.
    """
    local = None if settings.data is None else Path(settings.data).expanduser() / file.path
    if local is not None and local.is_file():
        if not _is_intact(local, file):
            msg = f"{local} is not the expected file: its sha256 is not {file.sha256}. Replace it by {file.url}, or remove it."
            raise ValueError(msg)
        return local
    path = settings.cache_dir / "datasets" / file.path
    if settings.offline and not (path.is_file() and _is_intact(path, file)):
        msg = (
            f"{file.path} is not cached, and `settings.offline` (SCGENEFORMER_OFFLINE) forbids downloads. Put {file.url} at {path}, or into "
            f"a folder that SCGENEFORMER_DATA (`settings.data`) names, as {file.path}."
        )
        raise FileNotFoundError(msg)
    try:
        name = pooch.retrieve(
            file.url, f"sha256:{file.sha256}", path.name, path.parent, progressbar=bool(settings.progress)
        )
    except requests.RequestException as error:
        msg = (
            f"Could not download {file.url}: {error}. Without network, put the file into a folder that SCGENEFORMER_DATA (`settings.data`) names, as "
            f"{file.path}."
        )
        raise ConnectionError(msg) from error
    return Path(name)


def _is_intact(path: Path, file: DataFile) -> bool:
    return pooch.file_hash(str(path), alg="sha256") == file.sha256
