"""`tl.perturb`: which cells and genes, and which slots; values come from the engine and are tested there."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

GOAL = {"groupby": "state", "source": "sick", "target": "well", "others": ["odd"]}


def by_hand(adata, folder, cell, gene, states=None, pooling="cls"):
    """Value of one deletion, by the engine on one edited row."""
    pretrained = sg.hub.load(folder)
    row = adata.obsm["geneformer_tokens"][adata.obs_names.get_loc(cell)]
    token = adata.var["token_id"][gene]
    embed = lambda rows: sg.engine.embed(
        pretrained.encoder, np.asarray(rows), pooling=pooling, n_special=4
    ).cells.astype(float)
    before, after = embed([row])[0], embed([row[row != token]])[0]
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    if states is None:
        return cosine(before, after)
    center = embed(adata.obsm["geneformer_tokens"][(adata.obs["state"] == states).to_numpy()]).mean(0)
    return cosine(after, center) - cosine(before, center)


def layer_names(adata):
    return {name for name in adata.layers if name is not None}  # anndata 0.13 counts X among the layers, as None


def pairs_of(layer):
    coo = layer.tocoo()
    return set(zip(coo.row.tolist(), coo.col.tolist(), strict=True))


def test_every_expressed_gene_of_every_cell(tokenized, folder):
    assert sg.tl.perturb(tokenized, folder) is None
    layer = tokenized.layers["shift"]
    mapped = (tokenized.var["token_id"] >= 0).to_numpy()
    expressed = tokenized.X.toarray() > 0
    assert pairs_of(layer) == set(zip(*np.nonzero(expressed & mapped), strict=True))
    coo = layer.tocoo()
    for k in np.random.default_rng(0).choice(coo.nnz, 10, replace=False):
        cell, gene = tokenized.obs_names[coo.row[k]], tokenized.var_names[coo.col[k]]
        assert coo.data[k] == pytest.approx(by_hand(tokenized, folder, cell, gene), abs=1e-6)
    assert layer_names(tokenized) == {"shift"}


def test_towards_a_goal(tokenized, folder):
    sg.tl.perturb(tokenized, folder, untrained=False, **GOAL)
    assert layer_names(tokenized) == {"shift", "shift_sick", "shift_odd"}
    sick = (tokenized.obs["state"] == "sick").to_numpy()
    pairs = pairs_of(tokenized.layers["shift"])
    assert {cell for cell, _ in pairs} == set(np.flatnonzero(sick))
    assert all(pairs_of(tokenized.layers[name]) == pairs for name in layer_names(tokenized))
    cell, gene = sorted(pairs)[7]
    names = tokenized.obs_names[cell], tokenized.var_names[gene]
    for layer, state in [("shift", "well"), ("shift_sick", "sick"), ("shift_odd", "odd")]:
        expected = by_hand(tokenized, folder, *names, states=state)
        assert tokenized.layers[layer][cell, gene] == pytest.approx(expected, abs=1e-6)
    params = tokenized.uns["shift"]["params"]
    assert (params["source"], params["target"], list(params["others"])) == ("sick", "well", ["odd"])
    assert (params["n_cells"], params["n_pairs"]) == (sick.sum(), len(pairs))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_listed_genes_one_by_one_are_a_part_of_all(tokenized, folder, pooling):
    genes = ["SYM3", "ENSG00000000007.4", tokenized.var_names[11]]
    tokenized.var_names = tokenized.var["symbol"].to_list()[:11] + list(tokenized.var_names[11:])
    genes[2] = tokenized.var_names[11]
    sg.tl.perturb(tokenized, folder, pooling=pooling)
    everything = tokenized.layers["shift"].toarray()
    with_some = sg.tl.perturb(tokenized, folder, genes, pooling=pooling, copy=True)
    some = with_some.layers["shift"]
    assert set(some.tocoo().col.tolist()) == {3, 7, 11}
    np.testing.assert_allclose(some.toarray()[:, [3, 7, 11]], everything[:, [3, 7, 11]], atol=1e-6)


def test_a_single_gene_may_be_a_string(tokenized, folder):
    gene = tokenized.var_names[5]
    sg.tl.perturb(tokenized, folder, gene)
    assert set(tokenized.layers["shift"].tocoo().col.tolist()) == {5}


def test_genes_dropped_from_var_after_tokenizing_are_not_tested(tokenized, folder):
    few = tokenized[:, [2, 9]].copy()
    sg.tl.perturb(few, folder)
    sg.tl.perturb(tokenized, folder)
    np.testing.assert_allclose(few.layers["shift"].toarray(), tokenized.layers["shift"].toarray()[:, [2, 9]], atol=1e-6)


def test_max_cells_draws_by_rng(tokenized, folder):
    def drawn(seed):
        result = sg.tl.perturb(tokenized, folder, groupby="state", source="sick", max_cells=4, rng=seed, copy=True)
        return set(result.layers["shift"].tocoo().row.tolist())

    assert drawn(0) == drawn(0)
    assert len(drawn(0)) == 4
    assert drawn(0) != drawn(1)


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "h5mu"])
def test_round_trip_keeps_zeros_that_were_tested(tokenized, folder, tmp_path, ending):
    sg.tl.perturb(tokenized, folder, **GOAL)
    layer = tokenized.layers["shift"]
    layer.data[:3] = 0
    sg.tl.rank_shifts(tokenized, test="rank_sum", min_cells=1)
    sg.tl.embed(tokenized, folder)
    sg.tl.transfer(tokenized, tokenized.copy(), "state", key_added="guess")
    path = tmp_path / f"x.{ending}"
    if ending == "h5mu":
        md.MuData({"rna": tokenized}).write(path)
        again = md.read(path)["rna"]
    else:
        getattr(tokenized, f"write_{ending}")(path)
        again = getattr(ad, f"read_{ending}")(path)
    assert pairs_of(again.layers["shift"]) == pairs_of(layer)
    np.testing.assert_array_equal(again.layers["shift"].toarray(), layer.toarray())
    assert list(again.uns["shift"]["params"]["others"]) == ["odd"]
    pd.testing.assert_frame_equal(again.varm["shift"], tokenized.varm["shift"], check_index_type=False)
    pd.testing.assert_frame_equal(again.obsm["guess_proba"], tokenized.obsm["guess_proba"], check_index_type=False)
    assert again.obs["guess"].tolist() == tokenized.obs["guess"].tolist()
    assert len(sg.get.shifts(again)) == len(sg.get.shifts(tokenized))  # parameters that were read back are understood


def test_mudata(tokenized, folder):
    mdata = md.MuData({"gex": tokenized})
    sg.tl.perturb(mdata, folder, [tokenized.var_names[1]], mod="gex")
    assert mdata["gex"].layers["shift"].nnz


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "explode"}, ValueError, "kind='explode'"),
        ({"genes": ["GATA4"]}, ValueError, "not in vocabulary 'small': GATA4"),
        ({"genes": ["ENSG00000000029"]}, ValueError, "not in vocabulary 'small': ENSG00000000029"),
        ({"target": "well"}, ValueError, "need `groupby`"),
        ({"groupby": "state"}, ValueError, "`source`"),
        ({"groupby": "disease", "source": "sick"}, KeyError, r"'disease' in \.obs.*'state'"),
        ({"groupby": "state", "source": "dead", "target": "well"}, ValueError, "'dead'.*'odd', 'sick', 'well'"),
        ({"groupby": "state", "source": "sick", "target": "sick"}, ValueError, "twice"),
        ({"groupby": "state", "source": "sick", "others": ["odd"]}, ValueError, "`target`"),
    ],
)
def test_bad_input_is_named_and_nothing_written(tokenized, folder, options, error, words):
    with pytest.raises(error, match=words):
        sg.tl.perturb(tokenized, folder, **options)
    assert not layer_names(tokenized)
    assert "shift" not in tokenized.uns


def test_a_gene_that_no_cell_expresses_is_named(adata, folder):
    adata.X[:, 4] = 0
    adata.X.eliminate_zeros()
    sg.pp.tokenize(adata, folder)
    with pytest.raises(ValueError, match=f"tokens of no perturbed cell.*{adata.var_names[4]}"):
        sg.tl.perturb(adata, folder, [adata.var_names[4]])


def test_without_tokens(adata, folder):
    with pytest.raises(KeyError, match=r"sg\.pp\.tokenize"):
        sg.tl.perturb(adata, folder)


def test_tokens_of_two_vocabularies_side_by_side(tokenized, folder):
    expected = sg.tl.perturb(tokenized, folder, copy=True).layers["shift"].toarray()
    kept = tokenized.var["token_id"].to_numpy().copy()
    other = sg.Vocabulary.from_adata(tokenized[:, 5:].copy(), name="other", max_length=64)
    sg.pp.tokenize(tokenized, other, key_added="second")
    np.testing.assert_array_equal(tokenized.var["token_id"], kept)
    assert (tokenized.var["second_token_id"] >= 0).sum() == 25
    assert "second_n_tokens" in tokenized.obs
    sg.tl.perturb(tokenized, folder)
    np.testing.assert_allclose(tokenized.layers["shift"].toarray(), expected, atol=1e-6)
    sg.pp.tokenize(tokenized, folder, key_added="third")
    sg.tl.perturb(tokenized, folder, tokens_key="third", key_added="again")
    np.testing.assert_allclose(tokenized.layers["again"].toarray(), expected, atol=1e-6)


def test_a_new_run_takes_the_place_of_the_old(tokenized, folder):
    sg.tl.perturb(tokenized, folder, **GOAL)
    sg.tl.rank_shifts(tokenized)
    sg.tl.perturb(tokenized, folder, groupby="state", source="odd", target="well", max_cells=2)
    assert layer_names(tokenized) == {"shift", "shift_odd", "shift__untrained"}
    assert "shift" not in tokenized.varm
