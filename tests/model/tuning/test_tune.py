"""Hyperparameter tuning gives the results of plain training, whatever fails on the way."""

from __future__ import annotations

import errno
import json
import os
import runpy
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import ray
import torch
from ray import tune as ray_tune

from scgeneformer import settings
from scgeneformer._run_folder import locked
from scgeneformer.model import CellClassifier, Geneformer
from scgeneformer.model.tuning._ray import _listed, ended, portable
from scgeneformer.model.tuning._space import default_space, described, longest, resolve_space
from scgeneformer.model.tuning._trial import Search, run_trial
from scgeneformer.model.tuning._tune import _read_result, tune

SIZES = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 32}
TRAINING = {"token_budget": 512, "precision": "32-true"}
N_TRIALS, EPOCHS = 6, 3


def make_witness(file: Path, poisoned: bool):
    """Callback that notes which trials start and end; if poisoned, the third dies with its process and the fifth by an error."""

    class Witness(pl.Callback):  # local, so that Ray sends the class itself
        def note(self, plan, what):
            with file.open("a") as lines:
                lines.write(f"{what} {plan.lr!r}\n")

        def on_train_start(self, trainer, plan):
            self.note(plan, "start")
            time.sleep(float(os.environ.get("TRIAL_SECONDS", "0")))

        def on_validation_end(self, trainer, plan):
            name = Path(ray_tune.get_context().get_trial_dir()).name
            if poisoned and not trainer.sanity_checking and name == "trial_00002":
                os._exit(1)
            if poisoned and not trainer.sanity_checking and name == "trial_00004":
                msg = "poison"
                raise OSError(msg)

        def on_fit_end(self, trainer, plan):
            self.note(plan, "end")

    return Witness()


def search(cells, vocabulary, folder: Path, *, poisoned: bool = False, **kwargs):
    Geneformer.setup_anndata(cells)
    space = {
        "learning_rate": ray_tune.loguniform(1e-3, 1e-1),
        "warmup": [0.0, 0.2],
        "dropout": ray_tune.uniform(0, 0.2),
    }
    train = TRAINING | {"callbacks": [make_witness(folder.with_suffix(".log"), poisoned)]}
    sizes = SIZES | {"vocabulary": vocabulary}
    options = {"n_trials": N_TRIALS, "max_epochs": EPOCHS, "rng": 3, "folder": folder}
    return tune(Geneformer, cells, space, model_params=sizes, train_params=train, **options | kwargs)


@pytest.fixture(scope="module")
def cluster():
    os.environ.setdefault(
        "RAY_TQDM_PATCH_PRINT", "0"
    )  # as `tune` does where it starts Ray: print is no other tests' either
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2, object_store_memory=80 * 2**20)
    with settings.override(progress=False):
        yield
    ray.shutdown()


def make_toys():
    """Cells and vocabulary by the makers of conftest.py, which pytest does not let a module import."""
    makers = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    vocabulary = makers["make_vocabulary"]()
    return makers["make_cells"](120, vocabulary), vocabulary


@pytest.fixture(scope="module")
def toys():
    return make_toys()


@pytest.fixture(scope="module")
def found(cluster, toys, tmp_path_factory):
    """One trial after the other: which ones ASHA stops depends on the order in which they report, and if each is better than those before, none."""
    return search(*toys, tmp_path_factory.mktemp("tune") / "found", poisoned=True, max_concurrent=1)


def test_trials_that_die_are_in_the_table_and_the_others_go_on(found):
    table = found.table
    assert len(table) == N_TRIALS
    assert table.index[table["status"] == "failed"].tolist() == [2, 4]
    assert "died" in table["error"][2]
    assert table["error"][4] == "OSError: poison"
    alive = table.drop([2, 4])
    assert alive["error"].isna().all()
    assert np.isfinite(alive["validation_loss"]).all()
    assert table["learning_rate"].between(1e-3, 1e-1).all()
    assert table["learning_rate"].nunique() == N_TRIALS


def test_only_the_better_trials_come_to_their_end(found):
    finished, stopped = (found.table[found.table["status"] == status] for status in ("finished", "stopped"))
    assert len(finished) > 0
    assert len(stopped) > 0
    assert (finished["epochs"] == EPOCHS).all()
    assert (stopped["epochs"] < EPOCHS).all()


