"""Cells, tokens and models of every kind give what an AnnData in memory and a folder give."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

from .test_perturb_oracle import GOAL, Hand, cosine


def dense(adata, layer="shift"):
    """Values, NaN where nothing was tested."""
    coo = adata.layers[layer].tocoo()
    out = np.full(adata.shape, np.nan)
    out[coo.row, coo.col] = coo.data
    return out


def same(found, expected, atol=1e-6):
    for layer in set(expected.layers) - {None}:
        np.testing.assert_allclose(dense(found, layer), dense(expected, layer), rtol=0, atol=atol)


@pytest.fixture
def expected(tokenized, folder):
    return sg.tl.perturb(tokenized, folder, **GOAL, copy=True)


def test_copy_leaves_the_original(tokenized, folder):
    before = tokenized.copy()
    copied = sg.tl.perturb(tokenized, folder, copy=True, key_added="mine", max_cells=3)
    assert set(copied.layers) - {None} == {"mine"}
    assert "mine" in copied.uns
    assert set(tokenized.layers) - {None} == set()
    assert set(tokenized.uns) == set(before.uns)


def test_two_keys_side_by_side(tokenized, folder, expected):
    sg.tl.perturb(tokenized, folder, key_added="mine", **GOAL)
    sg.tl.perturb(tokenized, folder, key_added="other", kind="overexpress", max_cells=2)
    assert set(tokenized.layers) - {None} == {"mine", "mine_sick", "mine_odd", "mine__untrained", "other"}
    np.testing.assert_array_equal(dense(tokenized, "mine"), dense(expected))
    sg.tl.perturb(tokenized, folder, key_added="mine", max_cells=2)
    assert set(tokenized.layers) - {None} == {"mine", "other"}


def test_a_view_is_made_its_own(tokenized, folder, expected):
    view = tokenized[5:]
    positions = {state: expected.uns["shift"]["centroids"][state] for state in ("well", "sick", "odd")}
    sg.tl.perturb(view, folder, centroids=positions, **GOAL)
    np.testing.assert_allclose(dense(view), dense(expected)[5:], rtol=0, atol=1e-6)
    assert "shift" not in tokenized.layers


def test_mudata_in_place_and_copied(tokenized, folder, expected):
    mdata = md.MuData({"gex": tokenized, "adt": ad.AnnData(np.ones((40, 2)), obs=tokenized.obs[[]])})
    copied = sg.tl.perturb(mdata, folder, mod="gex", copy=True, **GOAL)
    assert isinstance(copied, md.MuData)
    same(copied["gex"], expected)
    assert "shift" not in mdata["gex"].layers
    assert sg.tl.perturb(mdata, folder, mod="gex", **GOAL) is None
    same(mdata["gex"], expected)


def test_dask_tokens(tokenized, folder, expected):
    import dask.array as da

    tokenized.obsm["geneformer_tokens"] = da.from_array(tokenized.obsm["geneformer_tokens"], chunks=(7, -1))
    sg.tl.perturb(tokenized, folder, **GOAL)
    same(tokenized, expected)
    assert isinstance(tokenized.obsm["geneformer_tokens"], da.Array)


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy tokens", "tokens in the file"])
def test_backed(adata, folder, tmp_path, lazy):
    path = tmp_path / "a.h5ad"
    if not lazy:
        sg.pp.tokenize(adata, folder)
    adata.write_h5ad(path)
    sg.pp.tokenize(adata, folder)
    sg.tl.perturb(adata, folder, **GOAL)
    backed = ad.read_h5ad(path, backed="r")
    if lazy:
        sg.pp.tokenize(backed, folder)
    sg.tl.perturb(backed, folder, **GOAL)
    same(backed, adata)
    backed.file.close()


def test_models_of_every_kind(tokenized, folder, tmp_path, expected):
    import torch

    pretrained = sg.hub.load(folder)
    classifier = sg.nn.CellClassifier(pretrained.encoder.config, 3)
    classifier.encoder.load_state_dict(pretrained.encoder.state_dict())
    sg.nn.save_checkpoint(tmp_path / "fine", classifier)
    pretrained.vocabulary.save(tmp_path / "fine" / "vocabulary.json")
    masked = sg.nn.MaskedGeneModel(pretrained.encoder.config)
    masked.encoder.load_state_dict(pretrained.encoder.state_dict())
    in_memory = sg.hub.Pretrained("mine", pretrained.vocabulary, model=masked)
    masked.train()
    for model in (str(folder), pretrained, tmp_path / "fine", in_memory):
        found = sg.tl.perturb(tokenized, model, **GOAL, copy=True)
        same(found, expected)
        params = found.uns["shift"]["params"]
        assert params["weights_sha256"] == sg.hub.load(model).sha256
    assert masked.training  # left as it was
    assert all(p.grad is None for p in masked.parameters())
    with torch.no_grad():
        masked.encoder.embedding.gene.weight.add_(0.3 * torch.randn(len(pretrained.vocabulary), 16))
    changed = sg.tl.perturb(tokenized, in_memory, **GOAL, copy=True)
    assert np.nanmax(np.abs(dense(changed) - dense(expected))) > 1e-4


def test_a_trained_model(tokenized, vocabulary):
    from scgeneformer.model import Geneformer

    sg.pp.tokenize(tokenized, vocabulary)
    Geneformer.setup_anndata(tokenized)
    model = Geneformer(tokenized, vocabulary=vocabulary, n_layers=2, width=16, n_heads=2, feed_forward=32)
    sg.tl.perturb(tokenized, model, max_cells=3)
    hand = Hand(tokenized, model, "cls")
    coo = tokenized.layers["shift"].tocoo()
    for k in range(0, coo.nnz, 11):
        token = int(tokenized.var["token_id"].iloc[coo.col[k]])
        assert coo.data[k] == pytest.approx(hand.value(hand.rows[coo.row[k]], [token], "delete"), abs=2e-6)


@pytest.mark.parametrize("kind", ["delete", "overexpress", "inhibit", "activate"])
def test_a_vocabulary_without_special_tokens(adata, tmp_path, kind):
    import torch

    torch.manual_seed(0)
    vocabulary = sg.Vocabulary.from_adata(adata[:, :28].copy(), name="bare", max_length=64, special_tokens=False)
    config = sg.nn.EncoderConfig(len(vocabulary), n_layers=3, width=16, n_heads=2, feed_forward=24, max_length=64)
    sg.nn.save_checkpoint(tmp_path / "bare", sg.nn.Encoder(config))
    vocabulary.save(tmp_path / "bare" / "vocabulary.json")
    sg.pp.tokenize(adata, tmp_path / "bare")
    hand = Hand(adata, tmp_path / "bare", "mean", n_special=vocabulary.n_special)
    rows = np.flatnonzero(hand.states == "sick")[:2]
    for goal in ({}, GOAL):
        sg.tl.perturb(adata, tmp_path / "bare", kind=kind, cells=hand.names[rows], **goal)
        position = hand.position("well") if goal else None
        coo = adata.layers["shift"].tocoo()
        assert set(coo.row) == set(rows)
        assert coo.nnz == sum(len(hand.rows[i]) - (kind == "overexpress") for i in rows)
        for k in range(0, coo.nnz, 5):
            token = int(adata.var["token_id"].iloc[coo.col[k]])
            by_hand = hand.value(hand.rows[coo.row[k]], [token], kind, goal=position)
            assert coo.data[k] == pytest.approx(by_hand, abs=2e-6)
    assert adata.uns["shift"]["params"]["pooling"] == "mean"


def test_a_recorded_classifier(shared, official):
    """A checkpoint of a fine-tuned classifier in the format of the official tool, with the official vocabulary."""
    vocabulary = official("V2")
    rng = np.random.default_rng(0)
    at = np.sort(rng.choice(np.arange(4, len(vocabulary)), 30, replace=False))
    adata = ad.AnnData(rng.poisson(1.5, (5, 30)).astype(np.float32))
    adata.var_names = vocabulary.ids[at]
    adata.obs["state"] = list("aabbb")
    model = sg.hub.load(shared / "conformance" / "models" / "v2-tiny-cellcls", vocabulary=vocabulary)
    sg.pp.tokenize(adata, vocabulary)
    sg.tl.perturb(adata, model, groupby="state", source="b", target="a")
    hand = Hand(adata, model, "cls")
    position = hand.position("a")
    coo = adata.layers["shift"].tocoo()
    assert set(coo.row) == {2, 3, 4}
    for k in range(0, coo.nnz, 9):
        token = int(adata.var["token_id"].iloc[coo.col[k]])
        by_hand = hand.value(hand.rows[coo.row[k]], [token], "delete", goal=position)
        assert coo.data[k] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("positions", ["median", "given", "few"])
def test_positions_of_states(tokenized, folder, positions):
    hand = Hand(tokenized, folder, "cls")
    rng = np.random.default_rng(5)
    given = {"well": rng.normal(size=16).astype(np.float32), "sick": rng.normal(size=16).tolist(), "odd": np.ones(16)}
    options = {
        "median": {"centroids": "median"},
        "given": {"centroids": given},
        "few": {"max_state_cells": 4, "rng": 3},
    }[positions]
    sg.tl.perturb(tokenized, folder, cells=hand.names[hand.states == "sick"][:2], **options, **GOAL)
    states = tokenized.uns["shift"]["centroids"]
    assert list(states) == ["well", "sick", "odd"]
    for state, found in states.items():
        assert found.dtype == np.float64
        if positions == "given":
            np.testing.assert_array_equal(found, np.asarray(given[state], dtype=np.float64))
        elif positions == "median":
            np.testing.assert_allclose(found, hand.position(state, np.median), rtol=0, atol=2e-6)
        else:
            assert np.abs(found - hand.position(state)).max() > 1e-3
    coo = tokenized.layers["shift_odd"].tocoo()
    for k in range(0, coo.nnz, 13):
        token = int(tokenized.var["token_id"].iloc[coo.col[k]])
        by_hand = hand.value(hand.rows[coo.row[k]], [token], "delete", goal=states["odd"])
        assert coo.data[k] == pytest.approx(by_hand, abs=2e-6)


def test_cells_drawn_for_states_are_drawn_by_rng(tokenized, folder):
    draw = lambda seed: sg.tl.perturb(tokenized, folder, ["SYM1"], max_state_cells=3, rng=seed, copy=True, **GOAL).uns[
        "shift"
    ]["centroids"]["well"]
    np.testing.assert_array_equal(draw(1), draw(1))
    np.testing.assert_array_equal(draw(1), draw(np.random.default_rng(1)))
    assert np.abs(draw(1) - draw(2)).max() > 1e-3


@pytest.mark.parametrize("form", ["query", "mask", "names"])
def test_cells(tokenized, folder, form, expected):
    tokenized.obs["n"] = np.arange(40)
    asked = {"query": "n < 20", "mask": np.arange(40) < 20, "names": list(tokenized.obs_names[:20])}[form]
    sg.tl.perturb(tokenized, folder, cells=asked, **GOAL)
    values = dense(expected)
    values[20:] = np.nan
    np.testing.assert_allclose(dense(tokenized), values, rtol=0, atol=1e-6)  # states are placed by all their cells
    assert (
        tokenized.uns["shift"]["params"]["n_cells"] == ((np.arange(40) < 20) & (tokenized.obs["state"] == "sick")).sum()
    )


def test_missing_genes_are_left_out_on_request(tokenized, folder):
    names = tokenized.var_names
    with pytest.warns(UserWarning, match="Left out of `genes`.*GATA4"):
        sg.tl.perturb(tokenized, folder, ["GATA4", names[3]], missing="ignore", max_cells=3)
    assert set(tokenized.layers["shift"].tocoo().col) == {3}
    with pytest.warns(UserWarning, match=r"sets\['a'\].*GATA4"):
        sg.tl.perturb_sets(tokenized, folder, {"a": ["GATA4", names[3]]}, missing="ignore", max_cells=3)
    one = sg.tl.perturb_sets(tokenized, folder, {"a": [names[3]]}, max_cells=3, copy=True)
    np.testing.assert_array_equal(tokenized.obsm["shift_sets"], one.obsm["shift_sets"])


def test_one_other_state_may_be_a_string(tokenized, folder, expected):
    sg.tl.perturb(tokenized, folder, **(GOAL | {"others": "odd"}))
    same(tokenized, expected)
    assert list(tokenized.uns["shift"]["params"]["others"]) == ["odd"]


@pytest.mark.parametrize("foreign", [3, "mine", np.arange(3), {"params": "mine"}], ids=str)
def test_foreign_entries_of_uns_are_refused(tokenized, folder, foreign):
    tokenized.uns["shift"] = foreign
    with pytest.raises(ValueError, match=r"\.uns\['shift'\] is not a result of scgeneformer"):
        sg.tl.perturb(tokenized, folder, ["SYM1"], max_cells=2)
    assert tokenized.uns["shift"] is foreign


def test_cells_without_genes(tokenized, folder):
    tokenized.obsm["geneformer_tokens"][:5] = 0
    tokenized.obsm["geneformer_tokens"][5, 2:] = [3, *[0] * 61]  # one gene between <cls> and <eos>
    tokenized.obs["n_tokens"] = (tokenized.obsm["geneformer_tokens"] != 0).sum(axis=1)
    sg.tl.perturb(tokenized, folder, effects=True)
    assert set(tokenized.layers["shift"].tocoo().row) == set(range(6, 40))
    sg.tl.perturb(tokenized, folder, "vocabulary", kind="overexpress", max_cells=None)
    assert set(tokenized.layers["shift"].tocoo().row) == set(range(5, 40))
    sg.tl.perturb(tokenized, folder, cells=tokenized.obs_names[:3])
    assert tokenized.layers["shift"].nnz == 0


def test_order_and_batches_do_not_matter(tokenized, folder, expected):
    rng = np.random.default_rng(0)
    mixed = tokenized[rng.permutation(40)][:, rng.permutation(30)].copy()
    with sg.settings.override(token_budget=50):
        sg.tl.perturb(mixed, folder, **GOAL)
    back = mixed[tokenized.obs_names, tokenized.var_names]
    same(back, expected, atol=2e-6)


def test_the_pooling_decides_what_is_compared(tokenized, folder):
    for pooling in ("mean", "cls"):
        sg.tl.perturb(tokenized, folder, ["SYM3"], pooling=pooling, emb_layer=0, key_added=pooling, max_cells=5)
    hand = Hand(tokenized, folder, "cls", emb_layer=0)
    token = int(tokenized.var["token_id"].iloc[3])
    coo = tokenized.layers["cls"].tocoo()
    for i, value in zip(coo.row, coo.data, strict=True):
        before, after = hand.cell(hand.rows[i]), hand.cell(hand.edit(hand.rows[i], [token], "delete"))
        assert value == pytest.approx(cosine(before, after), abs=2e-6)
    assert np.abs(tokenized.layers["mean"].data - coo.data).max() > 1e-4


def test_a_set_as_large_as_the_model_is_refused(adata):
    vocabulary = sg.Vocabulary.from_adata(adata[:, :28].copy(), name="short", max_length=16, special_tokens=True)
    config = sg.nn.EncoderConfig(
        vocab_size=len(vocabulary), n_layers=1, width=8, n_heads=1, feed_forward=8, max_length=16
    )
    model = sg.hub.Pretrained("short", vocabulary, model=sg.nn.Encoder(config))
    sg.pp.tokenize(adata, vocabulary)
    genes = [f"SYM{i}" for i in range(14)]
    sg.tl.perturb_sets(adata, model, {"most": genes[:13]}, kind="overexpress")
    with pytest.raises(ValueError, match=r"\['all'\].*ranks \(14\)"):
        sg.tl.perturb_sets(adata, model, {"all": genes}, kind="overexpress")


def test_sets_of_a_table_and_of_a_file_are_those_of_a_mapping(tokenized, folder, tmp_path):
    sets = {"a": ["SYM1", "SYM2"], "b": ["SYM5"]}
    table = pd.Series(sets).explode().rename_axis("source").rename("target").reset_index()
    (tmp_path / "sets.gmt").write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in sets.items()))
    by_name, *others = (
        sg.tl.perturb_sets(tokenized, folder, form, n_random=0, max_cells=6, copy=True).obsm["shift_sets"]
        for form in (sets, table, tmp_path / "sets.gmt", str(tmp_path / "sets.gmt"))
    )
    for other in others:
        pd.testing.assert_frame_equal(by_name, other)
    with pytest.raises(KeyError, match="`sets` has no column 'source'"):
        sg.tl.perturb_sets(tokenized, folder, table.rename(columns={"source": "set"}))
