from __future__ import annotations

import dask.array as da
import mudata
import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from scgeneformer import _keys, engine, hub, nn
from scgeneformer.model import Geneformer

KEY = "geneformer_tokens"


def test_latent_representation_is_the_engines_embedding(model, cells):
    direct = engine.embed(model.encoder, cells.obsm[KEY], pooling="cls", n_special=4, device="cpu").cells
    np.testing.assert_array_equal(model.get_latent_representation(device="cpu"), direct)
    some = model.get_latent_representation(indices=[7, 3], pooling="mean", emb_layer=0)
    direct = engine.embed(model.encoder, cells.obsm[KEY], pooling="mean", n_special=4, emb_layer=0).cells
    np.testing.assert_allclose(some, direct[[7, 3]], atol=1e-6)
    mask = np.arange(120) % 2 == 0
    np.testing.assert_allclose(
        model.get_latent_representation(indices=mask, pooling="mean", emb_layer=0), direct[mask], atol=1e-6
    )


def test_gene_embedding_is_the_mean_over_cells(model, cells, vocabulary):
    rows = cells.obsm[KEY][:15].astype(np.int64)
    states = {}
    with torch.no_grad():
        for row in rows:
            tokens = torch.from_numpy(row[row != 0])[None]
            hidden = model.module.eval().network.encoder(tokens, n_layers=1)[0].numpy()
            for token, state in zip(tokens[0].tolist(), hidden, strict=True):
                states.setdefault(token, []).append(state)
    found = model.get_gene_embedding(indices=np.arange(15))
    genes = sorted(token for token in states if token >= 4)
    assert found.index.tolist() == vocabulary.ids[genes].tolist()
    np.testing.assert_allclose(found, [np.mean(states[token], axis=0) for token in genes], atol=1e-5)
    table = model.get_gene_embedding(contextual=False)
    assert table.index.tolist() == vocabulary.ids[4:].tolist()
    np.testing.assert_array_equal(table, model.encoder.embedding.gene.weight[4:].detach())


def test_saved_model_needs_nothing_else(model, toy, vocabulary, quick, tmp_path):
    model.train(1, **quick)
    model.save(tmp_path / "saved")
    alone = Geneformer.load(tmp_path / "saved")
    assert alone.vocabulary == vocabulary
    assert alone.vocabulary.aliases == vocabulary.aliases
    assert alone.history.keys() == model.history.keys()
    assert alone.is_trained_
    np.testing.assert_array_equal(alone.get_var_names(), vocabulary.ids)
    expected = model.get_latent_representation()
    with pytest.raises(ValueError, match="no data"):
        alone.get_latent_representation()
    wide = toy[1](120, vocabulary, width=128)  # the same cells in a wider matrix
    np.testing.assert_allclose(alone.get_latent_representation(wide), expected, atol=1e-6)
    with_data = Geneformer.load(tmp_path / "saved", toy[1](120, vocabulary))
    np.testing.assert_allclose(with_data.get_latent_representation(), expected, atol=1e-6)
    with_data.train(1, **quick)
    assert len(with_data.history["validation_loss"]) == 2


def test_data_saved_with_the_model(model, cells, tmp_path):
    model.save(tmp_path / "saved", save_anndata=True)
    again = Geneformer.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.adata.obsm[KEY], cells.obsm[KEY])


def test_every_size_survives_saving(cells, vocabulary, tmp_path):
    sizes = {"n_layers": 1, "width": 24, "n_heads": 3, "feed_forward": 20, "max_length": 70, "dropout": 0.3}
    sizes |= {"attention_dropout": 0.2, "activation": "gelu", "layer_norm_eps": 1e-6, "initializer_range": 0.1}
    Geneformer.setup_anndata(cells)
    model = Geneformer(cells, vocabulary=vocabulary, **sizes)
    model.save(tmp_path / "saved")
    config = Geneformer.load(tmp_path / "saved").encoder.config
    assert {name: getattr(config, name) for name in sizes} == sizes
    assert Geneformer.from_pretrained(model).encoder.config == config == model.encoder.config


def test_tokens_of_another_vocabulary_are_refused(model, toy, vocabulary, tmp_path):
    make_vocabulary, make_cells = toy
    foreign = make_cells(10, make_vocabulary("foreign", 41))
    with pytest.raises(ValueError, match=r"'foreign'.*'toy'.*sg.pp.tokenize"):
        model.get_latent_representation(foreign)
    model.save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"'foreign'.*'toy'"):
        Geneformer.load(tmp_path / "saved", foreign)
    Geneformer.setup_anndata(foreign)
    with pytest.raises(ValueError, match=r"'foreign'.*'toy'"):
        Geneformer(foreign, vocabulary=vocabulary)
    with pytest.raises(ValueError, match="Pass it as `vocabulary=`"):
        Geneformer(foreign)


def test_setup_names_slot_and_cure(cells):
    bare = cells.copy()
    del bare.uns[KEY]
    with pytest.raises(KeyError, match="sg.pp.tokenize"):
        Geneformer.setup_anndata(bare)
    with pytest.raises(KeyError, match=r"\.obsm\['other'\]"):
        Geneformer.setup_anndata(cells, tokens_key="other")
    cells.obsm[KEY] = cells.obsm[KEY].astype(float)
    with pytest.raises(TypeError, match="integers"):
        Geneformer.setup_anndata(cells)


