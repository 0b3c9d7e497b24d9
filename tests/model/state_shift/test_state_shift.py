"""The latent model of states: what it recovers, what does not change its representations, and what it refuses."""

from __future__ import annotations

import logging

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from scgeneformer.model import StateShift

QUICK = {"accelerator": "cpu", "enable_progress_bar": False}
SETUPS = {"counts": {"layer": "counts", "batch_key": "batch"}, "embedding": {"use_rep": "X_geneformer"}}
KINDS = ("base", "state", "type", "shift", "all")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel("ERROR")


def make_cells(n_labels: int = 4, n_each: int = 15, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    n = n_labels * n_each
    label = np.arange(n) % n_labels
    obs = pd.DataFrame(
        {
            "study": pd.Categorical([f"study {i}" for i in label]),
            "batch": rng.choice(["v2", "v3"], n),
            "type": rng.choice(["T", "B"], n),
        },
        index=[f"cell {i}" for i in range(n)],
    )
    counts = sparse.csr_matrix(rng.poisson(2 + 3 * (label[:, None] == np.arange(12) % n_labels)).astype(np.float32))
    adata = ad.AnnData(np.log1p(counts), obs=obs, var=pd.DataFrame(index=[f"gene {i}" for i in range(12)]))
    adata.layers["counts"] = counts
    adata.obsm["X_geneformer"] = rng.normal(3, 2, size=(n, 6)).astype(np.float32)
    return adata


def trained(adata: ad.AnnData, kind: str, epochs: int = 3, **arguments) -> StateShift:
    StateShift.setup_anndata(adata, labels_key="study", **SETUPS[kind])
    model = StateShift(adata, n_latent=5, n_hidden=16, **arguments)
    model.train(epochs, **QUICK)
    return model


@pytest.fixture(params=SETUPS)
def case(request) -> tuple[StateShift, ad.AnnData]:
    adata = make_cells()
    return trained(adata, request.param, control="study 0"), adata


def same(one: StateShift, other: StateShift, adata: ad.AnnData) -> bool:
    return all(
        np.array_equal(
            one.get_latent_representation(adata, kind=kind), other.get_latent_representation(adata, kind=kind)
        )
        for kind in KINDS
    )


def test_kinds_are_what_they_say(case):
    model, _ = case
    base, state, type_, shift, both = (model.get_latent_representation(kind=kind) for kind in KINDS)
    table = model.state_dimensions()
    offsets = table.pivot(index="label", columns="dimension", values="offset")
    assert list(offsets.index) == [f"study {i}" for i in range(4)]
    assert (offsets.loc["study 0"] == 0).all()
    used = (offsets != 0).any().to_numpy()
    np.testing.assert_array_equal(state, base[:, used])
    np.testing.assert_array_equal(type_, base[:, ~used])
    np.testing.assert_array_equal(shift, offsets.to_numpy()[np.arange(60) % 4])
    np.testing.assert_array_equal(both, base + shift)
    assert table["p_open"].between(0, 1).all()


def test_a_saved_model_comes_back(case, tmp_path):
    model, adata = case
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "scgeneformer.json",
        "scgeneformer.safetensors",
    ]
    back = StateShift.load(tmp_path / "model")
    assert same(model, back, adata)
    pd.testing.assert_frame_equal(back.history["l0_train"], model.history["l0_train"])
    attached = StateShift.load(tmp_path / "model", make_cells())
    attached.train(1, **QUICK)
    assert not same(model, attached, adata)


