"""Blood cells of Kang et al. (2018), with and without interferon beta, as three repositories have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from . import _r_files
from ._cells import IDS, CellSource, counts_of_normalised, read
from ._fetch import DataFile

if TYPE_CHECKING:
    from pathlib import Path

_CONDITIONS = {"ctrl": "control", "stim": "stimulated"}
_DONORS = ("101", "107", "1015", "1016", "1039", "1244", "1256", "1488")


def _of_muscat(path: Path) -> AnnData:
    sce = _r_files.read_r(path)["example_sce"]
    counts = _r_files.counts_of_experiment(sce)
    genes = _r_files.frame(vars(sce).get("rowRanges", sce).elementMetadata)
    cells = _r_files.frame(sce.colData)
    var = pd.DataFrame({IDS: genes["ENSEMBL"].astype(str).to_numpy()}, index=genes["SYMBOL"].astype(str).to_numpy())
    return AnnData(counts.T.tocsr(), obs=cells[["cluster_id", "sample_id", "group_id"]], var=var)


def _of_scgen(path: Path) -> AnnData:
    adata = read(path)
    values = sparse.csr_matrix(adata.X, dtype=np.float64).expm1()
    return AnnData(counts_of_normalised(values), obs=adata.obs[["condition", "cell_type"]], var=adata.var[[]])


def _of_pertpy(path: Path) -> AnnData:
    adata = read(path)
    return AnnData(adata.X, obs=adata.obs[["label", "cell_type", "replicate"]], var=adata.var[[]])


_KANG = CellSource(
    "kang_ifnb_muscat/kang_ifnb_muscat.h5ad",
    (
        DataFile(
            "kang_ifnb_muscat/example_sce.rda",
            "https://github.com/HelenaLC/muscat/raw/017b290b4142/data/example_sce.rda",
            None,
        ),
    ),
    _of_muscat,
    {"cell_type": "cluster_id", "condition": "group_id", "donor": "sample_id"},
    1556,
    1267,
    2338396,
    {
        "condition": _CONDITIONS,
        "donor": {f"{group}{donor}": donor for group in _CONDITIONS for donor in _DONORS[:2]},
    },
)
_KANG_TYPES = CellSource(
    "kang_ifnb_scgen/kang_ifnb_valid.h5ad",
    (
        DataFile(
            "kang_ifnb_scgen/valid.h5ad",
            "https://raw.githubusercontent.com/theislab/scgen/dd7e178f9b42b9dfef9eb18d0da4b8e3caea4cf7/data/valid.h5ad",
            None,
        ),
    ),
    _of_scgen,
    {"cell_type": "cell_type", "condition": "condition"},
    1975,
    6998,
    2156428,
)
_KANG_ALL = CellSource(
    None,
    (
        DataFile(
            "kang_2018/kang_2018.h5ad",
            "https://exampledata.scverse.org/pertpy/kang_2018.h5ad",
            "e6a5adac64dcdeb36eaba27db49b63e0c64bb0ed4a64c6705971506b41c39830",
        ),
    ),
    _of_pertpy,
    {"cell_type": "cell_type", "condition": "label", "donor": "replicate"},
    24673,
    15706,
    values={"condition": _CONDITIONS, "donor": {f"patient_{donor}": donor for donor in _DONORS}},
)


def kang() -> AnnData:
    """1,556 blood cells of two donors, with and without interferon beta (Kang et al. 2018).

    Returns
    -------
    Raw counts of 1,267 genes, those with more than one count in more than 50 cells, in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``; in
    ``obs``, `cell_type` (5), `condition` (``"control"``, ``"stimulated"``) and `donor` (``"101"``, ``"107"``).

    Raises
    ------
    ConnectionError, FileNotFoundError
        If the file is neither available locally nor can be downloaded.
    ImportError
        If the data are converted from an R file and rdata is not installed (``scgeneformer[datasets]``).
    ValueError
        If the file is not the expected one.

    Notes
    -----
    Cells are read from ``<name>.h5ad`` in the folder ``settings.data``, if it exists, else from the cache, else from the public file, which
    is converted once and cached in the same layout: a copy of ``datasets`` in the cache folder can be used as ``settings.data`` on a machine
    without network. Public files are verified by sha256 if it is known; otherwise the sha256 of the first download is pinned. Converted data are
    verified by their numbers of cells, genes and counts.

    Source: ``data/example_sce.rda`` of https://github.com/HelenaLC/muscat (GPL-3) at commit 017b290b4142, sha256 unknown; the data are at GEO,
    GSE96583. Cite Kang et al. (2018), doi:10.1038/nbt.4042.

    The donors are a subset of the donors of :func:`kang_all`, and :func:`kang_types` has cells of the same study.

    Examples
    --------
    >>> adata = sg.datasets.kang()
    >>> adata.obs.groupby(["donor", "condition"], observed=True).size().to_dict()
    {('101', 'control'): 454, ('101', 'stimulated'): 500, ('107', 'control'): 296, ('107', 'stimulated'): 306}
    """
    return _KANG.load()


def kang_types() -> AnnData:
    """1,975 blood cells of seven types, with and without interferon beta (Kang et al. 2018).

    Validation data of scGen.

    Returns
    -------
    Counts of 6,998 genes, recovered from log-normalised values, in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; in
    ``obs``, `cell_type` (7) and `condition` (``"control"``, ``"stimulated"``). Donors are not given.

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: ``data/valid.h5ad`` of https://github.com/theislab/scgen (GPL-3) at commit dd7e178f9b42, sha256 unknown. See :func:`kang` for the locations of files, verification and citation.

    Examples
    --------
    >>> adata = sg.datasets.kang_types()
    >>> adata.obs["condition"].value_counts().to_dict()
    {'stimulated': 1039, 'control': 936}
    """
    return _KANG_TYPES.load()


def kang_all() -> AnnData:
    """24,673 blood cells of eight donors, with and without interferon beta (Kang et al. 2018).

    Returns
    -------
    Raw counts of 15,706 genes in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; in ``obs``, `cell_type` (8), `condition`
    (``"control"``, ``"stimulated"``) and `donor` (8).

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: the file that pertpy and liana read, https://exampledata.scverse.org/pertpy/kang_2018.h5ad (38 MB), verified by a sha256 that several public
    repositories report. Its licence is not stated; the data are at GEO, GSE96583. Cite Kang et al. (2018), doi:10.1038/nbt.4042. See :func:`kang` for the locations of files.

    Examples
    --------
    It is downloaded once, and read from the cache from then on:

    >>> adata = sg.datasets.kang_all()  # doctest: +SKIP
    >>> adata.shape  # doctest: +SKIP
    (24673, 15706)
    """
    return _KANG_ALL.load()