def test_the_best_model_is_the_one_that_was_measured(found, toys):
    model, best = found.best_model, found.table.loc[found.table["validation_loss"].idxmin()]
    assert {name: best[name] for name in found.best_params} == found.best_params
    assert model.adata is toys[0]
    assert model.is_trained_
    assert model.history["validation_loss"].iloc[-1].item() == pytest.approx(best["validation_loss"])
    cells = model.train_indices, model.validation_indices
    model.train(1, learning_rate=0.0, accelerator="cpu", rng=3, enable_progress_bar=False, **TRAINING)
    assert model.history["validation_loss"].iloc[-1].item() == pytest.approx(best["validation_loss"], rel=1e-5)
    for before, now in zip(cells, (model.train_indices, model.validation_indices), strict=True):
        np.testing.assert_array_equal(before, now)


def test_a_trial_is_plain_training(found, toys):
    cells, vocabulary = toys
    arguments = dict(found.best_params)
    Geneformer.setup_anndata(cells)
    torch.manual_seed(3)
    model = Geneformer(cells, vocabulary=vocabulary, dropout=arguments.pop("dropout"), **SIZES)
    model.train(EPOCHS, accelerator="cpu", rng=3, enable_progress_bar=False, **TRAINING, **arguments)
    losses = model.history["validation_loss"]["validation_loss"]
    assert losses.min() == pytest.approx(found.table["validation_loss"].min(), rel=1e-4)


def test_a_killed_search_goes_on_and_repeats_the_other(cluster, found, toys, tmp_path):
    """A driver of its own starts Ray by itself, and is killed when half of its trials are done."""
    folder, notes = tmp_path / "killed", tmp_path / "killed.log"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["TRIAL_SECONDS"] = (
        "3"  # so that what ended is on the disk, which takes a second, before the last ones end
    )
    driver = subprocess.Popen([sys.executable, __file__, str(folder)], env=environment, stderr=subprocess.DEVNULL)
    try:
        while driver.poll() is None and (not notes.exists() or notes.read_text().count("end") < 3):
            time.sleep(0.1)
        time.sleep(1.5)
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()
    time.sleep(1)  # its workers end with it
    known = [line.split()[1] for line in notes.read_text().splitlines() if line.startswith("end")][:2]
    again = search(*toys, folder, scheduler="fifo")
    lines = notes.read_text().splitlines()
    assert [lines.count(f"start {rate}") for rate in known] == [1, 1]
    assert (again.table["status"] == "finished").all()
    pd.testing.assert_frame_equal(again.table[list(found.best_params)], found.table[list(found.best_params)])
    same = found.table.index[found.table["status"] == "finished"]
    np.testing.assert_allclose(
        again.table.loc[same, "validation_loss"], found.table.loc[same, "validation_loss"], rtol=1e-6
    )
    once_more = search(*toys, folder, scheduler="fifo")
    pd.testing.assert_frame_equal(once_more.table, again.table)
    assert notes.read_text().splitlines() == lines


