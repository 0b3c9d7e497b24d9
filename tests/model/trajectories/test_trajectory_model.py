"""Decoders trained on trajectories: what they learn, what changes nothing, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from scanpy import logging

import scgeneformer as sg
from scgeneformer import engine, hub, nn
from scgeneformer.model import Geneformer, TrajectoryModel
from scgeneformer.model.trajectories import _queries
from scgeneformer.model.trajectories._baselines import TimeRegression, rank_features, report, verdict

SETUP = {"time_step": 2.0, "group_keys": "type", "sample_key": "donor"}
QUICK = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False, "batch_size": 16}
EXACT = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def cells(make_timed):
    return make_timed()


@pytest.fixture
def notes(monkeypatch) -> list[str]:
    """What is said as a warning."""
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", said.append)
    return said


def new(cells, first_stage, **arguments) -> TrajectoryModel:
    TrajectoryModel.setup_anndata(cells, "day", **SETUP)
    return TrajectoryModel(cells, first_stage, **arguments)


@pytest.fixture
def model(cells, first_stage) -> TrajectoryModel:
    """Trained briefly: its predictions serve to test the code only."""
    model = new(cells, first_stage)
    model.train(max_steps=3, learning_rate=1e-2, **QUICK)
    return model


def test_time_that_is_in_the_cells_is_learned(cells, first_stage, notes):
    TrajectoryModel.setup_anndata(cells, "day", time_step=2.0, sample_key="donor")
    model = TrajectoryModel(cells, first_stage)
    model.train(25, learning_rate=1e-2, p_time=0.8, **QUICK)
    scores, said = model.scores, notes.copy()
    predicted = model.predict(**EXACT)
    assert scores.loc["model", "high"] < 0.6 * scores.loc["most common interval", "low"]
    assert scores.loc["model", "sd_time"] > 0.5 * scores.loc["model", "sd_true_time"]
    assert set(scores["n_queries"]) == {len(model.split.test)}
    assert notes == 2 * verdict(scores)
    assert said == verdict(scores)
    errors = predicted.sub(cells.obs["day"], axis=0).abs().iloc[model.split.test].mean()
    assert errors["time"] < 0.6 * errors["most common interval"]
    np.testing.assert_array_less(errors["ridge regression"], errors["most common interval"])
    assert {"validation_mae", "validation_time_loss", "validation_cell_loss"} <= set(model.history)
    table = model.evaluate_next_cell(4.0, **EXACT)
    assert table["distance"].idxmin() == "mean"
    assert table.loc["model", "distance"] < table.loc["copy", "low"]


def test_baselines_are_what_they_say(cells):
    ranks = rank_features(np.array([[2, 5, 7, 3, 0], [2, 6, 3, 0, 0]]), 8, 4).toarray()
    np.testing.assert_allclose(ranks, [[0, 0, 0, 0, 0, 1, 0, 0.5], [0, 0, 0, 0, 0, 0, 1, 0]])
    tokens, days = cells.obsm["geneformer_tokens"], cells.obs["day"].to_numpy()
    regression = TimeRegression.fit(tokens[:200], days[:200], 44, 4)
    told = regression(tokens[200:])
    assert np.abs(told - days[200:]).mean() < 0.5
    assert (regression.nearest(told) == days[200:]).mean() > 0.9
    np.testing.assert_array_equal(regression.nearest(np.array([-9.0, 5.9, 6.1, 99])), [3, 5, 7, 9])


def test_what_is_known_against_a_model_is_said(notes, monkeypatch):
    columns = {"mae": 1.0, "low": 0.9, "high": 1.1, "sd": 2.0, "sd_time": 2.0, "sd_true": 2.0, "sd_true_time": 2.0}
    names = ["model", "most common interval", "ridge regression"]
    scores = pd.DataFrame([columns] * 3, index=names).astype(float)
    scores.loc[names[1:], "mae"] = [3, 1.5]
    assert verdict(scores) == []
    scores.loc["ridge regression", "mae"] = 0.5
    assert verdict(scores)[0].startswith("The model is no better than a baseline: on held-out cells")
    assert verdict(scores)[0].endswith("error is 1 (0.9 to 1.1), that of the ridge regression 0.5.")
    monkeypatch.setattr(logging, "info", lambda text, **_: notes.append(text))
    report(scores)
    assert notes[0].endswith(
        "model 1 (0.9 to 1.1), most common interval 3 (0.9 to 1.1), ridge regression 0.5 (0.9 to 1.1)"
    )
    assert notes[1:] == verdict(scores)
    scores.loc["model", ["sd_time", "mae"]] = 0.01
    assert [note[:39] for note in verdict(scores)] == ["The model predicts nearly the same time"]
    scores.loc["model", "sd"] = 0.01
    assert [note[:47] for note in verdict(scores)] == ["The model predicts nearly the same elapsed time"]


def test_nothing_is_told_before_the_second_stage(cells, first_stage, notes):
    model = new(cells, first_stage)
    before = cells.copy()
    for ask in (model.predict, model.evaluate, lambda: model.next_cell(2.0), lambda: model.evaluate_next_cell(2.0)):
        with pytest.raises(ValueError, match=r"weights of its first stage only.*`model\.train\(\)`.*would be random"):
            ask()
    with pytest.raises(AttributeError, match="no scores"):
        _ = model.scores
    model.train(max_steps=1, p_time=1.0, test_size=0.0, train_size=0.9, **QUICK)
    with pytest.raises(ValueError, match="trained for elapsed time only.*next cell would be random"):
        model.next_cell(2.0)
    model.predict(indices=[0])
    assert notes == ["This model was trained without test cells: the error of its times is not known."]
    with pytest.raises(ValueError, match="No cells were held out"):
        model.evaluate()
    assert list(cells.obs) == list(before.obs)
    assert list(cells.obsm) == list(before.obsm)


def test_contexts_are_of_training_cells(model, cells):
    trajectories = model._trajectories("elapsed time")
    train = set(model.split.train)
    for group in trajectories.pool.of_group.values():
        assert all(set(rows) <= train for rows in group.values())
    donors = cells.obs["donor"].to_numpy()
    assert not set(donors[model.split.test]) & set(donors[model.split.train])


def test_groups_that_are_held_out_have_their_own_contexts(cells, first_stage):
    TrajectoryModel.setup_anndata(cells, "day", time_step=2.0, group_keys="donor", sample_key="donor")
    model = TrajectoryModel(cells, first_stage)
    model.train(max_steps=1, **QUICK)
    pool, test = model._trajectories("elapsed time").pool, model.split.test
    rng = np.random.default_rng(0)
    drawn = pool.draw(rng, int(pool.cells.groups[test[0]]), (3, 3), without=int(test[0]))
    assert set(drawn) <= set(test) - {test[0]}
    assert len(model.scores) == 4


def test_answers_do_not_depend_on_batches_or_other_cells(model, cells):
    whole = model.predict(**EXACT)
    with sg.settings.override(token_budget=70):
        pd.testing.assert_frame_equal(model.predict(**EXACT), whole, atol=1e-5)
    pd.testing.assert_frame_equal(model.predict(indices=[7, 3], **EXACT), whole.iloc[[7, 3]], atol=1e-5)
    some = model.predict(cells, indices=np.arange(240) == 5, **EXACT)
    pd.testing.assert_frame_equal(some, whole.iloc[[5]], atol=1e-5)
    query = cells[:9].copy()
    del query.obs["day"]
    pd.testing.assert_frame_equal(model.predict(query, **EXACT), whole.iloc[:9], atol=1e-5)
    assert (model.predict(rng=1, **EXACT)["time"] != whole["time"]).all()
    assert (model.predict(n_contexts=1, **EXACT)["sd"] == 0).all()


def test_times_are_those_of_the_last_cells_and_what_is_told(model, cells):
    """A model that finds all numbers equally likely predicts the mean time of the last cells for every cell."""
    model.module.network.head.weight.data[:] = 0
    tokens = model.module.tokens
    model.module.network.encoder.norm.gain.data[:] = 0  # all scores are alike: the expected number is 0
    predicted = model.predict(n_contexts=400, indices=[0], **EXACT)
    assert tokens.values.mean() == 0
    assert predicted["time"].iloc[0] == pytest.approx(cells.obs["day"].unique().mean(), abs=0.3)
    common = (predicted["most common interval"] - predicted["time"]).iloc[0]
    assert common == pytest.approx(2 * model._regression[0], abs=1e-5)


def test_one_seed_gives_one_model(model, make_timed, first_stage):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = new(make_timed(), first_stage)
    again.train(max_steps=3, learning_rate=1e-2, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(model.predict(**EXACT), again.predict(**EXACT))
    pd.testing.assert_frame_equal(model.scores, again.scores)
    other = new(make_timed(), first_stage)
    other.train(max_steps=3, learning_rate=1e-2, rng=1, **QUICK)
    assert (model.predict(**EXACT)["time"] != other.predict(**EXACT)["time"]).any()


def test_a_saved_model_comes_back_and_is_a_decoder_to_the_tools(model, cells, vocabulary, tmp_path):
    model.save(tmp_path / "model")
    again = TrajectoryModel.load(tmp_path / "model", cells)
    assert again.encoder.config == model.encoder.config
    pd.testing.assert_frame_equal(again.predict(**EXACT), model.predict(**EXACT))
    pd.testing.assert_frame_equal(again.scores, model.scores)
    assert model.next_cell(2.0, indices=[1]).obsm["geneformer_tokens"].tolist() == (
        again.next_cell(2.0, indices=[1]).obsm["geneformer_tokens"].tolist()
    )
    again.train(max_steps=1, **QUICK)
    np.testing.assert_array_equal(again.split.test, model.split.test)
    dictionary = json.loads((tmp_path / "model" / "token_dictionary.json").read_text())
    assert (dictionary["-3"], dictionary["3"], dictionary["<boq>"], dictionary["<eoq>"]) == (44, 50, 51, 52)
    sg.tl.embed(cells, tmp_path / "model")
    expected = model.get_latent_representation(**EXACT)
    np.testing.assert_allclose(cells.obsm["X_geneformer"], expected, atol=1e-5)
    with pytest.raises(ValueError, match="9 tokens beyond its vocabulary.*TrajectoryModel.load"):
        TrajectoryModel(cells, tmp_path / "model")
    other = TrajectoryModel.load(tmp_path / "model", cells[::-1].copy())
    with pytest.raises(ValueError, match="not the cells that it was trained on, in their order"):
        other.predict()
    other.train(max_steps=1, **QUICK)  # with a new split
    assert len(other.predict()) == 240
    alone = TrajectoryModel.load(tmp_path / "model")
    for ask in (alone.predict, alone.train):
        with pytest.raises(ValueError, match="no data"):
            ask()
    del dictionary["<pad>"]  # as some extracted it: all tokens one lower
    wrong = {name: token - 1 for name, token in dictionary.items()} | {"<bos>": 52}
    (tmp_path / "model" / "token_dictionary.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="extracted incorrectly"):
        TrajectoryModel(cells, tmp_path / "model")


def test_a_resumed_run_ends_as_one_that_never_stopped(make_timed, first_stage, tmp_path):
    ends = []
    for stops in ([None], [2, None]):
        folder = tmp_path / str(len(stops))
        for stop in stops:
            model = new(make_timed(60), first_stage)
            checkpoint = folder / "last.ckpt"
            resumed = {"ckpt_path": checkpoint} if checkpoint.is_file() else {}
            options = {"checkpoints": folder, "checkpoint_every": 1, "plan_kwargs": {"total_steps": 5}, "max_epochs": 3}
            model.train(max_steps=stop or 5, test_size=0.0, train_size=0.9, **options, **resumed, **QUICK)
        ends.append({name: value.clone() for name, value in model.module.state_dict().items()})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_longer_trajectories_than_the_decoder_has_positions(cells, vocabulary, first_stage):
    model = new(cells, first_stage)
    assert model.encoder.config.rope_scaling is None  # four cells of 14 tokens fit
    config = nn.LlamaConfig(44, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=32)
    shorter = sg.Vocabulary("toy", vocabulary.ids, vocabulary.medians, 32)
    cells.uns["geneformer_tokens"]["params"]["vocabulary_hash"] = shorter.hash
    model = new(cells, hub.Pretrained("short", shorter, model=nn.NextGeneModel(config)))
    assert model.encoder.config.rope_scaling == nn.RopeScaling(factor=61 / 32, original_length=32)
    model.train(max_steps=1, **QUICK)
    short = new(cells, hub.Pretrained("short", shorter, model=nn.NextGeneModel(config)), max_length=53)
    short.train(max_steps=1, **QUICK)  # first cells are cut
    with pytest.raises(ValueError, match=r"cannot be cut to max_length=40.*max_length=51 or more.*n_cells=.*tokenize"):
        new(cells, hub.Pretrained("short", shorter, model=nn.NextGeneModel(config)), max_length=40).train(**QUICK)


def slowly(network, context: list[int], max_length: int) -> list[int]:
    """A cell behind a context, read as a whole for each gene, always of the highest score."""
    cell = [2]
    while cell[-1] != 3:
        with torch.no_grad():
            scores = network(torch.tensor([context + cell]))[0, -1]
        scores[:3] = scores[44:] = -torch.inf
        scores[[token for token in cell if token != 3]] = -torch.inf
        cell.append(3 if len(cell) == max_length - 1 else int(scores.argmax()))
    return cell


def test_next_cells_are_those_of_a_slow_loop(model, cells, monkeypatch):
    contexts = []

    def complete(*args, **kwargs):
        contexts.append(kwargs["context"])
        return engine.complete(*args, **kwargs)

    monkeypatch.setattr(_queries, "engine", SimpleNamespace(complete=complete, row_lengths=engine.row_lengths))
    model.module.network.head.weight.data *= 30
    with sg.settings.override(token_budget=150):
        drawn = model.next_cell(2.0, indices=np.arange(12), top_k=1, max_length=9, **EXACT)
    assert drawn.obs["day"].tolist() == (cells.obs["day"][:12] + 2).tolist()
    for i, row in enumerate(contexts[0]):
        context = row[row > 0].tolist()
        own = cells.obsm["geneformer_tokens"][i]
        own = own[own > 0].tolist()
        assert context[-len(own) - 3 :] == [*own, 51, 48, 52]  # the cell itself, and one step
        found = drawn.obsm["geneformer_tokens"][i]
        assert found[found > 0].tolist() == slowly(model.module.network, context, 9)
    sg.tl.embed(drawn, model, tokens_key="geneformer_tokens")
    assert drawn.obsm["X_geneformer"].shape == (12, 24)


def test_times_without_cells_are_named(model, cells, notes):
    last = np.flatnonzero(cells.obs["day"] == 9)[:2]
    model.next_cell(2.0, indices=last, max_length=5)
    assert notes == ["2 of 2 cells are to be drawn for times at which the data of this model have no cells."]
    with pytest.raises(ValueError, match="interval of 4 steps has no token.*-3 to 3"):
        model.next_cell(8.0, indices=[0])
    with pytest.raises(ValueError, match="No test cell has test and training cells 4 steps later"):
        model.evaluate_next_cell(8.0)


def test_cells_without_genes_are_left_out(make_timed, first_stage):
    cells = make_timed(80)
    cells.obsm["geneformer_tokens"][5] = [2, 3] + [0] * 62
    model = new(cells, first_stage)
    model.train(max_steps=2, **QUICK)
    assert 5 not in np.concatenate([model.split.train, model.split.validation, model.split.test])
    predicted = model.predict(**EXACT)
    assert predicted.isna().all(axis=1).tolist() == [i == 5 for i in range(80)]
    assert model.next_cell(2.0, indices=[5, 6], max_length=4).obs["n_tokens"].tolist()[0] == 0


def test_mudata(cells, make_timed, first_stage, model):
    mdata = mudata.MuData({"rna": make_timed()})
    TrajectoryModel.setup_mudata(mdata, "day", **SETUP)
    other = TrajectoryModel(mdata, first_stage)
    other.train(max_steps=3, learning_rate=1e-2, **QUICK)
    pd.testing.assert_frame_equal(other.predict(**EXACT), model.predict(**EXACT))
    pd.testing.assert_frame_equal(other.predict(mdata, [3], **EXACT), model.predict(indices=[3], **EXACT))


BAD = {
    "no column": (lambda a: a.obs.pop("day"), {}, KeyError, r"No column 'day' in \.obs"),
    "no group": (lambda a: a.obs.pop("type"), {}, KeyError, r"No column 'type' in \.obs"),
    "no sample": (lambda a: a.obs.pop("donor"), {}, KeyError, r"No column 'donor' in \.obs"),
    "text": (lambda a: a.obs.__setitem__("day", "day2"), {}, TypeError, r"\.obs\['day'\].*'day2'.*str\.extract"),
    "yes and no": (lambda a: a.obs.__setitem__("day", True), {}, TypeError, "must be numbers"),
    "NaN": (lambda a: a.obs.loc.__setitem__(("cell3", "day"), np.nan), {}, ValueError, r"1 of 40 cells have no finite time in \.obs\['day'\]. Remove them"),
    "one time": (lambda a: a.obs.__setitem__("day", 3.0), {}, ValueError, r"within one step \(3 to 3.*several times"),
    "coarse": (lambda a: None, {"time_step": 100.0}, ValueError, "smaller time_step="),
    "fine": (lambda a: None, {"time_step": 1e-4}, ValueError, "60,000 steps.*larger time_step="),
    "step": (lambda a: None, {"time_step": 0.0}, ValueError, "time_step=0.0"),
    "no value": (lambda a: a.obs.loc.__setitem__(("cell3", "type"), np.nan), {}, ValueError, r"1 cells have no value in \.obs\['type'\]"),
    "no tokens": (lambda a: a.obsm.pop("geneformer_tokens"), {}, KeyError, r"sg\.pp\.tokenize"),
    "word": (lambda a: None, {"batch_key": "donor"}, TypeError, "sets up no 'batch_key'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_and_left_as_they_are(case, make_timed):
    cells = make_timed(40)
    change, arguments, error, match = BAD[case]
    change(cells)
    before = cells.copy()
    with pytest.raises(error, match=match):
        TrajectoryModel.setup_anndata(cells, "day", **SETUP | arguments)
    assert list(cells.obs) == list(before.obs)
    assert list(cells.uns) == list(before.uns)


def test_bad_models_are_refused(make_timed, vocabulary, first_stage, toy):
    cells = make_timed(40)
    TrajectoryModel.setup_anndata(cells, "day", **SETUP)
    encoder = Geneformer(vocabulary=vocabulary, n_layers=1, width=16, n_heads=2, feed_forward=16)
    with pytest.raises(ValueError, match="TrajectoryModel needs completion of cells, but this model is a BERT encoder"):
        TrajectoryModel(cells, encoder)
    with pytest.raises(ValueError, match=r"n_cells=\(4, 3\)"):
        TrajectoryModel(cells, first_stage, n_cells=(4, 3))
    with pytest.raises(ValueError, match="Pass tokenized `adata` with times"):
        TrajectoryModel(None, first_stage)
    older = toy[0](special=2)
    config = nn.LlamaConfig(42, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=64)
    cells.uns["geneformer_tokens"]["params"]["vocabulary_hash"] = older.hash
    TrajectoryModel.setup_anndata(cells, "day")
    with pytest.raises(ValueError, match="no <cls> and <eos>"):
        TrajectoryModel(cells, hub.Pretrained("V1", older, model=nn.NextGeneModel(config)))


def test_groups_with_too_few_times_are_named(make_timed, first_stage):
    cells = make_timed(40)
    cells.obs.loc[cells.obs["type"] == "B", "day"] = 3.0
    TrajectoryModel.setup_anndata(cells, "day", **SETUP)
    with pytest.raises(ValueError, match=r"fewer than 2 times: B.*\.obs\['day'\].*group_keys= \(now \['type'\]\)"):
        TrajectoryModel(cells, first_stage)
    TrajectoryModel.setup_anndata(cells, "day", time_step=2.0)
    model = TrajectoryModel(cells, first_stage)
    days = cells.obs["day"].to_numpy()
    held_out = sg.evaluation.Split(np.flatnonzero(days == 3), np.flatnonzero(days != 3), np.zeros(0, int))
    with pytest.raises(ValueError, match="0 training cells have other training cells of 2 times"):
        model.train(split=held_out, **QUICK)
    assert model.split_ is None
    few = make_timed(40)
    few = few[few.obs["day"] < 7].copy()
    TrajectoryModel.setup_anndata(few, "day", time_step=2.0)
    with pytest.raises(ValueError, match="All cells: a trajectory begins with cells of 3 different times"):
        TrajectoryModel(few, first_stage, n_cells=(4, 4))


def test_bad_queries_are_refused(model, make_timed, cells, toy):
    query = make_timed(9, seed=1)
    query.obs["type"] = "NK"
    with pytest.raises(ValueError, match="no cells of these groups.*'type'.*NK"):
        model.predict(query)
    del query.obs["type"]
    with pytest.raises(KeyError, match="No column 'type'"):
        model.predict(query)
    query = make_timed(9, seed=1)
    query.obs["day"] = 30.0
    assert model.predict(query, **EXACT).notna().all(axis=None)
    with pytest.raises(ValueError, match=r"times from 30 to 30, but this model was set up with 3 to 9"):
        model.next_cell(2.0, query)
    other = toy[1](5, toy[0]("other", 30))
    other.obs["type"] = "T"
    with pytest.raises(ValueError, match="vocabulary 'other'"):
        model.predict(other)
    with pytest.raises(ValueError, match="n_contexts=0"):
        model.predict(n_contexts=0)
