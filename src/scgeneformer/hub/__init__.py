"""Models by name: where their files are, and how they get here unaltered.

Files come from the official repository on Hugging Face, or from the mirror in ``settings.mirror``, a URL or a folder with the
same file tree, and stay in ``settings.cache_dir``. Each is compared with a size and a sha256 that are part of this package
before it is opened, wherever it came from, and hashed again whenever its size or time of modification has changed since.
What is cached is used without any network; ``settings.offline`` forbids it altogether. An interrupted download goes on where
it stopped. A cache folder can be copied to another machine, or serve as its mirror.
"""

from __future__ import annotations

from ._available import available
from ._pretrained import Pretrained, load
from ._vocabularies import vocabulary

__all__ = ["Pretrained", "available", "load", "vocabulary"]
