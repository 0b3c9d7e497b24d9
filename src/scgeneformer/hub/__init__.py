"""Models by name: download, verification and loading.

Files are downloaded from the official repositories on Hugging Face, or from the mirror in ``settings.mirror``, a URL or a folder with
the same files, and cached in ``settings.cache_dir``. Before a file is opened, its size and sha256 are compared with those pinned in
this package, once in each process and again whenever it has changed; where none is known, with those of the first download. Cached files are used without network access, which
``settings.offline`` forbids altogether. Interrupted downloads are resumed. A cache folder can be copied to another machine, or serve as
its mirror.
"""

from __future__ import annotations

from ._available import available
from ._pretrained import Pretrained, load
from ._vocabularies import vocabulary

__all__ = ["Pretrained", "available", "load", "vocabulary"]