@pytest.mark.parametrize("kind", SETUPS)
def test_a_modality_is_read_as_an_anndata(kind, tmp_path):
    cells = make_cells()
    model = trained(cells, kind)
    gex = make_cells()
    mdata = md.MuData({"gex": gex, "prot": gex[:, :3].copy()})
    setup = {"labels_key": "study", "modalities": {"labels_key": "gex"}} | SETUPS[kind]
    StateShift.setup_mudata(mdata, **setup)
    other = StateShift(mdata, n_latent=5, n_hidden=16)
    other.train(3, **QUICK)
    for name in KINDS:
        expected = model.get_latent_representation(kind=name)
        # two trainings, which some processors round differently
        np.testing.assert_allclose(other.get_latent_representation(kind=name), expected, atol=1e-5)
        np.testing.assert_allclose(
            other.get_latent_representation(mdata, [3, 1], kind=name), expected[[3, 1]], atol=1e-5
        )
    pd.testing.assert_frame_equal(
        other.shift_composition("type"), model.shift_composition("type", cells), rtol=1e-4, atol=1e-5
    )
    other.save(tmp_path / "model")
    attached = StateShift.load(tmp_path / "model", mdata)
    assert same(attached, model, cells)
    attached.train(1, **QUICK)
    fewer = md.MuData({"gex": make_cells()[5:].copy(), "prot": gex[:, :3].copy()})
    with pytest.raises(ValueError, match=r"'gex' has 55 of the 60 cells .* `mdata = mdata\[mdata\['gex'\].obs_names\]"):
        StateShift.setup_mudata(fewer, **setup)
    with pytest.raises(KeyError, match="No modality 'rna'"):
        StateShift.setup_mudata(mdata, labels_key="study")
    assert "_scvi_labels" not in fewer["gex"].obs


def test_one_seed_gives_one_model_whatever_was_drawn_before(case):
    model, adata = case
    kind = "counts" if model.module.counts else "embedding"
    np.random.seed(5)  # noqa: NPY002 - what scvi-tools draws from
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = trained(make_cells(), kind, control="study 0")
    assert torch.equal(torch.get_rng_state(), state)
    assert same(model, again, adata)
    assert not same(model, trained(make_cells(), kind, control="study 0", rng=1), adata)


def test_representations_do_not_depend_on_what_is_encoded_together(case):
    model, adata = case
    whole = model.get_latent_representation()
    np.testing.assert_allclose(model.get_latent_representation(batch_size=7), whole, atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(adata[::-3]), whole[::-3], atol=1e-5)
    some = np.arange(60) % 2 == 0
    np.testing.assert_allclose(model.get_latent_representation(indices=some), whole[some], atol=1e-5)
    assert model.get_latent_representation(adata[:0]).shape == (0, 5)


def test_a_query_is_aligned_by_name_and_left_as_it_is():
    adata = make_cells()
    model = trained(adata, "counts")
    whole = model.get_latent_representation()
    query = make_cells()
    extra = ad.AnnData(sparse.csr_matrix(np.ones((60, 3))), obs=query.obs, var=pd.DataFrame(index=["x", "y", "z"]))
    extra.layers["counts"] = extra.X
    wider = ad.concat([extra, query[:, ::-1]], axis=1)
    np.testing.assert_allclose(model.get_latent_representation(wider), whole, atol=1e-5)
    fewer = query[:, :8].copy()
    emptied = query.copy()
    emptied.layers["counts"] = query.layers["counts"].multiply(np.arange(12) < 8).tocsr()
    np.testing.assert_allclose(
        model.get_latent_representation(fewer), model.get_latent_representation(emptied), atol=1e-5
    )
    dense = query.copy()
    dense.layers["counts"] = query.layers["counts"].toarray()
    del dense.obs["study"]
    before = dense.copy()
    np.testing.assert_allclose(model.get_latent_representation(dense, kind="base"), whole, atol=1e-5)
    assert list(dense.obs) == list(before.obs)
    assert not dense.uns
    with pytest.raises(ValueError, match="none of the 12 genes of this model, such as gene 0.*Name the genes"):
        model.get_latent_representation(extra)


def test_labels_of_a_query_matter_only_to_offsets(case):
    model, adata = case
    query = adata.copy()
    query.obs["study"] = "new study"
    for kind in ("base", "state", "type"):
        np.testing.assert_array_equal(
            model.get_latent_representation(query, kind=kind), model.get_latent_representation(kind=kind)
        )
    for kind in ("shift", "all"):
        with pytest.raises(
            ValueError, match=r"not trained on these labels of \.obs\['study'\]: new study.*kind='base'"
        ):
            model.get_latent_representation(query, kind=kind)


def test_embeddings_are_standardised_as_the_training_data():
    adata = make_cells()
    model = trained(adata, "embedding")
    points = adata.obsm["X_geneformer"]
    np.testing.assert_allclose(model.module.center, points.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.module.scale, points.std(0), rtol=1e-5)
    moved = make_cells()
    moved.obsm["X_geneformer"] = 10 * points - 4
    np.testing.assert_allclose(
        trained(moved, "embedding").get_latent_representation(), model.get_latent_representation(), atol=1e-3
    )


