"""Public data by name: downloaded from a pinned address, verified, converted, and cached.

Files are searched for in the folder ``settings.data`` (``SCGENEFORMER_DATA``), which can be copied to machines without network, and
then in ``settings.cache_dir``. This package contains no data.
"""

from __future__ import annotations

from scgeneformer._gene_sets import read_gene_sets

from ._blood import pbmc3k, pbmc5k_citeseq, pbmc_citeseq, pbmc_covid, pbmc_facs
from ._gene_classes import gene_classes
from ._kang import kang, kang_all, kang_types
from ._pairs import interactions, trrust
from ._tissues import cardiac, cell_lines, h1_esc, pancreas

__all__ = [
    "cardiac",
    "cell_lines",
    "gene_classes",
    "h1_esc",
    "interactions",
    "kang",
    "kang_all",
    "kang_types",
    "pancreas",
    "pbmc3k",
    "pbmc5k_citeseq",
    "pbmc_citeseq",
    "pbmc_covid",
    "pbmc_facs",
    "read_gene_sets",
    "trrust",
]
