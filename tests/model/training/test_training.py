from __future__ import annotations

import copy
import signal

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scvi.train import SaveCheckpoint
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from scgeneformer import settings
from scgeneformer.model import Geneformer
from scgeneformer.model.data._masking import Masking
from scgeneformer.model.training._plan import decay_groups, schedule_factor


class Stop(pl.Callback):
    """Raise an error after some steps."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise self.error


def weights(model: Geneformer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def test_learns_which_genes_belong_together(cells, vocabulary, quick):
    Geneformer.setup_anndata(cells)
    torch.manual_seed(0)
    model = Geneformer(cells, vocabulary=vocabulary, n_layers=2, width=32, n_heads=2, feed_forward=32, dropout=0.0)
    model.train(40, learning_rate=1e-2, warmup=10, validation_size=0.2, **quick)
    loss = model.history["validation_loss"]["validation_loss"]
    assert loss.iloc[0] > 3.0  # ln(44) = 3.78 for guessing
    assert loss.iloc[-1] < 1.35  # 1.39 = ln(4): the position is known, one of four types is not
    assert model.history["validation_accuracy"].iloc[-1].item() > 0.45
    names = {
        "train_loss_step",
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    }
    assert set(model.history) == names
    assert len(model.history["train_loss"]) == 40
    assert model.is_trained_
    assert not model.module.training
    assert len(model.train_indices) == 96
    assert not set(model.train_indices) & set(model.validation_indices)


def test_validation_masks_are_fixed_and_training_masks_are_not(model, quick):
    model.train(4, learning_rate=0.0, **quick)
    assert model.history["validation_loss"]["validation_loss"].nunique() == 1
    assert model.history["train_loss"]["train_loss"].nunique() == 4


def test_loss_is_the_cross_entropy_of_full_logits(model, cells, vocabulary):
    tokens = cells.obsm["geneformer_tokens"][:9].astype(np.int64)
    inputs, where = map(torch.from_numpy, Masking.over(vocabulary)(tokens, np.arange(9), 0))
    lengths, answers = torch.from_numpy((tokens != 0).sum(1)), torch.from_numpy(tokens)
    model.module.eval()
    with torch.no_grad():
        logits = model.module.network(inputs, answers != 0)  # (9, 64, vocabulary)
        expected = torch.nn.functional.cross_entropy(logits[where], answers[where])
        batch = {"tokens": inputs, "lengths": lengths, "where": where, "targets": answers[where]}
        output = model.module(batch)[-1]
        nothing = model.module(batch | {"where": where & False, "targets": answers[where][:0]})[-1]
    torch.testing.assert_close(output.loss, expected)
    assert output.extra_metrics["accuracy"] == (logits[where].argmax(-1) == answers[where]).float().mean()
    assert nothing.loss == 0


@pytest.mark.parametrize(
    ("schedule", "official"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_those_of_transformers(schedule, official, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    factor = official(optimizer, warmup, 40).lr_lambdas[0]
    ours = [schedule_factor(step, total=40, warmup=warmup, schedule=schedule) for step in range(41)]
    np.testing.assert_allclose(ours, [factor(step) for step in range(41)], atol=1e-12)
    assert schedule_factor(39, total=40, warmup=warmup, schedule="constant") == 1


def test_learning_rate_follows_the_schedule_per_step(model, quick):
    model.train(max_steps=12, learning_rate=0.5e-3, warmup=0.25, **quick)
    rates = model.history["learning_rate"]["learning_rate"].to_numpy()
    expected = [0.5e-3 * schedule_factor(step, total=12, warmup=3, schedule="linear") for step in range(12)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_vectors_are_not_decayed(model):
    decayed, spared = decay_groups(model.module, 0.1)
    names = {id(p): name for name, p in model.module.named_parameters()}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert all(("norm" in names[id(p)]) or names[id(p)].endswith("bias") for p in spared["params"])
    assert not any(("norm" in names[id(p)]) or names[id(p)].endswith("bias") for p in decayed["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(("stop", "every"), [(5, 3), (8, 1), (10, None)])  # epochs have 8 steps
def test_resumed_run_is_the_run_that_never_stopped(model, cells, quick, tmp_path, stop, every):
    twin = copy.deepcopy(model.module.state_dict())
    quick |= {"learning_rate": 1e-2, "batch_size": 14, "plan_kwargs": {"total_steps": 20}, "checkpoint_every": every}
    torch.manual_seed(1)
    model.train(max_steps=20, checkpoints=tmp_path / "whole", **quick)
    assert len(model.history["train_loss_step"]) == 20
    Geneformer.setup_anndata(cells)
    second = Geneformer.from_pretrained(model, cells)
    second.module.load_state_dict(twin)
    torch.manual_seed(1)
    second.train(max_steps=stop, checkpoints=tmp_path / "parts", **quick)
    assert not torch.equal(weights(model), weights(second))
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert names == {".lock", "last.ckpt", "previous.ckpt"}
    third = Geneformer.from_pretrained(model, cells)
    third.train(max_steps=20, checkpoints=tmp_path / "parts", ckpt_path=tmp_path / "parts" / "last.ckpt", **quick)
    assert torch.equal(weights(model), weights(third))
    np.testing.assert_array_equal(third.history["train_loss_step"], model.history["train_loss_step"])
    with pytest.raises(ValueError, match="Pass the same data and arguments, including rng"):
        third.train(max_steps=20, ckpt_path=tmp_path / "parts" / "last.ckpt", rng=5, **quick)


def test_a_run_that_is_asked_to_stop_can_be_resumed(model, quick, tmp_path):
    class Ask(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 3

    model.train(4, checkpoints=tmp_path, callbacks=[Ask()], **quick)
    assert len(model.history["train_loss_step"]) == 3
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_interrupt_leaves_usable_weights(model, quick):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="after 3 steps"):
        model.train(max_steps=20, callbacks=[Stop(3, KeyboardInterrupt())], **quick)
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.is_trained_
    assert not model.module.training
    assert len(model.history["train_loss_step"]) == 3
    assert np.isfinite(model.get_latent_representation()).all()


def test_other_errors_pass_through(model, quick):
    with pytest.raises(OSError, match="disk"):
        model.train(max_steps=5, callbacks=[Stop(1, OSError("disk"))], **quick)
    assert not model.module.training


def test_a_loss_that_is_no_number_stops_and_names_the_step(model, quick):
    class Break(pl.Callback):
        def on_train_batch_start(self, trainer, plan, *args):
            if trainer.global_step == 2:
                plan.module.network.head.bias.data.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="nan at step 2 "):
        model.train(max_steps=5, callbacks=[Break()], **quick)


def test_early_stopping_watches_the_validation_loss(model, quick):
    model.train(50, learning_rate=0.0, early_stopping=True, early_stopping_patience=2, **quick)
    assert len(model.history["validation_loss"]) == 3


def test_history_goes_on_in_a_second_run(model, quick):
    model.train(2, **quick)
    n = len(model.history["train_loss_step"])
    model.train(2, **quick)
    assert model.history["train_loss_step"].index.tolist() == list(range(2 * n))
    assert len(model.history["validation_loss"]) == 4


def test_accumulated_batches_make_one_step(model, quick):
    model.train(1, batch_size=9, train_size=0.9, accumulate=4, **quick)  # 108 cells, 12 batches
    assert model.trainer.global_step == 3


def test_bfloat16_is_close_to_float32(model, cells, quick):
    other = Geneformer.from_pretrained(model, cells)
    for each, precision in ((model, "32-true"), (other, "bf16-mixed")):
        torch.manual_seed(3)
        each.train(5, learning_rate=5e-3, **quick | {"precision": precision})
    losses = [each.history["validation_loss"].iloc[-1].item() for each in (model, other)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_data_module_of_ones_own(model, cells, quick):
    class Rows(pl.LightningDataModule):
        def train_dataloader(self):
            rows = torch.from_numpy(cells.obsm["geneformer_tokens"].astype(np.int64))
            return DataLoader([{"tokens": row} for row in rows], batch_size=20)

        val_dataloader = train_dataloader

    with pytest.raises(ValueError, match="token_budget have no effect on a data module"):
        model.train(5, datamodule=Rows(), **quick)
    del quick["token_budget"]
    model.train(5, datamodule=Rows(), learning_rate=1e-2, **quick)
    loss = model.history["validation_loss"]["validation_loss"]
    assert len(model.history["train_loss_step"]) == 30
    assert loss.iloc[-1] < loss.iloc[0]


def test_external_indexing_and_order(model, quick):
    sets = [np.arange(0, 80), np.arange(80, 120)]
    model.train(1, datasplitter_kwargs={"external_indexing": sets}, **quick)
    np.testing.assert_array_equal(model.validation_indices, sets[1])
    model.train(1, shuffle_set_split=False, validation_size=0.25, **quick)
    np.testing.assert_array_equal(model.validation_indices, np.arange(30))


def test_training_writes_nothing_to_the_data(model, cells, quick):
    before = cells.copy()
    model.train(1, **quick)
    np.testing.assert_array_equal(cells.obsm["geneformer_tokens"], before.obsm["geneformer_tokens"])
    assert (set(cells.obs), set(cells.obsm), set(cells.uns)) == (set(before.obs), set(before.obsm), set(before.uns))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"schedule": "exponential"}, "exponential"), ({"masking": "bert"}, "bert"), ({"warmup": -1}, "warmup=-1")],
)
def test_refuses(model, quick, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.train(1, **quick, **arguments)
    assert not model.is_trained_


def test_needs_data_that_fit(model, cells, vocabulary, quick):
    with pytest.raises(ValueError, match="setup_anndata"):
        Geneformer(vocabulary=vocabulary, n_layers=1, width=8, n_heads=1).train(1, **quick)
    short = Geneformer(cells, vocabulary=vocabulary, n_layers=1, width=8, n_heads=1, max_length=16)
    with pytest.raises(ValueError, match="31 tokens, but this model has 16 positions"):
        short.train(1, **quick)


def test_empty_cells_are_left_out(toy, quick):
    make_vocabulary, make_cells = toy
    vocabulary = make_vocabulary()
    adata = make_cells(40, vocabulary)
    adata.obsm["geneformer_tokens"][:30] = 0
    Geneformer.setup_anndata(adata)
    model = Geneformer(adata, vocabulary=vocabulary, n_layers=1, width=8, n_heads=1)
    model.train(2, train_size=0.5, **quick)
    assert np.isfinite(model.history["train_loss"]["train_loss"]).all()


def test_best_model_is_kept_by_scvis_callback(model, quick, tmp_path):
    saver = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss", load_best_on_end=True)
    model.train(4, callbacks=[saver], learning_rate=1e-2, **quick)
    best = Geneformer.load(saver.best_model_path)
    assert torch.equal(weights(best), weights(model))
    assert float(saver.best_model_score) == pytest.approx(model.history["validation_loss"].min().item())


def test_progress_is_not_written_to_files(model, quick, capsys):
    del quick["enable_progress_bar"]
    model.train(1, **quick)
    assert "Epoch" not in "".join(capsys.readouterr())
    with settings.override(progress=True):
        model.train(1, **quick)
    assert "Epoch" in "".join(capsys.readouterr())