def test_pooling_cls_needs_the_token(toy):
    make_vocabulary, _ = toy
    model = Geneformer(vocabulary=make_vocabulary(special=2), n_layers=1, width=8, n_heads=1)
    with pytest.raises(ValueError, match="has no|does not have"):
        model.get_latent_representation(pooling="cls")


def test_mudata(model, cells, vocabulary, quick, tmp_path):
    expected = model.get_latent_representation()
    mdata = mudata.MuData({"rna": cells.copy(), "adt": cells[:, :0].copy()})
    del mdata["adt"].obsm[KEY]
    Geneformer.setup_mudata(mdata)
    paired = Geneformer(mdata, vocabulary=vocabulary, n_layers=2, width=16, n_heads=2, feed_forward=32)
    paired.module.load_state_dict(model.module.state_dict())
    np.testing.assert_allclose(paired.get_latent_representation(), expected, atol=1e-6)
    paired.train(1, **quick)
    paired.save(tmp_path / "saved")
    again = Geneformer.load(tmp_path / "saved")
    np.testing.assert_allclose(again.get_latent_representation(mdata), paired.get_latent_representation(), atol=1e-6)
    with pytest.raises(
        KeyError, match=r"No modality 'nowhere' .* which has \['rna', 'adt'\]. .* modalities={'tokens_key'"
    ):
        Geneformer.setup_mudata(mdata, modalities={"tokens_key": "nowhere"})
    with pytest.raises(TypeError, match="setup_anndata got MuData. Use setup_mudata"):
        Geneformer.setup_anndata(mdata)
    with pytest.raises(TypeError, match="setup_mudata got AnnData. Use setup_anndata"):
        Geneformer.setup_mudata(cells)


def test_lazy_tokens(model, cells, vocabulary, quick):
    expected = model.get_latent_representation()
    lazy = cells.copy()
    lazy.obsm[KEY] = da.from_array(cells.obsm[KEY], chunks=(50, -1))
    np.testing.assert_allclose(model.get_latent_representation(lazy), expected, atol=1e-6)
    Geneformer.setup_anndata(lazy)
    other = Geneformer(lazy, vocabulary=vocabulary, n_layers=1, width=8, n_heads=1)
    other.train(1, **quick)
    assert np.isfinite(other.history["train_loss"].iloc[-1].item())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3)])
def test_transformers_loads_what_is_exported(model, cells, tmp_path, dtype, tolerance):
    model.export(tmp_path, dtype=dtype)
    theirs = BertForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.from_numpy(cells.obsm[KEY][:5].astype(np.int64))
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=(tokens != 0).long()).logits
        found = model.module.eval().network(tokens, tokens != 0)
    kept = tokens != 0
    torch.testing.assert_close(found[kept], expected[kept], atol=tolerance, rtol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocabulary.json.gz",
    ]


def test_continued_pretraining_from_a_folder(model, cells, vocabulary, quick, tmp_path):
    model.train(5, learning_rate=1e-2, **quick)
    model.export(tmp_path)
    fresh = Geneformer.from_pretrained(tmp_path, cells)
    assert fresh.vocabulary == vocabulary
    np.testing.assert_array_equal(fresh.get_latent_representation(), model.get_latent_representation())
    fresh.train(1, learning_rate=0.0, **quick)  # the head came along: the loss is where it was
    last = model.history["validation_loss"].iloc[-1].item()
    assert fresh.history["validation_loss"].iloc[0].item() == pytest.approx(last, abs=1e-5)
    before = model.encoder.embedding.gene.weight.detach().clone()
    fresh.train(1, learning_rate=1e-2, **quick)
    assert torch.equal(before, model.encoder.embedding.gene.weight)


def test_hub_takes_a_trained_model(model, vocabulary, tmp_path):
    pretrained = hub.load(model)
    assert pretrained.encoder is model.encoder
    assert pretrained.vocabulary == hub.vocabulary(model) == vocabulary
    nn.save_checkpoint(tmp_path / "bare", model.encoder)
    model.vocabulary.save(tmp_path / "bare" / "vocabulary.json")
    with pytest.raises(TypeError, match="an encoder without a head"):
        Geneformer.from_pretrained(tmp_path / "bare")


def test_published_vocabulary_is_found_by_name(cells, toy, monkeypatch):
    own = toy[0]("V1")
    monkeypatch.setattr(hub, "vocabulary", {"V1": own}.__getitem__)
    cells.uns[KEY]["params"] |= {"vocabulary": "V1", "vocabulary_hash": own.hash}
    Geneformer.setup_anndata(cells)
    assert Geneformer(cells, n_layers=1, width=8, n_heads=1).vocabulary == own


def test_refuses_what_cannot_be_built(tmp_path, model):
    with pytest.raises(ValueError, match="vocabulary"):
        Geneformer()
    with pytest.raises(ValueError, match="float8"):
        model.export(tmp_path / "x", dtype="float8")
    assert not (tmp_path / "x").exists()
    assert _keys.TOKENS == KEY


def test_subset_of_cells(model, cells):
    part = cells[10:20].copy()
    np.testing.assert_allclose(
        model.get_latent_representation(part), model.get_latent_representation()[10:20], atol=1e-6
    )