def test_sparse_offsets_are_found():
    """16 data sets with one or two of four offsets, mixed into an embedding: far better than chance."""
    rng = np.random.default_rng(0)
    support = np.zeros((16, 6), bool)
    for row in support[1:]:
        row[rng.choice(4, rng.integers(1, 3), replace=False)] = True
    of_set = np.repeat(np.arange(16), 30)
    latent = 0.5 * rng.normal(size=(len(of_set), 6)) + (support * rng.choice([-2, 2], support.shape))[of_set]
    points = latent @ rng.normal(size=(6, 30)) + 0.3 * rng.normal(size=(len(of_set), 30))
    adata = ad.AnnData(
        obs=pd.DataFrame({"study": of_set.astype(str)}, index=np.arange(len(of_set)).astype(str)),
        obsm={"X_geneformer": points},
    )
    StateShift.setup_anndata(adata, labels_key="study", use_rep="X_geneformer")
    model = StateShift(adata, n_latent=6, n_hidden=64, control="0")
    model.train(150, learning_rate=4e-3, train_size=1.0, **QUICK)
    offsets = model.state_dimensions().pivot(index="label", columns="dimension", values="offset")
    offsets = offsets.loc[[str(i) for i in range(16)]].to_numpy()

    def f1(found: np.ndarray) -> float:
        shared = found.T.astype(int) @ support
        return 2 * shared[linear_sum_assignment(-shared)].sum() / (found.sum() + support.sum())

    found = offsets != 0
    chance = np.mean([f1(rng.permuted(found.ravel()).reshape(found.shape)) for _ in range(50)])
    assert f1(found) > chance + 0.15


def test_offsets_that_go_with_composition_are_told():
    adata = make_cells(6, 20)
    adata.obs["type"] = np.where(
        np.arange(120) // 6 < 3 * (np.arange(120) % 6), "T", "B"
    )  # more T in each further study
    model = trained(adata, "embedding")
    model.module.offset_mean.weight.data[:] = 0
    model.module.offset_mean.weight.data[:, 2] = 0.5 + torch.arange(6)
    table = model.shift_composition("type")
    assert table["dimension"].tolist() == [2, 2]
    np.testing.assert_allclose(table.set_index("category")["correlation"][["T", "B"]], [1, -1], atol=1e-6)
    assert (table["p_value"] < 1e-3).all()
    assert (table["n_labels"] == 6).all()
    with pytest.raises(KeyError, match="No column 'kind'"):
        model.shift_composition("kind")


def with_value(adata: ad.AnnData, value: float) -> None:
    adata.layers["counts"] = adata.layers["counts"].toarray()
    adata.layers["counts"][0, 0] = value


