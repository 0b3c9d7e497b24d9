from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from unittest.mock import Mock

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scgeneformer as sg
from scgeneformer import _demo, hub
from scgeneformer.cli import main
from scgeneformer.nn import EncoderConfig, MaskedGeneModel, save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(0.7, (24, 40)).astype(np.float32)),
        obs=pd.DataFrame({"state": np.tile(["a", "b", "c"], 8)}, index=[f"cell{i}" for i in range(24)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(40)]),
    )
    path = tmp_path_factory.mktemp("cli") / "counts.h5ad"
    adata.write_h5ad(path)
    return path


def save_model(folder: Path, vocabulary: sg.Vocabulary) -> Path:
    """A tiny untrained model with its vocabulary, in the layout that `hub.load` reads."""
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=len(vocabulary), n_layers=2, width=16, n_heads=2, feed_forward=32, max_length=vocabulary.max_length
    )
    save_checkpoint(folder, MaskedGeneModel(config))
    vocabulary.save(folder / "vocabulary.json")
    return folder


@pytest.fixture(scope="module")
def model(counts: Path, tmp_path_factory) -> Path:
    vocabulary = sg.Vocabulary.from_adata(ad.read_h5ad(counts), name="tiny", max_length=64)
    return save_model(tmp_path_factory.mktemp("model"), vocabulary)


def test_tokenize_then_embed_then_perturb(counts: Path, model: Path, tmp_path: Path, capsys) -> None:
    tokens, embedded, perturbed = (tmp_path / f"{name}.h5ad" for name in ("tokens", "embedded", "perturbed"))
    assert main(["tokenize", str(counts), str(tokens), "--model", str(model)]) == 0
    assert main(["embed", str(tokens), str(embedded), "--model", str(model), "--emb-layer", "0", "--genes"]) == 0
    states = ["--groupby", "state", "--source", "a", "--target", "b", "--others", "c"]
    table = tmp_path / "shifts.csv"
    options = [*states, "--max-cells", "5", "--min-cells", "2", "--table", str(table)]
    assert main(["perturb", str(tokens), str(perturbed), "--model", str(model), *options]) == 0
    assert f"wrote {perturbed}" in capsys.readouterr().out

    ours = ad.read_h5ad(counts)
    sg.pp.tokenize(ours, model)
    np.testing.assert_array_equal(ad.read_h5ad(tokens).obsm["geneformer_tokens"], ours.obsm["geneformer_tokens"])
    sg.tl.embed(ours, model, emb_layer=0, genes=True)
    written = ad.read_h5ad(embedded)
    np.testing.assert_array_equal(written.obsm["X_geneformer"], ours.obsm["X_geneformer"])
    np.testing.assert_array_equal(written.varm["geneformer"], ours.varm["geneformer"])
    sg.tl.perturb(ours, model, groupby="state", source="a", target="b", others=["c"], max_cells=5)
    sg.tl.rank_shifts(ours, min_cells=2)
    pd.testing.assert_frame_equal(ad.read_h5ad(perturbed).varm["shift"], ours.varm["shift"])
    pd.testing.assert_frame_equal(pd.read_csv(table), sg.get.shifts(ours))


def test_embed_tokenizes_where_needed_and_reads_zarr(counts: Path, model: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "x.zarr"
    ad.read_h5ad(counts).write_zarr(path)
    assert main(["embed", str(path), str(tmp_path / "y.zarr"), "--model", str(model)]) == 0
    assert "tokenizing first" in capsys.readouterr().out
    ours = ad.read_h5ad(counts)
    sg.pp.tokenize(ours, model)
    sg.tl.embed(ours, model)
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "y.zarr").obsm["X_geneformer"], ours.obsm["X_geneformer"])


