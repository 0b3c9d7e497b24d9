"""Blood cells of 10x Genomics and of two CITE-seq studies, and of patients with COVID-19."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData, concat
from scipy import sparse

from . import _r_files
from ._cells import IDS, CellSource, counts_of_normalised, read
from ._fetch import DataFile

if TYPE_CHECKING:
    from pathlib import Path

_GITHUB = "https://raw.githubusercontent.com"


def _of_fasttopics(path: Path) -> AnnData:
    parts = _r_files.read_r(path)["pbmc_facs"]
    counts, cells, _ = _r_files.matrix(parts["counts"])
    obs, genes = parts["samples"], parts["genes"]
    obs.index = pd.Index(cells or obs["barcode"].astype(str))
    var = pd.DataFrame({IDS: genes["ensembl"].astype(str).to_numpy()}, index=genes["symbol"].astype(str).to_numpy())
    adata = AnnData(counts.tocsr(), obs=obs[["celltype", "subpop"]], var=var)
    adata.var_names_make_unique()
    return adata


def _of_clustifyr(matrix: Path, table: Path) -> AnnData:
    values, genes, cells = _r_files.matrix(_r_files.read_r(matrix)["pbmc_matrix"])
    counts = counts_of_normalised(values.T.tocsr().expm1())
    obs = _r_files.read_r(table)["pbmc_meta"].loc[cells, ["classified"]].rename(columns={"classified": "celltype"})
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))


def _of_citefuse(path: Path) -> AnnData:
    modalities = _r_files.read_r(path)["CITEseq_example"]
    counts, genes, cells = _r_files.matrix(modalities["RNA"])
    human = np.array([gene.startswith("hg19_") for gene in genes])
    names = [gene.removeprefix("hg19_") for gene in np.array(genes)[human]]
    adata = AnnData(counts[human].T.tocsr(), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=names))
    adata.var_names_make_unique()
    for key, name in {"protein_expression": "ADT", "hto_counts": "HTO"}.items():
        values, proteins, columns = _r_files.matrix(modalities[name])
        adata.obsm[key] = pd.DataFrame(values.T.toarray(), columns, proteins).loc[cells].astype(int)
    return adata


def _of_totalvi(path: Path) -> AnnData:
    adata = read(path)
    proteins = pd.DataFrame(adata.obsm["protein_expression"], adata.obs_names, list(adata.uns["protein_names"]))
    obsm = {"protein_expression": proteins.astype(int)}
    return AnnData(sparse.csr_matrix(adata.X), obs=adata.obs[[]], var=adata.var[[]], obsm=obsm)


def _of_workshop(*paths: Path) -> AnnData:
    import scanpy as sc

    donors = []
    for path in paths:
        adata = sc.read_10x_h5(path)
        state, number = path.stem.split("_PBMC_")
        healthy = state == "Normal"
        adata.obs["donor"] = f"{'normal' if healthy else 'covid'}_{number}"
        adata.obs["disease"] = "normal" if healthy else "severe COVID-19"
        adata.obs_names = adata.obs["donor"] + "_" + adata.obs_names.str.removesuffix("-1")
        adata.var = adata.var[["gene_ids"]].rename(columns={"gene_ids": IDS})
        adata.var_names_make_unique()
        donors.append(adata)
    return concat(donors, merge="first")


_PBMC_FACS = CellSource(
    "pbmc_facs_zheng/pbmc_facs_train.h5ad",
    (
        DataFile(
            "pbmc_facs_zheng/pbmc_facs.RData",
            f"{_GITHUB}/stephenslab/fastTopics/8406f5f4de379e7ff8b43ecfee93cca42a8e7a57/data/pbmc_facs.RData",
            None,
        ),
    ),
    _of_fasttopics,
    {"cell_type": "celltype", "group": "subpop"},
    3774,
    16791,
    7500459,
)
_PBMC3K = CellSource(
    "pbmc3k_clustifyr/pbmc3k.h5ad",
    (
        DataFile(
            "pbmc3k_clustifyr/pbmc_matrix.rda",
            f"{_GITHUB}/rnabioco/clustifyr/317bf51ef008cb198ec79dbef49dbc2afbd31886/data/pbmc_matrix.rda",
            None,
        ),
        DataFile(
            "pbmc3k_clustifyr/pbmc_meta.rda",
            "https://github.com/rnabioco/clustifyr/raw/0097813c1c36/data/pbmc_meta.rda",
            None,
        ),
    ),
    _of_clustifyr,
    {"cell_type": "celltype"},
    2638,
    13714,
    6254880,
)
_PBMC_CITESEQ = CellSource(
    "pbmc_eccite_citefuse/pbmc_eccite500.h5ad",
    (
        DataFile(
            "pbmc_eccite_citefuse/CITEseq_example.rda",
            f"{_GITHUB}/SydneyBioX/CiteFuse/b6075864d8930967946022fdfbbf57a6a120061f/data/CITEseq_example.rda",
            None,
        ),
    ),
    _of_citefuse,
    {},
    500,
    14919,
    1719951,
)
_PBMC5K_CITESEQ = CellSource(
    None,
    (
        DataFile(
            "pbmc5k_citeseq/pbmc_5k_protein_v3_all.h5ad",
            f"{_GITHUB}/YosefLab/totalVI_reproducibility/27d65a9c49182f39df0c4325249bc7dc8e663dd0/data/pbmc_5k_protein_v3.h5ad",
            "a1bf51e070d24b39627ea4de9b3e489a4637ff795e1061e0733e26c3baec8847",
        ),
    ),
    _of_totalvi,
    {},
    3994,
    16581,
)
_WORKSHOP = f"{_GITHUB}/NBISweden/workshop-scRNAseq"
_33D4, _D050 = "33d4f41acde87482a8ab868281c97e24ba687095", "d05045df5df82fcdec5dc648d8eca3a484f098b6"
_COVID = tuple(
    CellSource(
        f"covid_pbmc_gse149689/{name}.h5ad",
        tuple(
            DataFile(
                f"covid_pbmc_gse149689/{file}.h5",
                f"{_WORKSHOP}/{commit}/labs/data/covid_data_GSE149689/sub/{file}.h5",
                None,
            )
            for file, commit in donors.items()
        ),
        _of_workshop,
        {"disease": "disease", "donor": "donor"},
        3000,
        n_counts=n_counts,
    )
    for name, donors, n_counts in (
        ("fold1_normal5_covid16", {"Normal_PBMC_5": _33D4, "nCoV_PBMC_16": _33D4}, 13705320),
        ("fold2_normal14_covid15", {"Normal_PBMC_14": _33D4, "nCoV_PBMC_15": _33D4}, 15422390),
        ("fold3_covid1_covid17", {"nCoV_PBMC_1": _33D4, "nCoV_PBMC_17": _D050}, 15626247),
    )
)


def pbmc_facs() -> AnnData:
    """3,774 blood cells of antibody-sorted types (Zheng et al. 2017).

    Returns
    -------
    Raw counts of 16,791 genes in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``; in ``obs``, `cell_type` (10, as sorted) and `group` (5).

    Raises
    ------
    ConnectionError, FileNotFoundError, ImportError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: ``data/pbmc_facs.RData`` of https://github.com/stephenslab/fastTopics (BSD-2-Clause, MIT in its README) at commit 8406f5f4de37, sha256 unknown; the data are from 10x Genomics (CC BY 4.0).
    Cite Zheng et al. (2017), doi:10.1038/ncomms14049. See :func:`kang` for the locations of files and their verification.

    The bundled model was pretrained on cells of this study.

    Examples
    --------
    >>> adata = sg.datasets.pbmc_facs()
    >>> adata.obs["group"].value_counts().to_dict()
    {'T cell': 1484, 'B cell': 767, 'CD34+': 687, 'NK cell': 673, 'CD14+': 163}
    """
    return _PBMC_FACS.load()


def pbmc3k() -> AnnData:
    """2,638 blood cells of one donor, with cluster labels (10x PBMC 3k).

    Returns
    -------
    Counts of 13,714 genes, recovered from log-normalised values, in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; in
    ``obs``, `cell_type` (9, labels of clusters).

    Raises
    ------
    ConnectionError, FileNotFoundError, ImportError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: ``data/pbmc_matrix.rda`` and ``data/pbmc_meta.rda`` of https://github.com/rnabioco/clustifyr (MIT) at commits 317bf51ef008 and 0097813c1c36, sha256 unknown; the data are from 10x Genomics (CC BY 4.0), who
    ask for attribution. See :func:`kang` for the locations of files and their verification.

    Examples
    --------
    >>> adata = sg.datasets.pbmc3k()
    >>> adata.obs["cell_type"].nunique()
    9
    """
    return _PBMC3K.load()


def pbmc_citeseq() -> AnnData:
    """500 blood cells with RNA, 49 surface proteins and 4 hashtags (ECCITE-seq, Mimitou et al. 2019).

    Returns
    -------
    Raw counts of 14,919 genes in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; counts of proteins and hashtags in
    ``obsm["protein_expression"]`` and ``obsm["hto_counts"]`` (DataFrames). There are no labels.

    Raises
    ------
    ConnectionError, FileNotFoundError, ImportError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: ``data/CITEseq_example.rda`` of https://github.com/SydneyBioX/CiteFuse (GPL-3) at commit b6075864d893, sha256 unknown; the data are at GEO, GSE126310. Cite Mimitou et al. (2019), doi:10.1038/s41592-019-0392-0.
    See :func:`kang` for the locations of files and their verification.

    Examples
    --------
    >>> adata = sg.datasets.pbmc_citeseq()
    >>> adata.obsm["protein_expression"].shape
    (500, 49)
    """
    return _PBMC_CITESEQ.load()


def pbmc5k_citeseq() -> AnnData:
    """3,994 blood cells with RNA and 29 surface proteins (10x 5k PBMC, as in Gayoso et al. 2021).

    Returns
    -------
    Raw counts of 16,581 genes in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``, mapped from symbols; counts of proteins in
    ``obsm["protein_expression"]`` (a DataFrame). There are no labels.

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: ``data/pbmc_5k_protein_v3.h5ad`` of https://github.com/YosefLab/totalVI_reproducibility at commit 27d65a9c4918 (18 MB), verified by a sha256 that several public repositories
    report; the data are from 10x Genomics (CC BY 4.0). Cite Gayoso et al. (2021), doi:10.1038/s41592-020-01050-x. See :func:`kang` for the locations of files.

    Examples
    --------
    It is downloaded once, and read from the cache from then on:

    >>> adata = sg.datasets.pbmc5k_citeseq()  # doctest: +SKIP
    >>> adata.obsm["protein_expression"].shape  # doctest: +SKIP
    (3994, 29)
    """
    return _PBMC5K_CITESEQ.load()


def pbmc_covid() -> AnnData:
    """9,000 blood cells of four patients with severe COVID-19 and two healthy donors (Lee et al. 2020).

    Returns
    -------
    Raw counts of the 21,800 genes with a count in these cells, in ``X`` (CSR); Ensembl ids in ``var["ensembl_id"]``; in ``obs``, `disease`
    (``"normal"``, ``"severe COVID-19"``) and `donor` (6, 1,500 random cells each). There are no cell types. Red blood cells, platelets and
    low-quality cells are included.

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        See :func:`kang`.

    Notes
    -----
    Source: ``labs/data/covid_data_GSE149689/sub`` of https://github.com/NBISweden/workshop-scRNAseq (no licence stated) at commits 33d4f41acde8 and d05045df5df8, sha256 unknown; the data are at GEO, GSE149689.
    Cite Lee et al. (2020), doi:10.1126/sciimmunol.abd1554. See :func:`kang` for the locations of files and their verification.

    Each donor has one condition, so differences between donors also separate conditions: hold out whole donors.

    Examples
    --------
    >>> adata = sg.datasets.pbmc_covid()
    >>> adata.obs.groupby("disease", observed=True)["donor"].nunique().to_dict()
    {'normal': 2, 'severe COVID-19': 4}
    """
    adata = concat([source.load() for source in _COVID], merge="first")
    expressed = np.asarray(adata.X.sum(axis=0)).ravel() > 0
    adata = adata[:, expressed].copy()
    adata.obs = adata.obs.astype("category")
    return adata