def test_a_classifier_by_macro_f1(cluster, toys, tmp_path):
    cells, vocabulary = toys[0].copy(), toys[1]
    first = cells.obsm["geneformer_tokens"][:, 1].astype(int)
    cells.obs["type"] = pd.Categorical([f"type {i}" for i in (first - 4) // 10])
    CellClassifier.setup_anndata(cells, "type")
    start = Geneformer(vocabulary=vocabulary, **SIZES)
    space = {"learning_rate": [1e-6, 2e-2], "freeze": [0, "all"]}
    metric = "validation_macro_f1"
    given = {
        "model_params": {"pretrained": start},
        "train_params": TRAINING,
        "searcher": "hyperopt",
        "max_concurrent": 2,
    }
    result = tune(CellClassifier, cells, space, metric=metric, n_trials=4, max_epochs=4, folder=tmp_path, **given)
    table, model = result.table, result.best_model
    assert table[metric].max() > table[metric].min()
    cells_of = model.split.validation
    from sklearn.metrics import f1_score

    score = f1_score(cells.obs["type"].iloc[cells_of], model.predict(indices=cells_of).astype(str), average="macro")
    assert score == pytest.approx(table[metric].max(), abs=1e-6)
    assert set(model.temperature_) == {"type"}
    for name, weights in model.start_encoder().state_dict().items():
        assert torch.equal(weights, start.encoder.state_dict()[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": {"learning_speed": [1, 2]}}, "learning_speed"),
        ({"space": {"validation_size": [0.1, 0.5]}}, "determines the validation cells"),
        ({"space": {"width": [8, 16]}}, "among the fixed arguments"),
        ({"space": {"learning_rate": 1e-3}}, "must be a list"),
        ({"space": {"learning_rate": []}}, "must be a list"),
        ({"space": {"optimizer": [torch.optim.Adam]}}, "plain values"),
        ({"space": {"mask_probability": [0.1, 0.3]}}, "cannot be compared between values of mask_probability"),
        ({"train_params": {"checkpoints": "folder"}}, "the same checkpoints"),
        ({"train_params": {"max_epochs": 3}}, "argument of tune"),
        ({"mode": "least"}, "mode='least'"),
        ({"train_params": {"recipe": "auto"}}, "recipe='auto'"),
        ({"space": {"recipe": ["plain", "official"]}}, "a trial is one run"),
        ({"scheduler": "hyperband"}, "scheduler='hyperband'"),
        ({"searcher": "grid"}, "searcher='grid'"),
        ({"n_trials": 0}, "n_trials=0"),
        ({"metric": "validation_accuracy"}, "metric was 'validation_loss', is 'validation_accuracy'"),
        ({"rng": 4}, "another search: rng was 3, is 4"),
        ({"model_params": {"width": 8}}, r"model_params.width was 16, is 8; model_params.vocabulary was .*, is None"),
        ({"adata": "other"}, "another search: data was"),
    ],
)
def test_refuses(found, toys, arguments, message):
    cells, vocabulary = toys
    space = {
        "learning_rate": ray_tune.loguniform(1e-3, 1e-1),
        "warmup": [0.0, 0.2],
        "dropout": ray_tune.uniform(0, 0.2),
    }
    if "adata" in arguments:
        cells = cells[:100].copy()
    Geneformer.setup_anndata(cells)
    train = TRAINING | {"callbacks": [make_witness(found.folder.with_suffix(".log"), True)]}
    given = {"space": space, "n_trials": N_TRIALS, "max_epochs": EPOCHS, "rng": 3, "train_params": train}
    given |= {"model_params": SIZES | {"vocabulary": vocabulary}} | arguments | {"adata": cells}
    given["model_params"] = {**SIZES, **given["model_params"]}
    with pytest.raises(ValueError, match=message):
        tune(Geneformer, folder=found.folder, **given)


def test_another_search_in_the_folder_is_named(toys, tmp_path):
    cells, vocabulary = toys
    Geneformer.setup_anndata(cells)
    given = {"model_params": SIZES | {"vocabulary": vocabulary}, "n_trials": 1}
    with locked(tmp_path, "folder"), pytest.raises(BlockingIOError, match="folder=.* is in use by process"):
        tune(Geneformer, cells, {"learning_rate": [1e-3]}, folder=tmp_path, **given)
    assert not (tmp_path / "search.json").exists()


def test_refuses_data_that_it_cannot_send(toys, tmp_path):
    cells = make_toys()[0]
    with pytest.raises(ValueError, match="set up your AnnData"):
        tune(Geneformer, cells, {"learning_rate": [1e-3]}, folder=tmp_path)
    with pytest.raises(TypeError, match="register and pass the modality"):
        tune(Geneformer, {"rna": cells}, {"learning_rate": [1e-3]}, folder=tmp_path)


def test_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'scgeneformer\[tune\]'"):
        default_space(Geneformer)


@pytest.mark.parametrize(("metric", "message"), [("validation_f1", "not among"), ("validation_loss", "There was no")])
def test_a_trial_without_the_metric_says_so(toys, metric, message):
    cells, vocabulary = toys
    training = TRAINING | {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    training |= {"train_size": 1.0} if metric == "validation_loss" else {}
    shared = {"setup_method": "setup_anndata", "setup_args": {}, "model_params": SIZES | {"vocabulary": vocabulary}}
    shared |= {"train_params": training, "constructed": frozenset(), "metric": metric, "mode": "min", "rng": 0}
    with pytest.raises(ValueError, match=message):
        run_trial({}, Search(Geneformer, cells, threads=torch.get_num_threads(), settings={}, **shared))


@pytest.mark.parametrize(
    ("metrics", "error", "expected"),
    [
        ({"finished": True, "done": False}, None, True),  # as Ray sometimes leaves it after a kill
        ({"finished": False, "done": True}, None, True),  # by the scheduler
        ({"finished": False, "done": False}, None, False),
        ({}, None, False),
        (None, OSError("disk"), True),
    ],
)
def test_which_trials_ended(metrics, error, expected):
    assert ended(SimpleNamespace(metrics=metrics, error=error)) is expected


def test_a_search_without_survivors_is_an_error(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps({"warmup": 0.1}))
    dead = SimpleNamespace(path=str(tmp_path), metrics={}, error=OSError("disk\nfull"), best_checkpoints=[])
    with pytest.raises(RuntimeError, match="All 1 trials failed; the first: OSError: disk"):
        _read_result([dead], SimpleNamespace(metric="validation_loss", mode="min"), None, tmp_path)


def make_full_disk(room: Path):
    """Callback that has no space for the second trial until there is a file `room`."""

    class FullDisk(pl.Callback):
        def on_validation_end(self, trainer, plan):
            name = Path(ray_tune.get_context().get_trial_dir()).name
            if not trainer.sanity_checking and name == "trial_00001" and not room.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    return FullDisk()


def test_trials_without_space_on_the_disk_run_again_and_the_others_do_not(cluster, toys, tmp_path):
    folder, room = tmp_path / "full", tmp_path / "room"
    log, disk = folder.with_suffix(".log"), make_full_disk(room)

    def tuned():
        Geneformer.setup_anndata(toys[0])
        train = TRAINING | {"callbacks": [make_witness(log, poisoned=False), disk]}
        sizes, space = SIZES | {"vocabulary": toys[1]}, {"learning_rate": ray_tune.loguniform(1e-3, 1e-1)}
        options = {"n_trials": 2, "max_epochs": 1, "folder": folder, "max_concurrent": 1}
        return tune(Geneformer, toys[0], space, model_params=sizes, train_params=train, **options)

    with pytest.raises(OSError, match=r"No space for 1 of 2 trials in .*Make room") as full:
        tuned()
    assert full.value.errno == errno.ENOSPC
    ended_first = [line for line in log.read_text().splitlines() if line.startswith("end")]
    room.touch()
    assert tuned().table["status"].tolist() == ["finished", "finished"]
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith("end")][:1] == ended_first
    assert sorted(line.split()[0] for line in lines) == ["end", "end", "start", "start", "start"]

    # what Ray wrote last did not fit
    state = sorted((folder / "trials").glob("experiment_state-*.json"))[-1]
    state.write_text(state.read_text()[:-100])
    with pytest.warns(UserWarning, match="is incomplete: all trials start again"):
        table = tuned().table
    assert table["status"].tolist() == ["finished", "finished"]
    assert log.read_text().count("start") == 5


def test_errors_of_ray_on_a_full_disk_say_that_it_is_full(tmp_path, monkeypatch):
    def fit():
        raise EOFError  # what is left of a pickled error

    with pytest.raises(EOFError):
        _listed(SimpleNamespace(fit=fit), tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space for Ray's own files") as full:
        _listed(SimpleNamespace(fit=fit), tmp_path)
    assert full.value.errno == errno.ENOSPC


@pytest.mark.parametrize("model_cls", [Geneformer, CellClassifier])
def test_default_spaces_can_be_drawn_from(model_cls):
    space = resolve_space(model_cls, None, ["warmup"], "validation_loss")
    assert set(space) == set(default_space(model_cls)) - {"warmup"}
    assert ("freeze" in space) == (model_cls is CellClassifier)
    for domain in space.values():
        assert all(domain.is_valid(domain.sample()) for _ in range(5))


@pytest.mark.parametrize(
    ("epochs", "most"), [(None, 7), ([3, 9, 2], 9), (ray_tune.randint(2, 6), 6), (ray_tune.qrandint(2, 8, 2), 8)]
)
def test_epochs_of_the_longest_trial(epochs, most):
    space = {} if epochs is None else {"max_epochs": epochs}
    assert longest(resolve_space(Geneformer, space, [], "validation_loss"), 7) == most


def test_only_what_is_registered_is_sent(toys):
    cells = toys[0].copy()
    cells.obsm["X_pca"] = np.zeros((len(cells), 3))
    Geneformer.setup_anndata(cells)
    sent = portable(cells, Geneformer._get_most_recent_anndata_manager(cells).registry)
    assert list(sent.obsm) == list(sent.uns) == ["geneformer_tokens"]
    np.testing.assert_array_equal(sent.obsm["geneformer_tokens"], cells.obsm["geneformer_tokens"])


def test_descriptions_tell_searches_apart(toys):
    models = [Geneformer(vocabulary=toys[1], **SIZES) for _ in range(2)]
    assert described(models[0]) != described(models[1])
    assert described(models[0]) == described(models[0])
    pairs = [(ray_tune.uniform(0, 1), ray_tune.uniform(0, 2)), (ray_tune.uniform(1, 2), ray_tune.loguniform(1, 2))]
    pairs += [(ray_tune.choice([1, 2]), ray_tune.choice([1, 3])), (toys[1], None), (Path("a"), Path("b"))]
    assert all(described(one) != described(other) for one, other in pairs)


if __name__ == "__main__":
    settings.progress = False
    search(*make_toys(), Path(sys.argv[1]), scheduler="fifo")


def test_print_is_python_s_own(found):
    """Ray puts another in its place, with which numba compiles nothing that prints, such as the search for neighbours."""
    assert isinstance(print, types.BuiltinFunctionType)
