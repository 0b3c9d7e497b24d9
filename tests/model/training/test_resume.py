"""A resumed run equals an uninterrupted one: the same cells at the same steps, the same weights, the same history."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from scgeneformer.model import CellClassifier, Corpus, GeneClassifier, Geneformer

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS = "geneformer_tokens"


class PowerFailure(Exception):
    """Ends a run without warning."""


class Record(pl.Callback):
    """Notes epoch and cells of every batch; the power fails when batch number `stop` comes, counted from `first`."""

    def __init__(self, first: int, stop: int | None) -> None:
        self.number, self.stop, self.batches = first, stop, []

    def on_train_batch_start(self, trainer, plan, batch, *args):
        if self.number == self.stop:
            raise PowerFailure
        tokens = batch["tokens"].clone()
        if "where" in batch:
            tokens[batch["where"]] = batch["targets"]
        cells = [tuple(row[row != 0].tolist()) for row in tokens]
        self.batches.append((trainer.current_epoch, cells))
        self.number += 1


@pytest.fixture
def corpus(vocabulary, tmp_path) -> Corpus:
    """Fifty different cells in a file."""
    rng = np.random.default_rng(0)
    X = rng.integers(1, 9, (50, 40)) * (rng.random((50, 40)) < 0.4)
    adata = ad.AnnData(sparse.csr_matrix(X, dtype=np.float32), var=pd.DataFrame(index=vocabulary.ids[4:]))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return Corpus(tmp_path, vocabulary, block_cells=4, blocks_in_memory=3, validation=0.1)


@pytest.fixture
def new(ranked, vocabulary, start, corpus) -> dict[str, Callable[[], tuple[Any, dict[str, Any]]]]:
    """Makers of models, which are the same at every call, with arguments of ``train``; all cells are different."""
    ranked.obs["half"] = np.where(ranked.obsm[TOKENS][:, 1] < 10, "low", "high")
    lists = {"late": vocabulary.ids[16:28].tolist(), "early": vocabulary.ids[4:16].tolist()}
    shape = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 16, "dropout": 0.2}

    def masked_genes():
        Geneformer.setup_anndata(ranked)
        return Geneformer(ranked, vocabulary=vocabulary, **shape), {}

    def streamed():
        return Geneformer(vocabulary=vocabulary, **shape), {"datamodule": corpus, "token_budget": None}

    def classes_of_cells():
        CellClassifier.setup_anndata(ranked, "half")
        return CellClassifier(ranked, start, dropout=0.2), {"recipe": "plain"}

    def classes_of_genes():
        GeneClassifier.setup_anndata(ranked)
        return GeneClassifier(ranked, lists, start, dropout=0.2), {"recipe": "plain"}

    return {make.__name__: make for make in (masked_genes, streamed, classes_of_cells, classes_of_genes)}


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("masked_genes", {"accumulate": 2}),
        ("streamed", {"accumulate": 2}),
        ("classes_of_cells", {"accumulate": 2}),
        ("classes_of_genes", {"accumulate": 2}),
        ("masked_genes", {"max_steps": 13}),
        ("masked_genes", {"validation_size": 0.0}),
        ("masked_genes", {"datasplitter_kwargs": {"num_workers": 1}}),
    ],
    ids=str,
)
def test_resumed_run_is_the_run_that_never_stopped(new, quick, tmp_path, kind, kwargs):
    """Interrupted within the first epoch, between the batches of a step twice, between epochs, and within the second."""
    quick |= {"max_epochs": 2, "learning_rate": 1e-2, "warmup": 0.2, "batch_size": 6, "checkpoint_every": 1} | kwargs

    def train(folder, first=0, stop=None, **changed):
        torch.manual_seed(1)
        model, options = new[kind]()
        record, path = Record(first, stop), tmp_path / folder / "last.ckpt"
        arguments = quick | options | {"checkpoints": path.parent, "callbacks": [record]} | changed
        with suppress(PowerFailure):
            model.train(ckpt_path=path if first else None, **arguments)
        return model, record.batches

    whole, expected = train("whole")
    in_epoch = [epoch for epoch, _ in expected].count(0)
    epochs = [[cell for epoch, cells in expected if epoch == number for cell in cells] for number in range(2)]
    assert len(set(epochs[0])) == len(epochs[0])
    assert epochs[0] != epochs[1]
    if "max_steps" not in kwargs:
        assert set(epochs[0]) == set(epochs[1])

    first = 0
    for stop in (3, 3, in_epoch, in_epoch + 3, None):
        model, batches = train("parts", first, stop)
        assert batches == expected[first:stop]
        done, rest = divmod(stop or 0, in_epoch)
        first = done * in_epoch + rest // kwargs.get("accumulate", 1) * kwargs.get("accumulate", 1)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, model.module.state_dict()[name]), name
    assert getattr(model, "temperature_", None) == getattr(whole, "temperature_", None)
    assert set(model.history) == set(whole.history)
    for name in set(whole.history) - {"train_loss", "train_accuracy"}:
        pd.testing.assert_frame_equal(model.history[name], whole.history[name])
    with pytest.raises(ValueError, match="Pass the same data and arguments, including rng"):
        train("parts", first=1, rng=3)


def test_a_stop_between_the_batches_of_a_step_waits_for_the_step(model, quick, tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            trainer.should_stop |= batch_idx == 3

    model.train(2, accumulate=3, checkpoints=tmp_path, callbacks=[Stop()], **quick | {"batch_size": 6})
    assert model.trainer.global_step == 2
    assert model.trainer.fit_loop.batch_idx == 5
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
