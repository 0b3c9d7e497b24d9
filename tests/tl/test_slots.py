"""No function replaces what it has not written: slots of the user and of other runs are refused before anything is computed."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scgeneformer as sg
from scgeneformer import hub

PLACES = ("obs", "var", "obsm", "varm", "varp", "layers", "uns")
QUICK = {
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
GOAL = {"groupby": "state", "source": "sick", "target": "well", "others": ["odd"], "max_cells": 2}
SETS = {"both": ["ENSG00000000001", "ENSG00000000002"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tokenized and embedded cells, the folder of their model, and classifiers of cells and of genes."""
    rng = np.random.default_rng(0)
    code = np.arange(40) % 3
    obs = pd.DataFrame(
        {
            "state": pd.Categorical.from_codes(code, ["sick", "well", "odd"]),
            "stage": pd.Categorical.from_codes(code, ["early", "mid", "late"], ordered=True),
            "age": 30.0 + 10 * code,
        },
        index=[f"cell{i}" for i in range(40)],
    )
    counts = sparse.csr_matrix(rng.poisson(1.2, (40, 30)).astype(np.float32))
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(30)]))
    vocabulary = sg.Vocabulary.from_adata(adata, name="small", max_length=64, special_tokens=True)
    torch.manual_seed(0)
    shape = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24, "max_length": 64}
    folder = tmp_path_factory.mktemp("slots") / "model"
    sg.nn.save_checkpoint(folder, sg.nn.Encoder(sg.nn.EncoderConfig(vocab_size=len(vocabulary), **shape)))
    vocabulary.save(folder / "vocabulary.json")
    sg.pp.tokenize(adata, folder)
    sg.tl.embed(adata, folder)
    bare = adata.copy()  # without what training registers
    sg.model.CellClassifier.setup_anndata(adata, ["state", "stage", "age"])
    of_cells = sg.model.CellClassifier(adata, folder)
    of_cells.train(1, train_size=0.6, validation_size=0.2, test_size=0.2, **QUICK)
    sg.model.GeneClassifier.setup_anndata(adata)
    of_genes = sg.model.GeneClassifier(
        adata, {"a": adata.var_names[:9].tolist(), "b": adata.var_names[9:16].tolist()}, folder
    )
    of_genes.train(1, **QUICK)
    return bare, folder, of_cells, of_genes


@pytest.fixture
def adata(world) -> ad.AnnData:
    return world[0].copy()


def ranked(adata, folder, **options):
    sg.tl.perturb(adata, folder, ["ENSG00000000001", "ENSG00000000003"], **GOAL, **options)
    sg.tl.rank_shifts(adata, key=options["key_added"], min_cells=1)


