"""Every function on an encoder of genes with values: its result, or its refusal."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import scgeneformer as sg

TOKENS, VALUES = "geneformer_tokens", "geneformer_tokens_values"
OFFERS = "this model is a CellFM encoder, which offers states, values of genes"


@pytest.fixture
def adata(adata, cellfm_folder):
    sg.pp.tokenize(adata, cellfm_folder)
    return adata


@pytest.fixture
def model(cellfm_folder):
    return sg.hub.load(cellfm_folder)


def states(model, row, value, n_layers=None):
    """Hidden states of one cell, computed alone."""
    tokens = torch.from_numpy(row[row > 0].astype(np.int64))[None]
    values = torch.from_numpy(value[row > 0].astype(np.float32))[None]
    with torch.inference_mode():
        return model.encoder(tokens, values=values, n_layers=n_layers)[0].double().numpy()


@pytest.mark.parametrize("emb_layer", [None, -1, -3])
@pytest.mark.parametrize("pooling", [None, "mean"])
def test_embeddings_are_the_first_state_or_means_of_genes(adata, model, pooling, emb_layer):
    sg.tl.embed(adata, pooling=pooling, emb_layer=emb_layer, genes=True)
    for row, value, found in zip(adata.obsm[TOKENS], adata.obsm[VALUES], adata.obsm["X_geneformer"], strict=True):
        of_cell = states(model, row, value, 3 + (emb_layer or 0))
        expected = of_cell[1:].mean(0) if pooling == "mean" else of_cell[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    assert np.isfinite(adata.varm["geneformer"][:28]).all()
    params = adata.uns["geneformer"]["params"]
    assert (params["pooling"], params["emb_layer"]) == (pooling or "cls", emb_layer or 0)


def test_dask_and_concatenated_tokens_give_the_same(adata, cellfm_folder):
    import dask.array as da

    sg.tl.embed(adata)
    lazy = adata.copy()
    for key in (TOKENS, VALUES):
        lazy.obsm[key] = da.from_array(adata.obsm[key], chunks=(16, 64))
    sg.tl.embed(lazy, key_added="lazy")
    np.testing.assert_allclose(lazy.obsm["X_lazy"].compute(), adata.obsm["X_geneformer"], atol=2e-6)
    joined = ad.concat([adata[:15], adata[15:]])
    sg.tl.embed(joined, cellfm_folder, key_added="joined")
    np.testing.assert_allclose(joined.obsm["X_joined"], adata.obsm["X_geneformer"], atol=2e-6)


def perturbed(row, value, gene, kind, factor):
    """Tokens and values of a cell after the perturbation of a gene, by hand."""
    at = row == gene
    if kind == "delete":
        return row[~at], value[~at]
    if kind == "scale":
        return row, np.where(at, np.log1p(np.expm1(value) * factor), value)
    genes = row >= 3
    if not at.any():
        return np.append(row, gene), np.append(value, value[genes].max())
    return row, np.where(at, value[genes].max(), value)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    ("kind", "factor"), [("delete", None), ("overexpress", None), ("scale", 0.5), ("scale", 3.0)], ids=str
)
def test_perturbations_compare_cells_before_and_after(adata, model, kind, factor, pooling):
    options = {"groupby": "state", "source": "sick", "target": "well", "max_cells": 3, "untrained": False}
    genes = ["SYM0", "SYM3", "SYM11"] if kind == "overexpress" else None
    sg.tl.perturb(adata, genes=genes, kind=kind, factor=factor, pooling=pooling, n_reference=0, **options)
    goal = adata.uns["shift"]["centroids"]["well"]
    token_id, shift = adata.var["token_id"].to_numpy(), adata.layers["shift"].tocoo()

    def cosine(row, value):
        of_cell = states(model, row, value)
        vector = of_cell[0] if pooling == "cls" else of_cell[1:].mean(0)
        return vector @ goal / np.linalg.norm(vector) / np.linalg.norm(goal)

    assert shift.nnz
    for cell, gene, found in list(zip(shift.row, shift.col, shift.data, strict=True))[::4]:
        row = adata.obsm[TOKENS][cell]
        row, value = row[row > 0], adata.obsm[VALUES][cell][row > 0].astype(float)
        after = perturbed(row, value, token_id[gene], kind, factor)
        assert found == pytest.approx(cosine(*after) - cosine(row, value), abs=3e-6)
    assert adata.uns["shift"]["params"].get("factor") == factor


def test_a_factor_of_one_changes_nothing_and_a_factor_is_that_of_counts(adata):
    options = {"genes": ["SYM0", "SYM3"], "kind": "scale", "n_reference": 0, "pooling": "cls"}
    sg.tl.perturb(adata, **options, factor=1.0)
    np.testing.assert_allclose(adata.layers["shift"].data, 1, atol=1e-6)
    sg.tl.perturb(adata, **options, factor=0.25)
    sg.tl.embed(adata)
    for gene in ("SYM0", "SYM3"):
        column = adata.var_names[adata.var["symbol"] == gene][0]
        at = adata.obsm[TOKENS] == adata.var.loc[column, "token_id"]
        scaled = adata.copy()
        scaled.obsm[VALUES] = np.where(at, np.log1p(np.expm1(adata.obsm[VALUES]) * 0.25), adata.obsm[VALUES])
        sg.tl.embed(scaled)
        before, after = (data.obsm["X_geneformer"][at.any(1)] for data in (adata, scaled))
        expected = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
        found = adata[at.any(1), column].layers["shift"].toarray().ravel()
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_cells_at_the_length_limit_make_room_for_a_gene(adata, model, cellfm_folder):
    sg.pp.tokenize(adata, cellfm_folder, max_length=8)
    short = sg.hub.Pretrained(
        "short",
        sg.Vocabulary("values", model.vocabulary.ids, model.vocabulary.medians, 64, values=True),
        model=sg.nn.CellFM(sg.nn.CellFMConfig(vocab_size=31, n_layers=1, width=16, n_heads=4, n_bins=8, max_length=8)),
    )
    absent = next(
        i for i, token in enumerate(adata.var["token_id"]) if token >= 0 and token not in adata.obsm[TOKENS][0]
    )
    sg.tl.perturb(
        adata,
        short,
        genes=[adata.var_names[absent]],
        kind="overexpress",
        cells=[adata.obs_names[0]],
        pooling="cls",
        n_reference=0,
    )
    row, value = adata.obsm[TOKENS][0][:8], adata.obsm[VALUES][0][:8]
    token = adata.var["token_id"].iloc[absent]
    before = states(short, row[:7], value[:7])[0]
    after = states(short, np.append(row[:7], token), np.append(value[:7], value[1]))[0]
    expected = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert adata.layers["shift"][0, absent] == pytest.approx(expected, abs=2e-6)


def test_parts_effects_sets_rankings_and_the_untrained_encoder(adata):
    states_of = {"groupby": "state", "source": "sick", "target": "well", "max_cells": 3}
    sg.tl.perturb(adata, pooling="mean", decompose=True, effects=True, **states_of)
    parts = {part: adata.layers[f"shift__{part}"].toarray() for part in ("own", "network", "renumbering")}
    np.testing.assert_allclose(sum(parts.values()), adata.layers["shift"].toarray(), atol=1e-7)
    assert not parts["renumbering"].any()  # genes with values have no order
    assert adata.layers["shift__untrained"].nnz
    assert (adata.varp["shift"].data <= 1 + 1e-6).all()
    sg.tl.rank_shifts(adata, donor=None)
    assert "effect" in adata.varm["shift"]
    sets = {"both": ["SYM0", "SYM3"], "odd": ["SYM5"]}
    sg.tl.perturb_sets(adata, sets=sets, kind="scale", factor=0.5, groupby="state", target="well", n_random=2)
    assert np.isfinite(adata.obsm["shift_sets"].to_numpy()).any()


def test_runs_with_another_factor_do_not_resume(adata, tmp_path):
    options = {"genes": ["SYM0"], "kind": "scale", "checkpoint": tmp_path / "run", "n_reference": 0}
    sg.tl.perturb(adata, factor=0.5, **options)
    before = adata.layers["shift"].copy()
    sg.tl.perturb(adata, factor=0.5, **options)
    assert (adata.layers["shift"] != before).nnz == 0
    with pytest.raises(ValueError, match="factor"):
        sg.tl.perturb(adata, factor=2.0, **options)


def test_networks_of_states_tokens_and_effects(adata):
    options = {"genes": [f"SYM{i}" for i in range(6)], "min_cells": 3}
    for score in ("contextual", "token"):
        sg.tl.network(adata, score=score, key_added=score, **options)
        assert adata.varp[score].nnz
    sg.tl.perturb(adata, effects=True, max_cells=20)
    sg.tl.network(adata, score="effects", key_added="effects", **options)
    assert adata.varp["effects"].nnz


def test_a_reference_scores_of_states_and_integration(adata):
    sg.tl.embed(adata)
    adata.obs["label"] = adata.obs["state"]
    reference = sg.Reference.from_adata(adata[:25].copy(), "label", n_neighbors=5)
    query = adata[25:].copy()
    sg.tl.transfer(query, reference, key_added="found")
    assert query.obs["found"].notna().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: sg.tl.screen(a, groupby="state", source="sick", target="well"), "needs estimates of perturbations"),
        (lambda a: sg.tl.network(a), "needs attention weights"),
        (lambda a: sg.tl.network(a, score="gradient"), "needs derivatives by genes"),
        (lambda a: sg.tl.perturb(a, kind="inhibit"), r"perturb\(kind='inhibit'\) needs ranks of genes"),
        (lambda a: sg.tl.perturb(a, positions="kept"), r"perturb\(positions='kept'\) needs ranks of genes"),
        (lambda a: sg.tl.perturb(a, compat="official"), r"perturb\(compat='official'\) needs ranks of genes"),
    ],
    ids=["screen", "attention", "gradient", "inhibit", "kept", "official"],
)
def test_verbs_that_need_more_say_so_before_work(adata, call, message):
    keys = set(adata.layers) | set(adata.varp) | set(adata.uns)
    with pytest.raises(ValueError, match=f"{message}, but {OFFERS}"):
        call(adata)
    assert set(adata.layers) | set(adata.varp) | set(adata.uns) == keys


def test_what_needs_values_is_refused_by_models_of_ranks(adata, folder, llama_folder):
    for other in (folder, llama_folder):
        sg.pp.tokenize(adata, other, key_added="ranks")
        with pytest.raises(ValueError, match=r"kind='scale'\) needs values of genes, but this model is a (BERT|LLaMA)"):
            sg.tl.perturb(adata, other, ["SYM0"], kind="scale", factor=0.5, tokens_key="ranks")
        with pytest.raises(ValueError, match="were made with vocabulary 'small', but model 'cellfm'"):
            sg.tl.embed(adata, folder.parent / "cellfm", tokens_key="ranks")


@pytest.mark.parametrize("options", [{"kind": "scale"}, {"factor": 0.5}, {"kind": "delete", "factor": 2.0}])
def test_a_factor_and_the_kind_that_takes_it_go_together(adata, options):
    with pytest.raises(ValueError, match="Pass both, or neither"):
        sg.tl.perturb(adata, ["SYM0"], **options)
    with pytest.raises(ValueError, match="above 0"):
        sg.tl.perturb(adata, genes=["SYM0"], kind="scale", factor=0.0)


def test_likelihoods_completion_and_pretraining_are_for_others(adata, cellfm_folder):
    with pytest.raises(TypeError, match="CellFM"):
        sg.tl.likelihood(adata, cellfm_folder)
    with pytest.raises(ValueError, match=f"needs completion of cells, but {OFFERS}"):
        sg.tl.complete(adata, cellfm_folder, n_genes=3)
    with pytest.raises(TypeError, match="CellFM encoder.*not a model with a masked-gene head"):
        sg.model.Geneformer.from_pretrained(cellfm_folder)


def test_options_of_training_that_it_does_not_have(adata, cellfm_folder):
    sg.model.CellClassifier.setup_anndata(adata, "state")
    for options, message in (
        ({"attention_dropout": 0.1}, "attention_dropout=0.1 has no meaning"),
        ({"lora": 4}, "lora=4 needs low-rank adapters"),
        ({"pooling": "eos"}, "pooling='eos' is not one of"),
    ):
        with pytest.raises(ValueError, match=message):
            sg.model.CellClassifier(adata, cellfm_folder, **options)


def test_a_fine_tuned_model_annotates_and_perturbs(adata, cellfm_folder, check_fine_tuned):
    check_fine_tuned(adata, cellfm_folder, "embedding.gene.weight")
