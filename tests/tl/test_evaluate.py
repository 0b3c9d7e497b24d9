from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse
from sklearn.metrics import f1_score

import scgeneformer as sg
from scgeneformer import evaluation
from scgeneformer.tl._evaluation._baselines import gene_features

CLASSES = ["B", "T/NK", "mono"]
QUICK = {
    "accelerator": "cpu",
    "precision": "32-true",
    "learning_rate": 3e-3,
    "recipe": "plain",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Labelled cells of 8 donors, some without labels and one without tokens; a small model; a classifier trained on three columns."""
    rng = np.random.default_rng(0)
    code = np.arange(160) % 3
    counts = rng.poisson(1.2 + 2.5 * (np.arange(30)[None] // 6 == code[:, None])).astype(np.float32)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical.from_codes(np.where(np.arange(160) < 150, code, -1), CLASSES),
            "stage": pd.Categorical.from_codes(code, ["early", "mid", "late"], ordered=True),
            "age": 30 + 10 * code + rng.normal(size=160),
            "donor": [f"donor{i % 8}" for i in rng.permutation(160)],
        },
        index=[f"cell{i}" for i in range(160)],
    )
    genes = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(30)])
    adata = ad.AnnData(
        np.zeros((160, 30), np.float32), obs=obs, var=genes, layers={"counts": sparse.csr_matrix(counts)}
    )
    counted = ad.AnnData(adata.layers["counts"], var=genes)
    vocabulary = sg.Vocabulary.from_adata(counted, name="small", max_length=64, special_tokens=True)
    torch.manual_seed(0)
    shape = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24, "max_length": 64}
    folder = tmp_path_factory.mktemp("world") / "model"
    sg.nn.save_checkpoint(folder, sg.nn.Encoder(sg.nn.EncoderConfig(vocab_size=len(vocabulary), **shape)))
    vocabulary.save(folder / "vocabulary.json")
    sg.pp.tokenize(adata, folder, layer="counts")
    sg.model.CellClassifier.setup_anndata(adata, ["type", "stage", "age"], sample_key="donor")
    model = sg.model.CellClassifier(adata, folder)
    model.train(3, train_size=0.5, validation_size=0.25, test_size=0.25, **QUICK)
    adata.obsm["geneformer_tokens"][model.split.test[0]] = 0
    adata.obs.loc[adata.obs_names[model.split.test[0]], "n_tokens"] = 0
    return adata, model, folder


@pytest.fixture
def cells(world) -> ad.AnnData:
    return world[0].copy()


@pytest.fixture(scope="module")
def done(world) -> ad.AnnData:
    """The cells, evaluated by type beside both baselines."""
    return sg.tl.evaluate(world[0], world[1], task="type", copy=True)


def rows_of(done: ad.AnnData, model) -> tuple[np.ndarray, np.ndarray]:
    """Labelled training cells, and evaluated cells."""
    train = model.split.train
    labelled = done.obs["type"].notna().to_numpy()
    return train[labelled[train]], np.flatnonzero(done.obsm["evaluation_proba"].notna().all(axis=1))


def test_the_model_is_scored_on_labelled_test_cells(world, cells) -> None:
    _, model, _ = world
    sg.tl.evaluate(cells, model, task="type", baselines=False)
    rows = model.split.test[1:]
    rows = rows[cells.obs["type"].notna().to_numpy()[rows]]
    proba = model.predict(indices=rows, soft=True, task="type")
    report = evaluation.classification(cells.obs["type"].cat.codes.to_numpy()[rows], proba.to_numpy(), CLASSES)
    run = cells.uns["evaluation"]
    scores = run["metrics"].drop(columns="tied_with_best").loc["fine-tuned"]
    pd.testing.assert_series_equal(scores, report.scores, check_names=False)
    pd.testing.assert_frame_equal(run["per_class"], report.per_class)
    np.testing.assert_array_equal(run["confusion"], report.confusion)
    assert run["confusion"].columns.tolist() == ["B", "T|NK", "mono"]
    assert run["params"]["set"] == "test"
    assert run["params"]["n_cells"] == len(rows)
    written = cells.obsm["evaluation_proba"]
    np.testing.assert_array_equal(np.flatnonzero(written.notna().all(axis=1)), rows)
    np.testing.assert_array_equal(written.to_numpy()[rows], proba)
    assert written.columns.tolist() == ["B", "T|NK", "mono"]
    assert list(run["metrics"].index) == ["fine-tuned", "most frequent class"]
    assert {"evaluation_probe_proba", "evaluation_hvg_proba"}.isdisjoint(cells.obsm)


def test_sets_are_those_of_the_training(world, cells) -> None:
    _, model, _ = world
    sg.tl.evaluate(cells, model, task="type", baselines=False, key_added="e")
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(np.flatnonzero(cells.obs["e"] == name), getattr(model.split, name))
    donors = cells.obs.groupby("donor", observed=True)["e"].nunique()
    assert (donors == 1).all()


def test_the_linear_probe_reads_the_untrained_encoder(world, done) -> None:
    _, model, folder = world
    train, rows = rows_of(done, model)
    features = sg.tl.embed(done, folder, copy=True).obsm["X_geneformer"]
    codes, groups = done.obs["type"].cat.codes.to_numpy(), done.obs["donor"].to_numpy()[train]
    expected = evaluation.logistic(features[train], codes[train], features[rows], groups=groups)
    np.testing.assert_allclose(done.obsm["evaluation_probe_proba"].to_numpy()[rows], expected, atol=1e-3)
    assert list(sg.get.evaluation(done).index) == [
        "fine-tuned",
        "linear probe",
        "regression on HVGs",
        "most frequent class",
    ]
    per_class = done.uns["evaluation"]["per_class"]["f1_probe"]
    predicted = done.obsm["evaluation_probe_proba"].to_numpy()[rows].argmax(axis=1)
    np.testing.assert_allclose(per_class.fillna(0), f1_score(codes[rows], predicted, average=None, labels=[0, 1, 2]))


def test_the_regression_on_genes_reads_normalised_counts(world, done) -> None:
    _, model, _ = world
    train, rows = rows_of(done, model)
    counts = done.layers["counts"].toarray()
    logs = sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))
    codes, groups = done.obs["type"].cat.codes.to_numpy(), done.obs["donor"].to_numpy()[train]
    expected = evaluation.logistic(logs[train], codes[train], logs[rows], groups=groups, scaled=False)
    np.testing.assert_allclose(done.obsm["evaluation_hvg_proba"].to_numpy()[rows], expected, atol=0.01)
    assert np.mean(expected.argmax(axis=1) == codes[rows]) > 0.7


def test_values_that_are_logarithms_are_taken_as_they_are(done) -> None:
    rows, is_train = np.arange(20), np.arange(20) < 12
    options = {"layer": None, "tokens_key": "geneformer_tokens"}
    expected = gene_features(done, rows, is_train, **options).toarray()
    logged = done.copy()
    counts = logged.layers["counts"].toarray()
    logged.layers["logs"] = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    logged.uns["geneformer_tokens"]["params"] |= {"counts": "log1p", "layer": "logs"}
    np.testing.assert_allclose(gene_features(logged, rows, is_train, **options).toarray(), expected, rtol=1e-5)
    logged.uns["geneformer_tokens"]["params"] |= {"counts": "raw", "layer": "none"}
    options["layer"] = "counts"
    np.testing.assert_array_equal(gene_features(logged, rows, is_train, **options).toarray(), expected)


def test_genes_are_chosen_by_training_cells_only() -> None:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1 + rng.gamma(1, 1, 2100), (60, 2100)).astype(np.float32))
    tokens = {"obsm": {"tokens": np.zeros((60, 1), np.uint16)}, "uns": {"tokens": {"params": {}}}}
    adata = ad.AnnData(counts, **tokens)
    rows, is_train = np.arange(5, 55), np.arange(50) < 30
    found = gene_features(adata, rows, is_train, layer=None, tokens_key="tokens")
    assert found.shape == (50, 2000)
    train = adata[rows[is_train]].copy()
    sc.pp.normalize_total(train, target_sum=1e4)
    sc.pp.log1p(train)
    varying = np.flatnonzero(train.X.toarray().var(axis=0) > 0)
    train = train[:, varying].copy()
    sc.pp.highly_variable_genes(train, n_top_genes=2000)
    chosen = varying[train.var["highly_variable"]]
    logs = np.log1p(1e4 * counts.toarray() / counts.toarray().sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.toarray(), logs[rows][:, chosen], rtol=1e-5)
    adata.X[rows[~is_train]] = counts[rows[~is_train]] * 7 + counts[rows[~is_train]][:, ::-1]
    again = gene_features(adata, rows, is_train, layer=None, tokens_key="tokens")
    np.testing.assert_array_equal(again[is_train].toarray(), found[is_train].toarray())


def test_labels_of_test_cells_change_scores_but_no_answer(world, cells, done) -> None:
    """The label of a cell must not leak into its prediction."""
    adata, model, _ = world
    kept = adata.obs["type"].copy()
    test = model.split.test[kept.notna().to_numpy()[model.split.test]]
    try:
        adata.obs["type"] = kept.copy()
        adata.obs.iloc[test, adata.obs.columns.get_loc("type")] = np.roll(kept.iloc[test], 1)
        sg.tl.evaluate(cells, model, task="type")
    finally:
        adata.obs["type"] = kept
    for name in ("evaluation_proba", "evaluation_probe_proba", "evaluation_hvg_proba"):
        np.testing.assert_array_equal(cells.obsm[name], done.obsm[name])
    assert not np.isclose(*(sg.get.evaluation(found)["log_loss"].iloc[2] for found in (cells, done)))


def test_the_most_frequent_class(world, done) -> None:
    train, rows = rows_of(done, world[1])
    scores = sg.get.evaluation(done).loc["most frequent class"]
    truth, frequency = done.obs["type"].iloc[rows], done.obs["type"].iloc[train].value_counts(normalize=True)
    np.testing.assert_allclose(scores["accuracy"], np.mean(truth == frequency.idxmax()))
    np.testing.assert_allclose(scores["log_loss"], -np.log(truth.map(frequency).astype(float)).mean())
    np.testing.assert_allclose(scores["balanced_accuracy"], 1 / 3)


@pytest.mark.parametrize("task", ["type", "age"])
def test_what_is_within_a_standard_error_of_the_best_is_tied_with_it(world, cells, task) -> None:
    sg.tl.evaluate(cells, world[1], task=task)
    if task == "type":
        rows = rows_of(cells, world[1])[1]
        truth = cells.obs["type"].cat.codes.to_numpy()[rows]
        told = [
            cells.obsm[f"evaluation{name}_proba"].to_numpy()[rows].argmax(axis=1) for name in ("", "_probe", "_hvg")
        ]
        errors = [each != truth for each in told]
    else:
        rows = np.flatnonzero(cells.obs["evaluation_predicted"].notna())
        truth = cells.obs["age"].to_numpy()[rows]
        told = [cells.obs[f"evaluation{name}_predicted"].to_numpy()[rows] for name in ("", "_probe", "_hvg")]
        errors = [np.abs(each - truth) for each in told]
    best = errors[int(np.argmin([each.mean() for each in errors]))].astype(float)
    expected = [(each - best).mean() <= (each - best).std(ddof=1) / np.sqrt(len(rows)) for each in errors]
    tied = sg.get.evaluation(cells)["tied_with_best"]
    assert tied.dtype == bool
    assert tied.tolist()[:3] == expected
    assert not tied.iloc[3]


def test_ordinal_labels_have_more_scores(world, cells) -> None:
    _, model, _ = world
    sg.tl.evaluate(cells, model, task="stage", baselines=["hvg"])
    metrics = sg.get.evaluation(cells)
    proba = cells.obsm["evaluation_hvg_proba"].dropna()
    truth = cells.obs.loc[proba.index, "stage"].cat.codes
    np.testing.assert_allclose(
        metrics.loc["regression on HVGs", "mae"], np.abs(proba.to_numpy() @ [0, 1, 2] - truth).mean()
    )
    assert metrics.loc["regression on HVGs", "kappa"] > 0.4
    assert metrics["accuracy"].notna().all()


def test_continuous_labels_are_numbers_throughout(world, cells) -> None:
    _, model, _ = world
    sg.tl.evaluate(cells, model, task="age")
    rows = model.split.test[1:]
    for column in ("evaluation_predicted", "evaluation_probe_predicted", "evaluation_hvg_predicted"):
        np.testing.assert_array_equal(np.flatnonzero(cells.obs[column].notna()), rows)
    np.testing.assert_allclose(
        cells.obs["evaluation_predicted"].to_numpy()[rows], model.predict(indices=rows, task="age")
    )
    truth = cells.obs["age"].to_numpy()
    metrics = sg.get.evaluation(cells)
    for name, column in zip(metrics.index, ("", "_probe", "_hvg"), strict=False):
        error = cells.obs[f"evaluation{column}_predicted"].to_numpy()[rows] - truth[rows]
        np.testing.assert_allclose(metrics.loc[name, "rmse"], np.sqrt(np.mean(error**2)), rtol=1e-5)
    constant = truth[model.split.train].mean()
    np.testing.assert_allclose(
        metrics.loc["mean of training cells", "mae"], np.abs(constant - truth[rows]).mean(), rtol=1e-5
    )
    counts = cells.layers["counts"].toarray()
    logs = sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)))
    expected = evaluation.ridge(logs[model.split.train], truth[model.split.train], logs[rows], scaled=False)
    np.testing.assert_allclose(cells.obs["evaluation_hvg_predicted"].to_numpy()[rows], expected, atol=0.01)
    assert metrics.loc["regression on HVGs", "r2"] > 0.3
    assert not [name for name in cells.obsm if name.startswith("evaluation")]


def test_of_a_saved_model_copy_and_mudata(world, cells, tmp_path) -> None:
    _, model, _ = world
    model.save(str(tmp_path / "saved"))
    options = {"task": "type", "baselines": ["probe"]}
    copied = sg.tl.evaluate(cells, str(tmp_path / "saved"), copy=True, **options)
    assert "evaluation" not in cells.uns
    mdata = mudata.MuData({"rna": cells})
    assert sg.tl.evaluate(mdata, model, **options) is None
    pd.testing.assert_frame_equal(sg.get.evaluation(mdata), sg.get.evaluation(copied), rtol=1e-4)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "h5mu"])
def test_round_trip(done, tmp_path, suffix) -> None:
    path, cells = tmp_path / f"x.{suffix}", done.copy()
    if suffix == "h5mu":
        mudata.MuData({"rna": cells}).write_h5mu(path)
        back = mudata.read_h5mu(path)["rna"]
    else:
        getattr(cells, f"write_{suffix}")(path)
        back = getattr(ad, f"read_{suffix}")(path)
    for name in ("metrics", "per_class", "confusion"):
        pd.testing.assert_frame_equal(back.uns["evaluation"][name], done.uns["evaluation"][name])
    for name in ("evaluation_proba", "evaluation_probe_proba", "evaluation_hvg_proba"):
        pd.testing.assert_frame_equal(back.obsm[name], done.obsm[name])
    pd.testing.assert_series_equal(back.obs["evaluation"], done.obs["evaluation"])
    fields = [sg.pl.confusion(x, show=False).collections[0].get_array() for x in (back, done)]
    np.testing.assert_array_equal(*fields)


@pytest.fixture
def small(world):
    """A classifier of one column that was trained as told."""

    def train(**options) -> tuple[ad.AnnData, sg.model.CellClassifier]:
        adata = world[0].copy()
        sg.model.CellClassifier.setup_anndata(adata, "type")
        model = sg.model.CellClassifier(adata, world[2], **options.pop("model", {}))
        if options:
            model.train(1, **options, **QUICK)
        return adata, model

    return train


def test_without_test_cells_the_validation_cells_are_scored(small) -> None:
    adata, model = small(train_size=0.8, validation_size=0.2, test_size=0, model={"freeze": "all"})
    sg.tl.evaluate(adata, model, baselines=False)
    assert adata.uns["evaluation"]["params"]["set"] == "validation"
    answered = np.flatnonzero(adata.obsm["evaluation_proba"].notna().all(axis=1))
    assert set(answered) <= set(model.split.validation)
    assert sg.get.evaluation(adata).index[0] == "trained head"


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_class_that_no_test_cell_has_is_named(world, monkeypatch) -> None:
    adata = world[0][world[0].obs["type"].isin(["B", "mono"])].copy()
    of_one_class = np.where(np.arange(adata.n_obs) // 2 % 2 == 0, "first", "second")
    adata.obs["sample"] = adata.obs["type"].astype(str) + of_one_class  # two samples of each class, and three sets
    sg.model.CellClassifier.setup_anndata(adata, "type", sample_key="sample")
    model = sg.model.CellClassifier(adata, world[2], freeze="all")
    model.train(1, **QUICK)
    (tested,) = set(adata.obs["type"].iloc[model.split.test])
    (other,) = {"B", "mono"} - {tested}
    warnings: list[str] = []
    monkeypatch.setattr("scanpy.logging.warning", warnings.append)
    sg.tl.evaluate(adata, model, baselines=False)
    (warning,) = [text for text in warnings if f"No test cell is labelled '{other}'" in text]
    assert "`sample_key`" in warning


def test_a_classifier_of_a_modality(world) -> None:
    mdata = mudata.MuData({"gex": world[0].copy()})
    sg.model.CellClassifier.setup_mudata(mdata, "type", sample_key="donor", modalities={"tokens_key": "gex"})
    model = sg.model.CellClassifier(mdata, world[2])
    model.train(1, train_size=0.5, validation_size=0.25, test_size=0.25, **QUICK)
    sg.tl.evaluate(mdata, model, mod="gex", baselines=["probe"])
    assert set(mdata["gex"].obs["evaluation"].dropna()) == {"train", "validation", "test"}
    sg.tl.annotate(mdata, model, mod="gex")
    told, rows = mdata["gex"].obsm["type_predicted_proba"], mdata["gex"].obsm["evaluation_proba"].notna().all(axis=1)
    np.testing.assert_allclose(told[rows], mdata["gex"].obsm["evaluation_proba"][rows], rtol=1e-5)


def test_nothing_left_to_evaluate(small) -> None:
    adata, model = small(train_size=1.0, validation_size=0, test_size=0)
    with pytest.raises(ValueError, match=r"Every labelled cell was trained on.*test_size"):
        sg.tl.evaluate(adata, model)


def test_bad_input(world, cells, small) -> None:
    _, model, folder = world
    before = set(cells.obsm) | set(cells.uns) | set(cells.obs)
    with pytest.raises(ValueError, match="name one of"):
        sg.tl.evaluate(cells, model)
    with pytest.raises(ValueError, match=r"baselines=\['pca'\] must be True or False or a list"):
        sg.tl.evaluate(cells, model, task="type", baselines=["pca"])
    with pytest.raises(ValueError, match=r"40 cells of adata are not the 160.*sg\.tl\.annotate"):
        sg.tl.evaluate(cells[:40].copy(), model, task="type")
    with pytest.raises(KeyError, match="No layer 'x'"):
        sg.tl.evaluate(cells, model, task="type", layer="x")
    with pytest.raises(TypeError, match="model=3 must be a CellClassifier"):
        sg.tl.evaluate(cells, 3)
    with pytest.raises(TypeError, match="'V2-104M' is a pretrained model, not a CellClassifier"):
        sg.tl.evaluate(cells, "V2-104M")
    assert before == set(cells.obsm) | set(cells.uns) | set(cells.obs)
    adata, untrained = small()
    with pytest.raises(ValueError, match="not been trained"):
        sg.tl.evaluate(adata, untrained)
    empty = ad.AnnData(obs=cells.obs, obsm=dict(cells.obsm), uns=dict(cells.uns))
    empty.uns["geneformer_tokens"]["params"].pop("layer")
    with pytest.raises(ValueError, match=r"no counts in \.X.*baselines"):
        sg.tl.evaluate(empty, model, task="type", baselines=["hvg"])
    with pytest.raises(KeyError, match=r"\.uns\['evaluation'\]\['metrics'\].*sg\.tl\.evaluate"):
        sg.get.evaluation(cells)
    model.export(folder.parent / "exported")
    without_data = sg.model.CellClassifier.from_pretrained(folder.parent / "exported")
    with pytest.raises(ValueError, match="has no data"):
        sg.tl.evaluate(cells, without_data, task="type")


def test_intervals_are_over_donors_and_around_the_scores(world, cells) -> None:
    sg.tl.evaluate(cells, world[1], task="type", baselines=["probe"], n_bootstrap=100)
    run = cells.uns["evaluation"]
    assert run["params"]["resampled"] == (
        "donors" if cells.obs["donor"].iloc[run_rows(cells)].nunique() >= 3 else "cells"
    )
    table = sg.get.evaluation(cells, intervals=True)
    assert list(table.columns[:3]) == ["accuracy", "accuracy_low", "accuracy_high"]
    for score in ("accuracy", "macro_f1", "log_loss"):
        low, value, high = (table.loc[["fine-tuned", "linear probe"], f"{score}{end}"] for end in ("_low", "", "_high"))
        assert (low <= value).all()
        assert (value <= high).all()
    np.testing.assert_array_equal(table[run["metrics"].columns], run["metrics"])


def test_intervals_are_those_of_the_bootstrap(world, cells) -> None:
    sg.tl.evaluate(cells, world[1], task="age", baselines=False, n_bootstrap=50, rng=4)
    rows, truth = run_rows(cells), cells.obs["age"].to_numpy()
    answer, donors = cells.obs["evaluation_predicted"].to_numpy()[rows], cells.obs["donor"].to_numpy()[rows]
    ends = evaluation.bootstrap(
        lambda some: evaluation.regression(truth[rows][some], answer[some]),
        len(rows),
        groups=donors if len(set(donors)) >= 3 else None,
        n_bootstrap=50,
        rng=4,
    )
    table = sg.get.evaluation(cells, intervals=True)
    for score in ("mae", "r2"):
        found = table.loc["fine-tuned", [f"{score}_low", f"{score}_high"]].astype(float)
        np.testing.assert_allclose(found, ends.loc[score], rtol=1e-6)


def test_no_intervals_on_request(world, cells) -> None:
    sg.tl.evaluate(cells, world[1], task="type", baselines=False, n_bootstrap=0)
    assert "intervals" not in cells.uns["evaluation"]
    with pytest.raises(KeyError, match="n_bootstrap above 0"):
        sg.get.evaluation(cells, intervals=True)


def run_rows(cells) -> np.ndarray:
    """Cells that were evaluated."""
    proba = cells.obsm.get("evaluation_proba")
    answered = cells.obs["evaluation_predicted"] if proba is None else proba.iloc[:, 0]
    return np.flatnonzero(answered.notna())


def test_the_threads_of_torch_stay_as_they_were(world, cells) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        sg.tl.evaluate(cells, world[1], task="type")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
