"""Tables of embeddings: read, and written again bit for bit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg


@pytest.mark.parametrize("name", ["v1-tiny_cell_L-1_sub100", "v2-tiny_cls_L-1_sub100"])
def test_recorded_embeddings(shared, tmp_path, name):
    recorded = np.load(shared / f"conformance/embeddings/{name}.npz")
    values = recorded["embedding"]
    table = pd.DataFrame(values).assign(barcode=recorded["cell"], batch="a")  # columns as EmbExtractor writes them
    table.to_csv(tmp_path / "e.csv")
    read = sg.read_official(tmp_path / "e.csv", obs_names="barcode")
    np.testing.assert_array_equal(read.obsm["X_geneformer"], values)
    assert read.obs_names.tolist() == recorded["cell"].tolist()
    assert list(read.obs) == ["batch"]
    sg.export_official(read, tmp_path / "again.csv", kind="embeddings")
    again = sg.read_official(tmp_path / "again.csv")
    np.testing.assert_array_equal(again.obsm["X_geneformer"], values)
    pd.testing.assert_frame_equal(again.obs, read.obs)
    assert sg.read_official(tmp_path / "e.csv").obs_names[:2].tolist() == ["0", "1"]


def test_embeddings_of_genes(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    table = pd.DataFrame(values, index=["<cls>", "ENSG00000000001", "ENSG00000000002", "<eos>"])
    table.to_csv(tmp_path / "g.csv")
    read = sg.read_official(tmp_path / "g.csv")
    assert read.var_names.tolist() == ["ENSG00000000001", "ENSG00000000002"]
    np.testing.assert_array_equal(read.varm["geneformer"], values[1:3])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (",a,b\n0,1,2\n", "not a table of embeddings"),
        (",1,2\n0,1,2\n", "not a table of embeddings"),
        (",0,1\n", "not a table of embeddings"),
        (",0,1\n0,x,2\n", "must hold numbers"),
        (",0,1\nENSG1,1,2\nENSG1,1,2\n", "has a gene twice"),
        (",0,obs_names\n0,1,a\n1,2,a\n", "does not name cells"),
        ("", "damaged"),
    ],
)
def test_wrong_tables_are_refused_by_the_path(tmp_path, content, error):
    path = tmp_path / "e.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=error) as raised:
        sg.read_official(path)
    assert str(path) in str(raised.value)


def test_missing_embeddings_and_clashing_columns(cells, tmp_path):
    with pytest.raises(KeyError, match="No representation"):
        sg.export_official(cells, tmp_path / "e.csv", kind="embeddings")
    cells.obsm["X_own"] = np.ones((30, 2))
    cells.obs["1"] = 0
    with pytest.raises(ValueError, match="name of a column of embeddings"):
        sg.export_official(cells, tmp_path / "e.csv", kind="embeddings", key="X_own")
    assert list(tmp_path.iterdir()) == []
    pd.DataFrame({"0": [1.0]}).to_csv(tmp_path / "e.csv")
    with pytest.raises(KeyError, match="no column 'x'"):
        sg.read_official(tmp_path / "e.csv", obs_names="x")
