from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg


@pytest.fixture
def history() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    steps = {"train_loss_step": 100, "learning_rate": 100, "train_loss": 5, "validation_loss": 5}
    steps |= {"train_accuracy": 5, "validation_accuracy": 5, "validation_macro_f1": 5, "validation_auc": 5}
    return {
        name: pd.DataFrame({name: rng.random(n)}, index=pd.Index(np.linspace(0, 99, n).astype(int), name="step"))
        for name, n in steps.items()
    }


def test_every_metric_is_drawn_where_it_belongs(history) -> None:
    axes = sg.pl.training(history, show=False)
    assert [ax.get_ylabel() for ax in axes] == ["loss", "score", "learning rate"]
    belongs = [
        ["train_loss_step", "train_loss", "validation_loss"],
        ["train_accuracy", "validation_accuracy", "validation_auc", "validation_macro_f1"],
        ["learning_rate"],
    ]
    for ax, names in zip(axes, belongs, strict=True):
        drawn = [np.stack(line.get_data()) for line in ax.lines]
        for name in names:
            expected = np.stack([history[name].index, history[name].iloc[:, 0]])
            assert any(data.shape == expected.shape and np.allclose(data, expected) for data in drawn)
        assert ax.get_xlabel() == "step"
    texts = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert texts == ["accuracy, training", "accuracy, validation", "AUC, validation", "macro F1, validation"]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes[1].lines}) == 4


def test_smoothed_loss_is_a_running_mean(history) -> None:
    ax = sg.pl.training(history, kind="loss", show=False)
    smooth = next(line for line in ax.lines if line.get_label() == "training, by step")
    expected = history["train_loss_step"].iloc[:, 0].rolling(2, min_periods=1).mean()
    np.testing.assert_allclose(smooth.get_ydata(), expected)


def test_of_a_model_on_given_axes_and_by_kind(history, monkeypatch) -> None:
    model, shown = SimpleNamespace(history=history), []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    _, (left, right) = plt.subplots(1, 2)
    assert sg.pl.training(model, ax=left) is left
    assert left.get_ylabel() == "loss"
    assert sg.pl.training(model, ax=right, kind="learning_rate") is right
    assert right.get_ylim()[0] == 0
    assert isinstance(sg.pl.training(model, return_fig=True), plt.Figure)
    assert shown == []
    assert sg.pl.training(model, show=True) is None
    assert shown == [True]


def test_what_was_not_logged_is_left_out_or_refused(history) -> None:
    only = {"train_loss": history["train_loss"]}
    assert isinstance(sg.pl.training(only, show=False), plt.Axes)
    with pytest.raises(ValueError, match="No metric of kind='scores'"):
        sg.pl.training(only, kind="scores")
    with pytest.raises(ValueError, match=r"model\.train\(\)"):
        sg.pl.training(SimpleNamespace(history=None))
    with pytest.raises(ValueError, match="kind='x' must be 'loss', 'scores', 'learning_rate' or None"):
        sg.pl.training(history, kind="x")


def test_history_as_scvi_tools_has_it() -> None:
    """Epochs as index, and object columns, which its logger makes."""
    epochs = pd.Index(range(4), name="epoch")
    values = pd.DataFrame({"train_loss": np.array([3.0, 2.0, np.nan, 1.0], dtype=object)}, index=epochs)
    ax = sg.pl.training({"train_loss": values}, show=False)
    assert ax.get_xlabel() == "epoch"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 1, 3])
