"""`tl.embed` puts what the engine computes where the slot law says."""

from __future__ import annotations

import json

import anndata as ad
import mudata as md
import numpy as np
import pytest

import scgeneformer as sg


def test_writes_the_engines_answer(tokenized, folder):
    before = tokenized.copy()
    assert sg.tl.embed(tokenized, folder, genes=True) is None
    pretrained = sg.hub.load(folder)
    tokens = tokenized.obsm["geneformer_tokens"]
    expected = sg.engine.embed(pretrained.encoder, tokens, pooling="cls", n_special=4, genes=True)
    np.testing.assert_array_equal(tokenized.obsm["X_geneformer"], expected.cells)
    assert tokenized.obsm["X_geneformer"].dtype == np.float32
    token_id = tokenized.var["token_id"].to_numpy()
    mapped = token_id >= 0
    assert mapped.sum() == 28
    np.testing.assert_array_equal(tokenized.varm["geneformer"][mapped], expected.genes[token_id[mapped]])
    assert np.isnan(tokenized.varm["geneformer"][~mapped]).all()
    params = tokenized.uns["geneformer"]["params"]
    assert params["weights_sha256"] == pretrained.sha256
    assert params["vocabulary_hash"] == pretrained.vocabulary.hash
    assert (params["pooling"], params["emb_layer"], params["version"]) == ("cls", -1, sg.__version__)
    assert (tokenized.X != before.X).nnz == 0
    assert list(tokenized.obs_names) == list(before.obs_names)


def test_order_of_cells_is_kept(tokenized, folder):
    sg.tl.embed(tokenized, folder)
    shuffled = tokenized[np.random.default_rng(0).permutation(tokenized.n_obs)].copy()
    expected = shuffled.obsm.pop("X_geneformer")
    sg.tl.embed(shuffled, folder)
    np.testing.assert_allclose(shuffled.obsm["X_geneformer"], expected, atol=1e-5)


def test_copy_and_names(tokenized, folder):
    copied = sg.tl.embed(tokenized, folder, key_added="mine", pooling="mean", emb_layer=0, copy=True)
    assert "X_mine" in copied.obsm
    assert "mine" in copied.uns
    assert "X_mine" not in tokenized.obsm
    assert "mine" not in tokenized.uns


def test_mudata_is_written_in_place_and_survives_a_file(tokenized, folder, tmp_path):
    mdata = md.MuData({"rna": tokenized, "other": ad.AnnData(np.ones((40, 2)), obs=tokenized.obs[[]])})
    sg.tl.embed(mdata, folder, genes=True)
    expected = mdata["rna"].obsm["X_geneformer"]
    mdata.write(tmp_path / "m.h5mu")
    again = md.read(tmp_path / "m.h5mu")["rna"]
    np.testing.assert_array_equal(again.obsm["X_geneformer"], expected)
    np.testing.assert_equal(dict(again.uns["geneformer"]["params"]), mdata["rna"].uns["geneformer"]["params"])
    with pytest.raises(KeyError, match="No modality 'gex'"):
        sg.tl.embed(mdata, folder, mod="gex")


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_round_trip(tokenized, folder, tmp_path, ending):
    sg.tl.embed(tokenized, folder, genes=True)
    path = tmp_path / f"x.{ending}"
    getattr(tokenized, f"write_{ending}")(path)
    again = getattr(ad, f"read_{ending}")(path)
    np.testing.assert_array_equal(again.obsm["X_geneformer"], tokenized.obsm["X_geneformer"])
    np.testing.assert_array_equal(again.varm["geneformer"], tokenized.varm["geneformer"])
    np.testing.assert_equal(dict(again.uns["geneformer"]["params"]), tokenized.uns["geneformer"]["params"])
    sg.tl.embed(again, folder)  # parameters that were read back are understood


