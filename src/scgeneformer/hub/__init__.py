"""Models by name: download, verification and loading.

Files are downloaded from the official repositories on Hugging Face, or from the mirror in ``settings.mirror``, a URL or a folder with
the same files, and cached in ``settings.cache_dir``. Before a file is opened, its size and sha256 are compared with those pinned in
this package or, where these are unknown, with those of the first download; this is done once per process, and again if the file has changed.
Cached files need no network access, and ``settings.offline`` forbids it. Interrupted downloads are resumed. A cache folder can be copied to
another machine, or serve as its mirror.
"""

from __future__ import annotations

from ._available import available
from ._pretrained import Pretrained, load
from ._vocabularies import vocabulary

__all__ = ["Pretrained", "available", "load", "vocabulary"]