BAD = {
    "one label": (lambda a: a.obs.__setitem__("study", "only"), {}, ValueError, r"\.obs\['study'\] has 'only'.*two labels"),
    "one cell": (lambda a: a.obs.__setitem__("study", ["x"] + ["y", "z"] * 29 + ["y"]), {}, ValueError, "with one cell: x"),
    "no label": (lambda a: a.obs.__setitem__("study", [None] + ["y", "z"] * 29 + ["y"]), {}, ValueError, "1 cells have no value"),
    "empty category": (
        lambda a: a.obs.__setitem__("study", a.obs["study"].cat.add_categories("none")), {}, ValueError, "remove_unused_categories"
    ),
    "no column": (lambda a: a.obs.pop("study"), {}, KeyError, r"No column 'study' in \.obs.*labels_key="),
    "no batch": (lambda a: None, {"batch_key": "lane"}, KeyError, r"No column 'lane' in \.obs.*batch_key="),
    "negative": (lambda a: with_value(a, -1), {}, ValueError, r"\.layers\['counts'\] has values that are not counts"),
    "fraction": (lambda a: with_value(a, 0.5), {}, ValueError, "not counts.*layer="),
    "NaN": (lambda a: with_value(a, np.nan), {}, ValueError, "not counts"),
    "logarithms": (lambda a: None, {"layer": None}, ValueError, r"\.X has values that are not counts.*layer="),
    "no layer": (lambda a: None, {"layer": "raw"}, KeyError, r"No \.layers\['raw'\]"),
    "names": (lambda a: setattr(a, "var_names", ["g"] * 12), {}, ValueError, "var_names_make_unique"),
    "both": (lambda a: None, {"use_rep": "X_geneformer"}, ValueError, "leave one of them out"),
    "no embedding": (lambda a: None, {"layer": None, "use_rep": "X_umap"}, KeyError, r"No representation in \.obsm\['X_umap'\].*sg\.tl\.embed"),
    "NaN embedding": (
        lambda a: a.obsm["X_geneformer"].__setitem__((3, 1), np.nan),
        {"layer": None, "use_rep": "X_geneformer"}, ValueError, r"1 cells have NaN in \.obsm\['X_geneformer'\]",
    ),
    "other word": (lambda a: None, {"sample_key": "study"}, TypeError, "sets up no 'sample_key'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_and_left_as_they_were(name):
    spoil, arguments, error, match = BAD[name]
    adata = make_cells()
    spoil(adata)
    slots = [set(adata.obs), set(adata.uns), set(adata.obsm)]
    with pytest.raises(error, match=match):
        StateShift.setup_anndata(adata, **{"labels_key": "study", "layer": "counts"} | arguments)
    assert [set(adata.obs), set(adata.uns), set(adata.obsm)] == slots


def test_what_a_model_cannot_do_is_refused(tmp_path):
    adata = make_cells()
    StateShift.setup_anndata(adata, labels_key="study", use_rep="X_geneformer")
    with pytest.raises(ValueError, match=r"control='study 9' is not a label of \.obs\['study'\], which has study 0"):
        StateShift(adata, control="study 9")
    model = StateShift(adata, n_hidden=8)
    for ask in (model.get_latent_representation, model.state_dimensions, lambda: model.shift_composition("type")):
        with pytest.raises(ValueError, match="not trained"):
            ask()
    model.train(1, **QUICK)
    with pytest.raises(ValueError, match="kind='states' must be 'base'"):
        model.get_latent_representation(kind="states")
    query = make_cells()
    query.obsm["X_geneformer"] = np.ones((60, 7))
    with pytest.raises(ValueError, match=r"has 7 columns, but this model was trained on 6"):
        model.get_latent_representation(query)
    query.obsm["X_geneformer"] = np.full((60, 6), np.nan)
    with pytest.raises(ValueError, match="60 cells have NaN"):
        model.get_latent_representation(query)
    model.save(tmp_path / "model")
    alone = StateShift.load(tmp_path / "model")
    for ask in (alone.train, alone.get_latent_representation):
        with pytest.raises(ValueError, match="has no data"):
            ask()
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        StateShift(adata, n_hidden=8).train(4, learning_rate=1e30, **QUICK)


@pytest.mark.parametrize("kind", SETUPS)
def test_other_data_are_not_attached_to_a_saved_model(kind, tmp_path):
    trained(make_cells(), kind).save(tmp_path / "model")
    others = [(make_cells(5), r"not set up with these values of \.obs\['study'\]: study 4")]
    if kind == "counts":
        others.append((make_cells()[:, ::-1].copy(), "Genes in .var_names are not those"))
    for other, match in others:
        with pytest.raises(ValueError, match=rf"{match}.*get_latent_representation"):
            StateShift.load(tmp_path / "model", other)
        assert not other.uns
        assert list(other.obs) == ["study", "batch", "type"]


def test_without_offsets_there_is_no_composition_to_compare():
    model = trained(make_cells(), "embedding")
    model.module.offset_mean.weight.data[:] = 0
    assert model.shift_composition("type").empty
    assert model.get_latent_representation(kind="state").shape == (60, 0)


def test_an_embedding_of_another_model_is_refused(tmp_path):
    adata = make_cells()
    adata.uns["geneformer"] = {"params": {"model": "default", "weights_sha256": "one"}}
    trained(adata, "embedding").save(tmp_path / "model")
    query = make_cells()
    query.uns["geneformer"] = {"params": {"model": "default", "weights_sha256": "two"}}
    with pytest.raises(
        ValueError, match=r"weights_sha256='two' in adata, 'one' in the training data.*sg\.tl\.embed\(adata, 'default'"
    ):
        StateShift.load(tmp_path / "model").get_latent_representation(query)
