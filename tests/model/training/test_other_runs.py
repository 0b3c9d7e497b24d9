"""A checkpoint is resumed only by the run that wrote it, and a folder has one run at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgeneformer._run_folder import locked
from scgeneformer.model import CellClassifier, Corpus, GeneClassifier, Geneformer
from scgeneformer.model.training._checkpoint_files import read_checkpoint

KEY = "geneformer_tokens"
SHAPE = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 16, "dropout": 0.2}
RUN = {"max_epochs": 2, "learning_rate": 1e-2, "batch_size": 20, "checkpoint_every": 1}


@pytest.fixture
def warnings_of_scanpy(monkeypatch):
    """What is logged as a warning."""
    told = []
    monkeypatch.setattr("scanpy.logging.warning", told.append)
    return told


def masked_genes(cells, vocabulary, **changed):
    Geneformer.setup_anndata(cells)
    torch.manual_seed(0)
    return Geneformer(cells, vocabulary=vocabulary, **SHAPE | changed)


@pytest.fixture
def begun(cells, vocabulary, quick, tmp_path):
    """Two steps of a run, its data, and how to resume it."""
    arguments = quick | RUN | {"checkpoints": tmp_path / "run"}
    masked_genes(cells, vocabulary).train(**arguments, callbacks=[Halt(2)])
    again = arguments | {"ckpt_path": tmp_path / "run" / "last.ckpt"}
    return SimpleNamespace(cells=cells, vocabulary=vocabulary, folder=tmp_path / "run", new=arguments, again=again)


class Halt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == self.step


OPTIONS = {
    "learning_rate": (2e-2, "learning_rate was 0.01 and is 0.02"),
    "weight_decay": (0.1, "weight_decay was 0.001 and is 0.1"),
    "optimizer": ("adam", "optimizer was 'adamw' and is 'adam'"),
    "schedule": ("cosine", "schedule was 'linear' and is 'cosine'"),
    "warmup": (0.5, "warmup was 0.05 and is 0.5"),
    "plan_kwargs": ({"betas": (0.9, 0.99)}, r"betas was \[0.9, 0.999\] and is \[0.9, 0.99\]"),
    "batch_size": (12, "batch_size was 20 and is 12"),
    "gradient_clip": (0.5, "gradient_clip was 1.0 and is 0.5"),
    "accumulate": (2, "accumulate was 1 and is 2"),
    "precision": ("64-true", "precision was '32-true' and is '64-true'"),
    "early_stopping": (True, "early_stopping was None and is {.*'monitor': 'validation_loss'"),
    "keep_best": ("validation_loss", "keep_best was None and is 'validation_loss'"),
    "masking": ("geneformer", "masking was 'protected' and is 'geneformer'"),
    "mask_probability": (0.3, "mask_probability was 0.15 and is 0.3"),
    "rng": (1, r"rng was 0 and is 1; training cells was \w{12}\.\.\. and is"),
    "validation_size": (0.2, "training cells was"),
    "max_epochs": (3, "max_epochs was 2 and is 3"),
    "max_steps": (5, "max_steps was -1 and is 5"),
    "limit_train_batches": (3, "limit_train_batches was 1.0 and is 3"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_other_options_are_refused_by_name(begun, name):
    value, words = OPTIONS[name]
    model, before = masked_genes(begun.cells, begun.vocabulary), sorted(begun.folder.iterdir())
    with pytest.raises(ValueError, match=f"is of another run: .*{words}.*Pass the same data and arguments"):
        model.train(**begun.again | {name: value})
    assert not model.is_trained_
    with pytest.raises(ValueError, match=f"holds a checkpoint of another run: .*{words}.*Name another folder"):
        model.train(**begun.new | {name: value})
    assert sorted(begun.folder.iterdir()) == before


def other_tokens(cells):
    cells.obsm[KEY][7, 1:3] = cells.obsm[KEY][7, [2, 1]]


def other_order(cells):
    cells.obsm[KEY][:] = cells.obsm[KEY][::-1].copy()


def shorter(cells):
    row = cells.obsm[KEY][7]
    n = int((row > 0).sum())
    row[n - 2 : n] = [3, 0]


@pytest.mark.parametrize("change", [other_tokens, other_order, shorter], ids=lambda f: f.__name__)
def test_other_cells_are_refused(begun, change):
    change(begun.cells)
    with pytest.raises(ValueError, match="is of another run: (training|validation) cells was"):
        masked_genes(begun.cells, begun.vocabulary).train(**begun.again)


@pytest.mark.parametrize(
    ("name", "value"), [("width", 8), ("n_layers", 2), ("n_heads", 1), ("dropout", 0.1), ("activation", "gelu")]
)
def test_another_network_is_refused(begun, name, value):
    with pytest.raises(ValueError, match=f"is of another run: {name} was .* and is {value!r}"):
        masked_genes(begun.cells, begun.vocabulary, **{name: value}).train(**begun.again)


def test_another_vocabulary_is_refused(begun, toy, cells):
    other = toy[0]("other", 41)
    cells.uns[KEY]["params"] |= {"vocabulary": other.name, "vocabulary_hash": other.hash}
    with pytest.raises(ValueError, match="is of another run: vocabulary was"):
        masked_genes(cells, other).train(**begun.again)


def test_what_does_not_shape_a_run_may_differ(begun, monkeypatch, warnings_of_scanpy):
    monkeypatch.setattr("scgeneformer.model.training._fingerprint.__version__", "99")
    free = {"datasplitter_kwargs": {"num_workers": 1}, "log_every_n_steps": 1, "checkpoint_activations": True}
    wider = begun.cells.copy()
    wider.obsm[KEY] = np.hstack([wider.obsm[KEY], np.zeros((wider.n_obs, 3), np.uint16)])
    whole = masked_genes(begun.cells, begun.vocabulary)
    whole.train(**begun.new | {"checkpoints": None})
    again = masked_genes(wider, begun.vocabulary)
    again.train(**begun.again | free | {"checkpoints": begun.folder.parent / "moved", "checkpoint_every": 3})
    assert len(warnings_of_scanpy) == 1
    assert "continues with 99" in warnings_of_scanpy[0]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name


@pytest.mark.parametrize("length", [{"schedule": "constant", "warmup": 2}, {"plan_kwargs": {"total_steps": 30}}])
def test_a_run_may_grow_where_its_schedule_does_not_depend_on_that(cells, vocabulary, quick, tmp_path, length):
    arguments = quick | RUN | {"checkpoints": tmp_path} | length
    masked_genes(cells, vocabulary).train(**arguments | {"max_epochs": 1})
    model, whole = masked_genes(cells, vocabulary), masked_genes(cells, vocabulary)
    model.train(**arguments | {"ckpt_path": tmp_path / "last.ckpt"})
    whole.train(**arguments | {"checkpoints": None})
    pd.testing.assert_frame_equal(model.history["train_loss_step"], whole.history["train_loss_step"])


CLASSIFIERS = {
    "freeze": ({"freeze": 1}, {}, "trained parameters was"),
    "class_weights": ({}, {"class_weights": "balanced"}, "class_weights was"),
    "lora": ({"lora": 2}, {}, r"lora was None and is \[2, 4, 0.1,"),
    "head": ({"head": "bert"}, {}, "head was 'linear' and is 'bert'"),
    "pooling": ({"pooling": "mean"}, {}, "pooling was 'cls' and is 'mean'"),
    "task_weights": ({"task_weights": {"half": 2.0}}, {}, "task_weights was {'half': 1.0} and is {'half': 2.0}"),
    "recipe": ({}, {"recipe": "official", "learning_rate": 1e-2, "warmup": 0.1}, "keep_best was 'validation_loss'"),
}


@pytest.fixture
def classified(ranked, start, quick, tmp_path):
    """A begun run of a classifier of cells; a maker of models, and how to resume it."""
    ranked.obs["half"] = np.where(ranked.obsm[KEY][:, 1] < 10, "low", "high")
    ranked.obs["half"] = ranked.obs["half"].astype("category")

    def make(**kwargs):
        CellClassifier.setup_anndata(ranked, "half")
        torch.manual_seed(0)
        return CellClassifier(ranked, start, **kwargs)

    arguments = quick | RUN | {"checkpoints": tmp_path, "recipe": "plain", "warmup": 0.1}
    make().train(**arguments, callbacks=[Halt(1)])
    return ranked, make, arguments | {"ckpt_path": tmp_path / "last.ckpt"}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_another_classifier_is_refused(classified, name):
    _, make, again = classified
    constructed, trained, words = CLASSIFIERS[name]
    if name == "lora":
        pytest.importorskip("peft")
    with pytest.raises(ValueError, match=f"is of another run: .*{words}"):
        make(**constructed).train(**again | trained)


def test_other_labels_are_refused(classified):
    adata, make, again = classified
    labels = adata.obs["half"].to_numpy(str)
    low, high = (np.flatnonzero(labels == name)[0] for name in ("low", "high"))
    split = make()
    split.train(recipe="probe")
    adata.obs["half"] = pd.Categorical(np.where(np.isin(np.arange(48), [low, high]), labels[[high, low][0]], labels))
    with pytest.raises(ValueError, match="is of another run: .*labels was"):
        make().train(**again)


def test_other_classes_of_genes_are_refused(ranked, vocabulary, start, quick, tmp_path):
    GeneClassifier.setup_anndata(ranked)
    lists = {"late": vocabulary.ids[16:28].tolist(), "early": vocabulary.ids[4:16].tolist()}
    arguments = quick | RUN | {"checkpoints": tmp_path, "recipe": "plain"}
    GeneClassifier(ranked, lists, start).train(**arguments, callbacks=[Halt(1)])
    arguments |= {"ckpt_path": tmp_path / "last.ckpt"}
    with pytest.raises(ValueError, match="class_weights was None"):
        GeneClassifier(ranked, lists, start).train(**arguments, class_weights="balanced")
    lists["late"][0], lists["early"][0] = lists["early"][0], lists["late"][0]
    with pytest.raises(ValueError, match="labels was"):
        GeneClassifier(ranked, lists, start).train(**arguments)


def test_other_files_of_a_corpus_are_refused(vocabulary, quick, tmp_path):
    counts = np.random.default_rng(0).integers(0, 4, (40, 40)).astype(np.float32)

    def train(counts, **changed):
        (tmp_path / "cells.h5ad").unlink(missing_ok=True)
        adata = AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=vocabulary.ids[4:]))
        adata.write_h5ad(tmp_path / "cells.h5ad")
        options = {"block_cells": 4, "blocks_in_memory": 3, "validation": 0.1, "batch_size": 8}
        corpus = Corpus(tmp_path / "cells.h5ad", vocabulary, **options | changed)
        model = Geneformer(vocabulary=vocabulary, **SHAPE)
        arguments = quick | RUN | {"checkpoints": tmp_path / "run", "token_budget": None, "batch_size": None}
        last = tmp_path / "run" / "last.ckpt"
        model.train(**arguments, datamodule=corpus, ckpt_path=last if last.exists() else None, callbacks=[Halt(1)])

    train(counts)
    for name, value in {"blocks_in_memory": 2, "batch_size": 4, "rng": 1, "block_cells": 5}.items():
        with pytest.raises(ValueError, match=f"is of another run: .*{name.split('_')[0]}"):
            train(counts, **{name: value})
    other = counts.copy()
    other[-1][other[-1] > 0] += 1
    with pytest.raises(ValueError, match="is of another run: files of the corpus was"):
        train(other)
    train(counts)


def test_the_same_run_may_begin_anew_and_says_so(begun, warnings_of_scanpy):
    before = (begun.folder / "last.ckpt").read_bytes()
    masked_genes(begun.cells, begun.vocabulary).train(**begun.new, callbacks=[Halt(1)])
    assert len(warnings_of_scanpy) == 1
    assert "starts again, since ckpt_path is not given" in warnings_of_scanpy[0]
    assert (begun.folder / "previous.ckpt").read_bytes() == before


def test_checkpoints_of_earlier_versions_are_compared_by_what_they_have(begun, tmp_path, warnings_of_scanpy):
    content = torch.load(begun.folder / "last.ckpt", weights_only=True)
    content["fingerprint"] = {name: content["fingerprint"][name] for name in ("masking", "rng")}
    torch.save(content, tmp_path / "old.ckpt")
    again = begun.again | {"ckpt_path": tmp_path / "old.ckpt", "checkpoints": None}
    with pytest.raises(ValueError, match="rng was 0 and is 1"):
        masked_genes(begun.cells, begun.vocabulary).train(**again | {"rng": 1})
    whole, model = masked_genes(begun.cells, begun.vocabulary), masked_genes(begun.cells, begun.vocabulary)
    whole.train(**begun.new | {"checkpoints": None})
    model.train(**again)
    assert "started with scgeneformer an earlier version" in warnings_of_scanpy[-1]
    assert torch.equal(next(model.module.parameters()), next(whole.module.parameters()))


def test_another_run_in_the_folder_is_named(begun):
    with locked(begun.folder, "checkpoints"):
        for arguments in (begun.new, begun.again):
            with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on .* name another folder"):
                masked_genes(begun.cells, begun.vocabulary).train(**arguments)
    (begun.folder / ".last.ckpt.part").touch()
    (begun.folder / "..last.ckpt.part.123").touch()
    (begun.folder / ".last.ckpt.previous.ckpt").touch()
    masked_genes(begun.cells, begun.vocabulary).train(**begun.again)
    assert {path.name for path in begun.folder.iterdir()} == {".lock", "last.ckpt", "previous.ckpt"}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_every_damage_is_noticed(begun, tmp_path):
    last, path = begun.folder / "last.ckpt", tmp_path / "last.ckpt"
    whole, content = last.read_bytes(), read_checkpoint(last)
    shutil.copy(begun.folder / "previous.ckpt", tmp_path)

    def refused_or_same(damaged):
        path.write_bytes(damaged)
        found, message = content, None
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            message = str(error)
        assert same(found, content)
        assert message is None or (str(path) in message and "rename 'previous.ckpt' to 'last.ckpt'" in message)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def flip(at, bits):
        refused_or_same(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(whole) - 1))
    def cut(length):
        refused_or_same(whole[:length])

    flip()
    cut()
    for at in range(len(whole) - 90, len(whole)):
        refused_or_same(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"rename 'previous.ckpt' to 'last.ckpt'"):
        read_checkpoint(path)
    (tmp_path / "previous.ckpt").rename(path)
    again = begun.again | {"ckpt_path": path, "checkpoints": tmp_path}
    masked_genes(begun.cells, begun.vocabulary).train(**again)


def test_a_full_disk_or_an_interrupt_leaves_the_last_checkpoint(begun, monkeypatch):
    before = (begun.folder / "last.ckpt").read_bytes()
    save = torch.save

    def failing(error):
        def fail(content, file):
            save(content, file)
            raise error

        return fail

    for error, words in (
        (OSError(28, "No space left"), "previous one is intact"),
        (KeyboardInterrupt(), "interrupted"),
    ):
        monkeypatch.setattr(torch, "save", failing(error))
        with pytest.raises(type(error), match=words):
            masked_genes(begun.cells, begun.vocabulary).train(**begun.again)
        assert (begun.folder / "last.ckpt").read_bytes() == before
        assert {path.name for path in begun.folder.iterdir()} == {".lock", "last.ckpt", "previous.ckpt"}


SCRIPT = Path(__file__).with_name("train_and_be_killed.py")


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.parametrize("cells_in", ["memory", "corpus"])
def test_killed_at_any_moment_or_out_of_space_it_ends_as_one_that_never_stopped(tmp_path, cells_in):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, cells_in],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["kills"]) == 10
    assert report["at once"] == "BlockingIOError"
    assert report["out of space"] == "OSError"
    assert report["left"] == [".lock", "last.ckpt", "previous.ckpt"]
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "killed.npz") as killed:
        for name in whole:
            np.testing.assert_array_equal(whole[name], killed[name])