# Each verb with what it is given, and the slots that it writes under the key "mine".
UNTRAINED = ("mine__untrained", "mine__reference__untrained")
REFERENCE = ("mine__reference", "mine__reference_sick", "mine__reference_odd", *UNTRAINED)
MOVED = {"varm": ["mine__direction"], "obsm": ["mine__embedding", "mine__movement"]}
VERBS = {
    "tokenize": (
        lambda adata, world, key: sg.pp.tokenize(adata, world[1], keep_counts=True, key_added=key),
        {"obsm": ["mine", "mine_counts"], "obs": ["mine_n_tokens", "mine_token_vocabulary"], "var": ["mine_token_id"]},
    ),
    "embed": (
        lambda adata, world, key: sg.tl.embed(adata, world[1], genes=True, key_added=key),
        {"obsm": ["X_mine"], "varm": ["mine"]},
    ),
    "perturb": (
        lambda adata, world, key: sg.tl.perturb(adata, world[1], ["ENSG00000000001"], **GOAL, key_added=key),
        {"layers": ["mine", "mine_sick", "mine_odd", *REFERENCE], **MOVED},
    ),
    "perturb effects": (
        lambda adata, world, key: sg.tl.perturb(
            adata, world[1], ["ENSG00000000001"], effects=True, **GOAL, key_added=key
        ),
        {"layers": ["mine", "mine_sick", "mine_odd", *REFERENCE], "varp": ["mine", "mine_n", "mine_sd"], **MOVED},
    ),
    "perturb decomposed": (
        lambda adata, world, key: sg.tl.perturb(adata, world[1], decompose=True, **GOAL, key_added=key),
        {
            "layers": [
                f"mine{part}{state}"
                for part in ("", "__own", "__network", "__renumbering")
                for state in ("", "_sick", "_odd")
            ]
            + ["mine__untrained"],
            **MOVED,
        },
    ),
    "perturb sets": (
        lambda adata, world, key: sg.tl.perturb_sets(adata, world[1], SETS, effects=True, **GOAL, key_added=key),
        {
            "obsm": [
                *("mine_sets", "mine_sets_sick", "mine_sets_odd"),
                *("mine_sets__random", "mine_sets__random_sick", "mine_sets__random_odd"),
            ],
            "varm": ["mine_sets", "mine_sets_n", "mine_sets_sd"],
        },
    ),
    "screen": (
        lambda adata, world, key: sg.tl.screen(adata, world[1], **GOAL, refine=2, key_added=key, allow_poor=True),
        {"layers": ["mine", "mine_sick", "mine_odd", "mine__method", "mine__untrained"], **MOVED},
    ),
    "transfer": (
        lambda adata, world, key: sg.tl.transfer(adata, world[0], "state", key_added=key),
        {"obs": ["mine", "mine_score", "mine_distance", "mine_novelty"], "obsm": ["mine_proba"]},
    ),
    "transfer unknown": (
        lambda adata, world, key: sg.tl.transfer(adata, world[0], "state", unknown=0.2, key_added=key),
        {"obs": ["mine", "mine_score", "mine_distance", "mine_novelty", "mine_nearest"], "obsm": ["mine_proba"]},
    ),
    "annotate": (
        lambda adata, world, key: sg.tl.annotate(adata, world[2], task="stage", key_added=key),
        {"obs": ["mine", "mine_score", "mine_value", "mine_distance", "mine_novelty"], "obsm": ["mine_proba"]},
    ),
    "annotate unknown": (
        lambda adata, world, key: sg.tl.annotate(adata, world[2], task="state", unknown=0.2, key_added=key),
        {"obs": ["mine", "mine_score", "mine_distance", "mine_novelty", "mine_nearest"], "obsm": ["mine_proba"]},
    ),
    "annotate numbers": (
        lambda adata, world, key: sg.tl.annotate(adata, world[2], task="age", key_added=key),
        {"obs": ["mine"]},
    ),
    "evaluate": (
        lambda adata, world, key: sg.tl.evaluate(adata, world[2], task="state", key_added=key),
        {"obs": ["mine"], "obsm": ["mine_proba", "mine_probe_proba", "mine_hvg_proba"]},
    ),
    "evaluate numbers": (
        lambda adata, world, key: sg.tl.evaluate(adata, world[2], task="age", baselines="hvg", key_added=key),
        {"obs": ["mine", "mine_predicted", "mine_hvg_predicted"]},
    ),
    "classify genes": (
        lambda adata, world, key: sg.tl.classify_genes(adata, world[3], key_added=key),
        {"varm": ["mine"], "var": ["mine"]},
    ),
}
SLOTS = [(verb, place, name) for verb, (_, slots) in VERBS.items() for place in slots for name in slots[place]]
SLOTS += [(verb, "uns", "mine") for verb in VERBS]


def slots_of(adata) -> set[str]:
    return {f"{place}/{name}" for place in PLACES for name in getattr(adata, place) if name is not None}


def put(adata, place: str, name: str) -> None:
    """Write a user's value into a slot."""
    shape = {"obs": (40,), "var": (30,), "obsm": (40, 2), "varm": (30, 2), "varp": (30, 30), "layers": (40, 30)}
    getattr(adata, place)[name] = {"note": "mine"} if place == "uns" else np.full(shape[place], 7.0)


