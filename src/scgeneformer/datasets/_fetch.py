"""Files of public data at pinned addresses, verified by sha256 before they are opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from scgeneformer._settings import settings
from scgeneformer.hub._cache import first_copy, pin_of, sha256_of


@dataclass(frozen=True)
class DataFile:
    """A public file.

    Attributes
    ----------
    path
        Its place in the folder ``settings.data`` and in the cache.
    url
        Where it is downloaded from, pinned to a commit where its host has commits.
    sha256
        Of its content. None if it is not known: that of the first download is pinned in the cache, as for models.
    """

    path: str
    url: str
    sha256: str | None


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
    local = find(file.path)
    if local is not None:
        if file.sha256 not in (None, sha256_of(local)):
            msg = f"{local} is not the expected file: its sha256 is not {file.sha256}. Replace it by {file.url}, or remove it."
            raise ValueError(msg)
        return local
    path = cache(file.path)
    first = None if file.sha256 is not None else first_copy(path)
    sha256 = first[0] if first else file.sha256
    if settings.offline and not (path.is_file() and sha256_of(path) == sha256):
        msg = (
            f"{file.path} is not cached, and `settings.offline` (SCGENEFORMER_OFFLINE) forbids downloads. Put {file.url} at {path}, or into "
            f"a folder that SCGENEFORMER_DATA (`settings.data`) names, as {file.path}."
        )
        raise FileNotFoundError(msg)
    expected = None if sha256 is None else f"sha256:{sha256}"
    try:
        pooch.retrieve(file.url, expected, path.name, path.parent, progressbar=bool(settings.progress))
    except requests.RequestException as error:
        msg = (
            f"Could not download {file.url}: {error}. Without network, put the file into a folder that SCGENEFORMER_DATA (`settings.data`) names, as "
            f"{file.path}."
        )
        raise ConnectionError(msg) from error
    except ValueError as error:
        if first is None:
            raise
        msg = f"{error} The expected values were pinned on the first download: if you trust the new file, remove {pin_of(path)}."
        raise ValueError(msg) from error
    if sha256 is None:
        first_copy(path)
    return path


def find(path: str) -> Path | None:
    """The file at `path` in the folder `settings.data`, None if there is none."""
    local = None if settings.data is None else Path(settings.data).expanduser() / path
    return local if local is not None and local.is_file() else None


def cache(path: str) -> Path:
    """Place of a file in the cache."""
    return settings.cache_dir / "datasets" / path
