"""Commands that print: models, data, results, the machine, and the demonstration."""

from __future__ import annotations

import io

import anndata as ad
import pandas as pd
import torch

import scgeneformer as sg
from scgeneformer import _demo


def test_models_lists_the_hub(run) -> None:
    ran = run("models", "--csv")
    table = pd.read_csv(io.StringIO(ran.out), index_col=0)
    assert (ran.status, ran.err) == (0, "")
    assert table.index.tolist() == sg.hub.available().index.tolist()
    assert "V2-104M" in run("models").out


def test_every_data_set_is_listed_and_can_be_fetched(run, refused, gene_lists) -> None:
    names = pd.read_csv(io.StringIO(run("datasets").out))["name"].tolist()
    assert "regulatory_range" in names
    ran = run("datasets", "regulatory_range", "--data", gene_lists)
    assert ran.err == ""
    classes = pd.read_csv(io.StringIO(ran.out)).groupby("source", sort=False)["target"].agg(list).to_dict()
    with sg.settings.override(data=str(gene_lists)):
        assert classes == sg.datasets.gene_classes("regulatory_range")
    assert run("datasets", "regulatory_range", "genes.csv", "--data", gene_lists).status == 0
    assert sg.datasets.read_gene_sets("genes.csv") == classes
    assert "There is no data set 'kong'" in refused("datasets", "kong")
    assert "not cached" in refused("datasets", "notch1_targets", "--offline", "--cache-dir", "empty")


def test_data_that_are_cells_are_written(run, refused, counts, monkeypatch) -> None:
    cells = ad.read_h5ad(counts)

    def few() -> ad.AnnData:
        """Few cells."""
        return cells

    monkeypatch.setattr(sg.datasets, "few", few, raising=False)
    monkeypatch.setattr(sg.datasets, "__all__", [*sg.datasets.__all__, "few"])
    assert "few,Few cells." in run("datasets").out
    assert run("datasets", "few", "few.h5ad").status == 0
    assert ad.read_h5ad("few.h5ad").shape == cells.shape
    assert "Name a file" in refused("datasets", "few")


def test_public_cells_and_pairs_can_be_fetched(run, refused, shared) -> None:
    names = pd.read_csv(io.StringIO(run("datasets").out))["name"].tolist()
    assert {"kang", "pbmc_facs", "cell_lines", "pbmc_citeseq", "trrust"} <= set(names)
    assert run("datasets", "kang", "kang.h5ad", "--data", shared / "data").status == 0
    assert ad.read_h5ad("kang.h5ad").obs["donor"].nunique() == 2
    ran = run("datasets", "trrust", "--data", shared / "data")
    assert pd.read_csv(io.StringIO(ran.out)).columns.tolist() == ["source", "target", "effect", "pmid"]
    assert "not cached" in refused("datasets", "kang_all", "all.h5ad", "--offline", "--cache-dir", "empty")


def test_doctor_says_what_is_used(run) -> None:
    ran = run("doctor", "--device", "cpu", "--precision", "bfloat16", "--jobs", "1")
    found = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert (ran.status, found["device"], found["precision"]) == (0, "cpu", "bfloat16")
    assert found["torch"] == torch.__version__
    assert found["threads"].startswith("1 (torch), 1 (numba)")
    assert "default" in found["models"]


def test_jobs_are_put_back(run) -> None:
    before = torch.get_num_threads()
    run("doctor", "--jobs", before + 1)
    assert torch.get_num_threads() == before


def test_demo_writes_what_it_says(run, make_model, tmp_path) -> None:
    """The complete demonstration with a tiny untrained model writes all files, and its table is that of the transfer."""
    cells = _demo.load_cells()
    cells.X = cells.X.expm1()
    model = make_model(tmp_path / "model", sg.Vocabulary.from_adata(cells, name="tiny", max_length=512))
    ran = run("demo", "--out", "demo", "--model", model, "--max-cells", "6")
    folder = tmp_path / "demo"
    names = {"pbmc68k_reduced.h5ad", "shift.png", "shifts.csv", "transfer.csv", "umap.png"}
    assert {p.name for p in folder.iterdir()} == names
    adata = ad.read_h5ad(folder / "pbmc68k_reduced.h5ad")
    assert {"geneformer_tokens", "X_geneformer", "X_pca", "X_umap_X_geneformer", "X_umap_X_pca"} <= set(adata.obsm)
    per_cell = adata.layers["shift"].getnnz(axis=1)
    assert adata.layers["shift"].nnz == adata.obs["n_tokens"][per_cell > 0].sum() - 2 * 6
    held_out = adata.obs["bulk_labels_transferred"].notna()
    assert held_out.sum() == adata.n_obs // 2
    table = pd.read_csv(folder / "transfer.csv", index_col=0)
    assert table.index.tolist() == ["most frequent label", *_demo.REPRESENTATIONS]
    assert table.loc["PCA (50 components)", "accuracy"] > 0.7
    assert table.loc["most frequent label", "accuracy"] < 0.45
    assert f"{table.loc['Geneformer', 'accuracy']:.3f}" in ran.out
    assert "FDR < 0.05" in ran.out
    assert "tokenizing 700 cells" in ran.err