def plain(value):
    """Tables as dictionaries, which can be compared."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return value.to_dict() if isinstance(value, pd.DataFrame) else value


def assert_unchanged(adata, before) -> None:
    assert slots_of(adata) == slots_of(before)
    for place in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, place), getattr(before, place))
    for place in ("obsm", "varm", "varp", "layers"):
        for name, value in getattr(before, place).items():
            found = getattr(adata, place)[name]
            assert type(found) is type(value)
            np.testing.assert_array_equal(*(x.toarray() if sparse.issparse(x) else x for x in (found, value)))
    np.testing.assert_equal(plain(adata.uns), plain(before.uns))


@pytest.fixture
def nothing_computed(monkeypatch):
    """Fail where a model is loaded or asked, or neighbours are looked for."""

    def fail(*args, **kwargs):
        pytest.fail("began to compute")

    monkeypatch.setattr(hub, "load", fail)
    monkeypatch.setattr(hub, "vocabulary", fail)
    monkeypatch.setattr("scgeneformer.stats.NeighborIndex.nearest", fail)
    monkeypatch.setattr(sg.model.CellClassifier, "answer", fail)
    monkeypatch.setattr(sg.model.CellClassifier, "predict", fail)
    monkeypatch.setattr("scgeneformer.engine.classify_genes", fail)


@pytest.mark.parametrize(("verb", "place", "name"), SLOTS)
def test_a_slot_of_the_users_is_refused(world, adata, nothing_computed, verb, place, name) -> None:
    put(adata, place, name)
    before = adata.copy()
    with pytest.raises(ValueError, match=rf"\.{place}\['{name}'\] is not a result.*another `key_added`, or delete it"):
        VERBS[verb][0](adata, world, "mine")
    assert_unchanged(adata, before)


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_lists_its_slots_and_is_replaced_as_a_whole(world, adata, verb) -> None:
    run, slots = VERBS[verb]
    before = slots_of(adata)
    run(adata, world, "mine")
    written = {f"{place}/{name}" for place in slots for name in slots[place]} | {"uns/mine"}
    assert slots_of(adata) - before == written == set(adata.uns["mine"]["params"]["slots"])
    again = adata.copy()
    run(again, world, "mine")
    assert_unchanged(again, adata)


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "h5mu"])
def test_what_a_run_no_longer_writes_is_removed(world, adata, tmp_path, ending) -> None:
    """Also after a file and in a view."""
    before = slots_of(adata)
    VERBS["perturb effects"][0](adata, world, "mine")
    sg.tl.rank_shifts(adata, key="mine", min_cells=1)
    VERBS["annotate"][0](adata, world, "labels")
    path = tmp_path / f"x.{ending}"
    if ending == "h5mu":
        md.MuData({"rna": adata}).write(path)
        adata = md.read(path)["rna"]
    else:
        getattr(adata, f"write_{ending}")(path)
        adata = getattr(ad, f"read_{ending}")(path)
    view = adata[:30]
    sg.tl.perturb(view, world[1], ["ENSG00000000001"], max_cells=2, key_added="mine")
    VERBS["annotate numbers"][0](view, world, "labels")
    assert slots_of(view) - before == {
        "layers/mine",
        "layers/mine__reference",
        "uns/mine",
        "obs/labels",
        "uns/labels",
    }


def test_a_ranking_belongs_to_its_run(world, adata) -> None:
    ranked(adata, world[1], key_added="mine")
    sg.tl.rank_shifts(adata, key="mine", test="aggregate")
    assert "varm/mine" in adata.uns["mine"]["params"]["slots"]
    del adata.varm["mine"], adata.uns["mine"]["rank"]
    adata.uns["mine"]["params"]["slots"] = [s for s in adata.uns["mine"]["params"]["slots"] if s != "varm/mine"]
    put(adata, "varm", "mine")
    before = adata.copy()
    with pytest.raises(ValueError, match=r"\.varm\['mine'\] is not a result"):
        sg.tl.rank_shifts(adata, key="mine", min_cells=1)
    assert_unchanged(adata, before)


def test_runs_whose_slots_have_one_name_are_refused_both_ways(world, adata) -> None:
    of_state, alone = adata.copy(), adata.copy()
    genes = ["ENSG00000000001"]
    sg.tl.perturb(of_state, world[1], genes, **GOAL)
    with pytest.raises(ValueError, match=r"\.layers\['shift_odd'\] was written by `sg\.tl\.perturb` under 'shift'"):
        sg.tl.perturb(of_state, world[1], genes, max_cells=2, key_added="shift_odd")
    sg.tl.perturb(alone, world[1], genes, max_cells=2, key_added="shift_odd")
    before = alone.copy()
    with pytest.raises(ValueError, match=r"\.layers\['shift_odd'\] was written by `sg\.tl\.perturb` under 'shift_odd'"):
        sg.tl.perturb(alone, world[1], genes, **GOAL)
    assert_unchanged(alone, before)


def test_another_verb_does_not_replace_a_run(world, adata) -> None:
    before = adata.copy()
    with pytest.raises(ValueError, match=r"\.uns\['geneformer_tokens'\] was written by `sg\.pp\.tokenize`"):
        sg.tl.embed(adata, world[1], key_added="geneformer_tokens")
    with pytest.raises(ValueError, match=r"\.uns\['geneformer'\] was written by `sg\.tl\.embed` under 'geneformer'"):
        sg.tl.perturb(adata, world[1], max_cells=2, key_added="geneformer")
    assert_unchanged(adata, before)


def test_counts_are_not_replaced_by_shifts(world, adata) -> None:
    adata.layers["counts"] = adata.X.copy()
    with pytest.raises(ValueError, match=r"\.layers\['counts'\]"):
        sg.tl.perturb(adata, world[1], max_cells=2, key_added="counts")


@pytest.mark.parametrize(
    "name", ["_method", "_reference", "_random_T", "_own", "_network_T", "_renumbering", "_untrained"]
)
@pytest.mark.parametrize("verb", [sg.tl.perturb, sg.tl.screen])
def test_a_state_with_the_name_of_further_results(world, adata, verb, name) -> None:
    adata.obs["state"] = adata.obs["state"].cat.rename_categories({"odd": name})
    with pytest.raises(ValueError, match=rf"'{name}'.*Rename them in \.obs\['state'\]"):
        verb(adata, world[1], **GOAL | {"others": [name]})
    adata.obs["state"] = adata.obs["state"].cat.rename_categories({name: "_method"})
    sg.tl.perturb(adata, world[1], ["ENSG00000000001"], groupby="state", target="_method", max_cells=2)


def test_labels_of_the_query_stay(world, adata) -> None:
    before = adata.obs["state"].copy()
    sg.tl.transfer(adata, world[0], "state")
    pd.testing.assert_series_equal(adata.obs["state"], before)
    assert {"obs/state_transferred", "obs/state_transferred_score", "obsm/state_transferred_proba"} <= slots_of(adata)


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_own_names_are_taken_over_where_uns_was_dropped(world, adata, join) -> None:
    """`ad.concat` leaves tokens and embeddings without `uns`; values of another type are the user's."""
    sg.pp.tokenize(adata, world[1], keep_counts=True)
    joined = ad.concat([adata[:15].copy(), adata[15:].copy()], merge="same", join=join)
    assert not joined.uns
    sg.pp.tokenize(joined, world[1])
    sg.tl.embed(joined, world[1])
    assert "geneformer_tokens_counts" not in joined.obsm  # of tokens that are no more
    np.testing.assert_array_equal(joined.obsm["geneformer_tokens"], world[0].obsm["geneformer_tokens"])
    np.testing.assert_allclose(joined.obsm["X_geneformer"], world[0].obsm["X_geneformer"], atol=1e-5)
    joined = ad.concat([adata[:15].copy(), adata[15:].copy()], merge="same", join=join)
    put(joined, "obsm", "X_geneformer")
    put(joined, "obs", "n_tokens")
    with pytest.raises(ValueError, match=r"\.obs\['n_tokens'\] is not a result"):
        sg.pp.tokenize(joined, world[1])
    with pytest.raises(ValueError, match=r"\.obsm\['X_geneformer'\] is not a result"):
        sg.tl.embed(joined, world[1])