def test_dask_in_dask_out(tokenized, folder):
    import dask.array as da

    sg.tl.embed(tokenized, folder, pooling="mean")
    expected = tokenized.obsm["X_geneformer"]
    tokenized.obsm["geneformer_tokens"] = da.from_array(tokenized.obsm["geneformer_tokens"], chunks=(7, -1))
    sg.tl.embed(tokenized, folder, pooling="mean")
    lazy = tokenized.obsm["X_geneformer"]
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype, lazy.chunks[0][0]) == (expected.shape, np.float32, 7)
    np.testing.assert_allclose(lazy.compute(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="tokens in memory"):
        sg.tl.embed(tokenized, folder, genes=True)


def test_a_cell_without_genes_is_nan_and_said(adata, folder):
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    with pytest.warns(UserWarning, match="cell"):
        sg.pp.tokenize(adata, folder)
    with pytest.warns(UserWarning, match="1 cells have no gene"):
        sg.tl.embed(adata, folder, pooling="mean")
    assert np.isnan(adata.obsm["X_geneformer"]).all(1).nonzero()[0].tolist() == [3]


def test_bad_input_names_slot_and_cure_and_writes_nothing(adata, folder, vocabulary):
    with pytest.raises(KeyError, match=r"No tokens in \.obsm.*geneformer_tokens.*sg\.pp\.tokenize"):
        sg.tl.embed(adata, folder)
    other = sg.Vocabulary.from_adata(adata[:, 3:20].copy(), name="another", max_length=64)
    sg.pp.tokenize(adata, other)
    with pytest.raises(ValueError, match=r"vocabulary 'another'.*vocabulary 'small'"):
        sg.tl.embed(adata, folder)
    sg.pp.tokenize(adata, folder)
    for wrong, words in [
        ({"pooling": "max"}, "pooling='max'"),
        ({"emb_layer": 5}, "emb_layer=5"),
    ]:
        with pytest.raises(ValueError, match=words):
            sg.tl.embed(adata, folder, **wrong)
    with pytest.raises((ValueError, RuntimeError), match="warp"), sg.settings.override(device="warp"):
        sg.tl.embed(adata, folder)
    assert "X_geneformer" not in adata.obsm
    assert "geneformer" not in adata.uns


def test_a_vocabulary_without_cls_pools_by_mean(adata, tmp_path):
    bare = sg.Vocabulary.from_adata(adata[:, :28].copy(), name="bare", max_length=64, special_tokens=False)
    shape = {"n_layers": 2, "width": 8, "n_heads": 2, "feed_forward": 8}
    encoder = sg.nn.Encoder(sg.nn.EncoderConfig(vocab_size=len(bare), max_length=64, **shape))
    sg.nn.save_checkpoint(tmp_path / "bare", encoder)
    bare.save(tmp_path / "bare" / "vocabulary.json")
    sg.pp.tokenize(adata, tmp_path / "bare")
    sg.tl.embed(adata, tmp_path / "bare")
    assert adata.uns["geneformer"]["params"]["pooling"] == "mean"
    with pytest.raises(ValueError, match="<cls>"):
        sg.tl.embed(adata, tmp_path / "bare", pooling="cls")


def test_the_models_own_readout_is_the_default(tokenized, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pooling": "mean", "emb_layer": 0}))
    sg.tl.embed(tokenized, folder)
    params = tokenized.uns["geneformer"]["params"]
    assert (params["pooling"], params["emb_layer"]) == ("mean", 0)
    expected = sg.tl.embed(tokenized, folder, pooling="mean", emb_layer=0, copy=True)
    np.testing.assert_array_equal(tokenized.obsm["X_geneformer"], expected.obsm["X_geneformer"])


def test_cells_read_lazily(adata, folder, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "cells.h5ad")
    for cells in (adata, lazy):
        sg.pp.tokenize(cells, folder)
        sg.tl.embed(cells, folder)
    result = lazy.to_memory()
    np.testing.assert_allclose(result.obsm["X_geneformer"], adata.obsm["X_geneformer"], atol=1e-5)
    np.testing.assert_equal(result.uns["geneformer"], adata.uns["geneformer"])


def test_progress_is_not_written_to_files(tokenized, folder, capsys):
    sg.tl.embed(tokenized, folder)
    assert "cells" not in capsys.readouterr().err
    with sg.settings.override(progress=True):
        sg.tl.embed(tokenized, folder)
    assert "40/40" in capsys.readouterr().err


def test_the_prefix_of_slots_is_not_doubled(tokenized, folder):
    sg.tl.embed(tokenized, folder, key_added="X_mine")
    other = sg.tl.embed(tokenized, folder, key_added="mine", copy=True)
    assert set(tokenized.obsm) == set(other.obsm) == {"geneformer_tokens", "X_mine"}
    assert "mine" in tokenized.uns