def test_mudata_stays_mudata(counts: Path, model: Path, tmp_path: Path) -> None:
    import mudata

    path = tmp_path / "x.h5mu"
    mudata.MuData({"gex": ad.read_h5ad(counts)}).write(path)
    output = tmp_path / "y.h5mu"
    assert main(["tokenize", str(path), str(output), "--model", str(model), "--mod", "gex"]) == 0
    assert "geneformer_tokens" in mudata.read_h5mu(output)["gex"].obsm


def test_models_lists_the_hub(capsys) -> None:
    import io

    assert main(["models", "--csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), index_col=0)
    assert table.index.tolist() == hub.available().index.tolist()
    assert main(["models"]) == 0
    assert "V2-104M" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["tokenize", "missing.h5ad", "out.h5ad"], "There is no missing.h5ad"),
        (["tokenize", "{counts}", "out.csv"], "does not end in one of"),
        (["tokenize", "{counts}", "out.h5mu"], "must both be .h5mu"),
        (["perturb", "{counts}", "out.h5ad", "--model", "{model}"], "sg.pp.tokenize"),
    ],
)
def test_errors_are_one_line(
    counts: Path, model: Path, arguments: list[str], match: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [a.format(counts=counts, model=model) for a in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.startswith("scgeneformer: error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [FloatingPointError("not\nfinite"), ImportError("no peft"), MemoryError()])
def test_errors_beyond_wrong_arguments_are_one_line(error, monkeypatch, capsys) -> None:
    monkeypatch.setattr(hub, "available", Mock(side_effect=error))
    assert main(["models"]) == 2
    told = " ".join(str(error).split()) or "MemoryError"
    assert capsys.readouterr().err == f"scgeneformer: error: {told}\n"


def test_a_defect_keeps_its_traceback(monkeypatch) -> None:
    monkeypatch.setattr(hub, "available", Mock(side_effect=RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match="a defect"):
        main(["models"])


def test_help_needs_neither_torch_nor_scanpy() -> None:
    code = "import sys; from scgeneformer.cli import main\ntry: main(['--help'])\nexcept SystemExit as e: print(e.code)\nprint({'torch', 'scanpy', 'scvi'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-2:] == ["0", "set()"]


def test_demo_writes_what_it_says(tmp_path: Path, capsys) -> None:
    """The whole demonstration with a tiny untrained model: everything is written, and the table is the transfer's."""
    vocabulary = sg.Vocabulary.from_adata(as_counts(_demo.load_cells()), name="tiny", max_length=512)
    model = save_model(tmp_path / "model", vocabulary)
    folder = tmp_path / "demo"
    assert main(["demo", "--out", str(folder), "--model", str(model), "--max-cells", "6"]) == 0
    assert {p.name for p in folder.iterdir()} == {
        "pbmc68k_reduced.h5ad",
        "shift.png",
        "shifts.csv",
        "transfer.csv",
        "umap.png",
    }
    adata = ad.read_h5ad(folder / "pbmc68k_reduced.h5ad")
    assert {"geneformer_tokens", "X_geneformer", "X_pca", "X_umap_X_geneformer", "X_umap_X_pca"} <= set(adata.obsm)
    assert adata.layers["shift"].nnz == adata.obs["n_tokens"][np.diff(adata.layers["shift"].indptr) > 0].sum() - 2 * 6
    held_out = adata.obs["bulk_labels_transferred"].notna()
    assert held_out.sum() == adata.n_obs // 2
    table = pd.read_csv(folder / "transfer.csv", index_col=0)
    assert table.index.tolist() == ["most frequent label", *_demo.REPRESENTATIONS]
    assert table.loc["PCA (50 components)", "accuracy"] > 0.7
    assert table.loc["most frequent label", "accuracy"] < 0.45
    text = capsys.readouterr().out
    assert f"{table.loc['Geneformer', 'accuracy']:.3f}" in text
    assert "FDR < 0.05" in text


def as_counts(adata: ad.AnnData) -> ad.AnnData:
    adata.X = adata.X.expm1()
    return adata
