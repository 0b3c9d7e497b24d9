"""Public data by name: downloaded from a pinned address, verified by sha256, and cached.

Files are looked for in the folder ``settings.data`` (``SCGENEFORMER_DATA``) first, which may be copied to machines without network, and
then in ``settings.cache_dir``.
"""

from __future__ import annotations

from scgeneformer._gene_sets import read_gene_sets

from ._gene_classes import gene_classes

__all__ = ["gene_classes", "read_gene_sets"]
