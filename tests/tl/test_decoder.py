"""Every function on a causal decoder: its result, or its refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scgeneformer as sg


@pytest.fixture
def adata(adata, llama_folder):
    sg.pp.tokenize(adata, llama_folder)
    return adata


@pytest.fixture
def model(llama_folder):
    return sg.hub.load(llama_folder)


def states(model, row, n_layers=None):
    """Hidden states of one cell, computed alone."""
    tokens = torch.from_numpy(row[row > 0].astype(np.int64))[None]
    with torch.inference_mode():
        return model.encoder(tokens, n_layers=n_layers)[0].double().numpy()


@pytest.mark.parametrize("emb_layer", [None, -1, -3])
@pytest.mark.parametrize("pooling", [None, "eos"])
def test_embeddings_are_means_of_genes_or_the_last_state(adata, model, pooling, emb_layer):
    sg.tl.embed(adata, pooling=pooling, emb_layer=emb_layer, genes=True)
    n_layers = 3 + (emb_layer or 0)
    for row, found in zip(adata.obsm["geneformer_tokens"], adata.obsm["X_geneformer"], strict=True):
        of_cell = states(model, row, n_layers)
        expected = of_cell[-1] if pooling == "eos" else of_cell[1:-1].mean(0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.isfinite(adata.varm["geneformer"][:28]).all()
    params = adata.uns["geneformer"]["params"]
    assert (params["pooling"], params["emb_layer"]) == (pooling or "mean", emb_layer or 0)


def test_the_first_token_of_a_decoder_and_the_last_of_an_encoder_are_refused(adata, folder, llama_folder):
    with pytest.raises(ValueError, match=r"pooling='cls' is not one of \('mean', 'eos'\)"):
        sg.tl.embed(adata, llama_folder, pooling="cls")
    with pytest.raises(ValueError, match=r"pooling='eos' is not one of \('mean', 'cls'\)"):
        sg.tl.embed(adata, folder, pooling="eos")


@pytest.mark.parametrize("pooling", ["mean", "eos"])
@pytest.mark.parametrize("kind", ["delete", "overexpress", "inhibit", "activate"])
def test_perturbations_compare_cells_before_and_after(adata, model, kind, pooling):
    from scgeneformer.engine.perturb._edits import edit

    sg.tl.perturb(
        adata, groupby="state", source="sick", target="well", kind=kind, pooling=pooling, max_cells=3, untrained=False
    )
    rows = adata.obsm["geneformer_tokens"]
    goal = adata.uns["shift"]["centroids"]["well"]
    shift = adata.layers["shift"].tocoo()
    token_id = adata.var["token_id"].to_numpy()

    def cosine(row):
        of_cell = states(model, row)
        vector = of_cell[-1] if pooling == "eos" else of_cell[1:-1].mean(0)
        return vector @ goal / np.linalg.norm(vector) / np.linalg.norm(goal)

    assert shift.nnz
    for cell, gene, found in list(zip(shift.row, shift.col, shift.data, strict=True))[::7]:
        row = rows[cell][rows[cell] > 0]
        tokens, target = torch.from_numpy(row.astype(np.int64))[None], torch.tensor([[int(token_id[gene])]])
        edited = edit(tokens, target, kind, n_special=4).tokens[0].numpy()
        assert found == pytest.approx(cosine(edited) - cosine(row), abs=2e-6)
    expressed = np.isin(token_id[shift.col], rows[shift.row]) if kind == "overexpress" else None
    if expressed is None:  # a gene that is not there changes nothing: no value is stored
        assert all(token_id[gene] in rows[cell] for cell, gene in zip(shift.row, shift.col, strict=True))


def test_a_deletion_leaves_the_states_above_it_as_they_are(adata, model):
    row = adata.obsm["geneformer_tokens"][0]
    row = row[row > 0].astype(np.int64)
    for at in (1, 5, len(row) - 2):
        edited = np.append(np.delete(row, at), 0)
        with torch.inference_mode():
            before, after = model.encoder(torch.from_numpy(np.stack([row, edited])))
        assert torch.equal(before[:at], after[:at])
        assert not torch.equal(before[at], after[at])


def test_parts_of_shifts_and_effects_on_genes(adata):
    sg.tl.perturb(adata, groupby="state", source="sick", target="well", decompose=True, effects=True, max_cells=3)
    parts = [adata.layers[f"shift__{part}"].toarray() for part in ("own", "network", "renumbering")]
    np.testing.assert_allclose(sum(parts), adata.layers["shift"].toarray(), atol=1e-7)
    assert adata.layers["shift__untrained"].nnz  # by exact runs, since a decoder has no estimates
    effects = adata.varp["shift"].tocoo()
    assert (effects.data <= 1 + 1e-6).all()
    assert (np.isclose(effects.data, 1, atol=1e-7)).any()  # genes above the deleted one, which do not see it
    sg.tl.rank_shifts(adata, donor=None)
    assert "effect" in adata.varm["shift"]


def test_sets_kept_positions_and_no_state(adata):
    sg.tl.perturb_sets(adata, sets={"both": ["SYM0", "SYM3"], "odd": ["SYM5"]}, groupby="state", target="well")
    assert np.isfinite(adata.obsm["shift_sets"].to_numpy()).any()
    sg.tl.perturb(adata, genes=["SYM0"], positions="kept", max_cells=4, key_added="kept")
    assert adata.layers["kept"].nnz


def test_networks_of_states_and_tokens(adata, model):
    options = {"genes": [f"SYM{i}" for i in range(6)], "min_cells": 3}
    for score in ("contextual", "token"):
        sg.tl.network(adata, score=score, key_added=score, **options)
        assert adata.varp[score].nnz
    vectors = model.encoder.token_vectors.detach().double().numpy()
    a, b = vectors[adata.var["token_id"].iloc[[0, 1]]]
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert adata.varp["token"][0, 1] == pytest.approx(expected, abs=1e-6)


def test_a_reference_and_its_query(adata):
    sg.tl.embed(adata)
    adata.obs["label"] = adata.obs["state"]
    reference = sg.Reference.from_adata(adata[:25].copy(), "label", n_neighbors=5)
    query = adata[25:].copy()
    sg.tl.transfer(query, reference, key_added="found")
    assert query.obs["found"].notna().all()


@pytest.mark.parametrize(
    ("call", "needs"),
    [
        (lambda a, m: sg.tl.screen(a, m, groupby="state", source="sick", target="well"), "estimates of perturbations"),
        (lambda a, m: sg.tl.network(a, m), "attention weights"),
        (lambda a, m: sg.tl.network(a, m, score="gradient"), "derivatives by genes"),
    ],
    ids=["screen", "attention", "gradient"],
)
def test_verbs_that_need_more_say_so_before_work(adata, llama_folder, call, needs):
    keys = set(adata.layers) | set(adata.varp) | set(adata.uns)
    with pytest.raises(
        ValueError, match=f"needs {needs}, but this model is a LLaMA decoder, which offers states, completion"
    ):
        call(adata, llama_folder)
    assert set(adata.layers) | set(adata.varp) | set(adata.uns) == keys


def test_pretraining_with_masked_genes_is_for_encoders(adata, llama_folder):
    with pytest.raises(TypeError, match="scores of the next gene.*not a model with a masked-gene head"):
        sg.model.Geneformer.from_pretrained(llama_folder)


def test_a_fine_tuned_decoder_annotates_and_perturbs(adata, llama_folder, check_fine_tuned):
    check_fine_tuned(adata, llama_folder, "embedding.weight", pooling="eos")


def test_options_that_a_decoder_does_not_have(adata, llama_folder):
    sg.model.CellClassifier.setup_anndata(adata, "state")
    for options, message in (
        ({"attention_dropout": 0.1}, "attention_dropout=0.1 has no meaning"),
        ({"lora": 4}, "lora=4 needs low-rank adapters"),
        ({"pooling": "cls"}, "pooling='cls' is not one of"),
    ):
        with pytest.raises(ValueError, match=message):
            sg.model.CellClassifier(adata, llama_folder, **options)
