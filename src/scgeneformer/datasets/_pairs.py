"""Public lists of pairs of genes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import _r_files
from ._fetch import DataFile, fetch, find

_GENES = ["source", "target"]
_COPY = "reference_tables/cellchat_ppi_human.csv.gz"
_N_INTERACTIONS = 13851
_TRRUST = DataFile(
    "reference_tables/trrust_rawdata.human.tsv",
    "https://raw.githubusercontent.com/exsmiley/GeneNet/4d418ad9c8508412f545d31f223beec19f5005eb/data/trrust_rawdata.human.tsv",
    "6ca6ce2f91accb06559d81cc172393ff86a804cb3a28f8546bcc346e25bf7011",
)
_PPI = DataFile(
    "reference_tables/PPI.human.rda",
    "https://raw.githubusercontent.com/sqjin/CellChat/263d35d885cbbdcdf4adc849f2801694d6f294ca/data/PPI.human.rda",
    None,
)


def trrust() -> pd.DataFrame:
    """9,398 relations between human transcription factors and their targets (TRRUST v2, Han et al. 2018).

    Returns
    -------
    One row per relation, with symbols: `source` (the factor), `target`, `effect` (``"Activation"``, ``"Repression"`` or ``"Unknown"``) and `pmid`.

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`scgeneformer.datasets.kang`.

    Notes
    -----
    TRRUST (https://www.grnpedia.org/trrust) is licensed CC BY-SA 4.0. Its table is read from a copy in https://github.com/exsmiley/GeneNet at commit 4d418ad9c850, which states no licence, and verified by sha256.
    Cite Han et al. (2018), doi:10.1093/nar/gkx1013. See :func:`scgeneformer.datasets.kang` for the locations of files.

    Examples
    --------
    >>> sg.datasets.trrust()["effect"].value_counts().to_dict()
    {'Unknown': 4325, 'Activation': 3150, 'Repression': 1923}
    """
    table = pd.read_csv(fetch(_TRRUST), sep="\t", dtype=str)
    return table.set_axis([*_GENES, "effect", "pmid"], axis=1)


def interactions() -> pd.DataFrame:
    """13,851 interactions between human proteins, as listed in CellChat (Jin et al. 2021).

    Returns
    -------
    One row per pair of symbols, `source` and `target`, with genes and pairs in alphabetical order: an interaction has no direction.

    Raises
    ------
    ConnectionError, FileNotFoundError, ImportError, ValueError
        See :func:`scgeneformer.datasets.kang`.

    Notes
    -----
    Source: ``data/PPI.human.rda`` of https://github.com/sqjin/CellChat (GPL-3) at commit 263d35d885cb, sha256 unknown. Cite Jin et al. (2021), doi:10.1038/s41467-021-21246-9. See :func:`scgeneformer.datasets.kang` for the
    locations of files and their verification.

    Examples
    --------
    >>> pairs = sg.datasets.interactions()
    >>> pairs.columns.tolist(), len(pairs)
    (['source', 'target'], 13851)
    """
    copy = find(_COPY)
    if copy is not None:
        pairs = pd.read_csv(copy)[["a", "b"]].astype(str).to_numpy()
    else:
        links, genes, _ = _r_files.matrix(_r_files.read_r(fetch(_PPI))["PPI.human"])
        pairs = np.array(genes)[np.column_stack(links.nonzero())]
    table = pd.DataFrame(np.sort(pairs, axis=1), columns=_GENES)
    table = table[table["source"] != table["target"]].drop_duplicates().sort_values(_GENES, ignore_index=True)
    if len(table) != _N_INTERACTIONS:
        msg = f"{copy or _PPI.url} has {len(table):,} interactions, where {_N_INTERACTIONS:,} are expected. Replace or remove it."
        raise ValueError(msg)
    return table
