from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn import metrics

import scgeneformer as sg

NAMES = ["fine-tuned", "linear probe", "regression on HVGs"]
SLOTS = ["evaluation_proba", "evaluation_probe_proba", "evaluation_hvg_proba"]
COLOURS = ["#d55e00", "#0072b2", "#009e73"]
THREE = ["B", "T/NK", "mono"]


def answers(adata, slot: str) -> tuple[np.ndarray, np.ndarray]:
    proba = adata.obsm[slot].dropna()
    return adata.obs.loc[proba.index, "cell type"].cat.codes.to_numpy(), proba.to_numpy()


def lines_of(ax) -> dict[str, np.ndarray]:
    return {to_hex(line.get_color()): np.stack(line.get_data()) for line in ax.lines if line.get_linewidth() > 1.5}


def test_two_classes_show_the_second_for_every_model(evaluated) -> None:
    adata = evaluated()
    ax = sg.pl.roc(adata, show=False)
    drawn = lines_of(ax)
    for colour, slot, name, text in zip(COLOURS, SLOTS, NAMES, ax.get_legend().get_texts(), strict=True):
        truth, proba = answers(adata, slot)
        x, y, _ = metrics.roc_curve(truth == 1, proba[:, 1], drop_intermediate=False)
        at, height = drawn[colour]
        between = ~np.isin(at, x)  # where curves do not jump
        np.testing.assert_allclose(height[between], np.interp(at[between], x, y))
        np.testing.assert_allclose(np.trapezoid(height, at), metrics.roc_auc_score(truth == 1, proba[:, 1]), atol=2e-3)
        assert text.get_text() == f"{name}, {metrics.roc_auc_score(truth == 1, proba[:, 1]):.3f}"
    assert "T" in ax.get_ylabel()
    assert ax.get_legend().get_title().get_text() == "area under the curve"


def test_precision_recall_of_two_classes(evaluated) -> None:
    adata = evaluated()
    ax = sg.pl.precision_recall(adata, show=False)
    drawn = lines_of(ax)
    for colour, slot in zip(COLOURS, SLOTS, strict=True):
        truth, proba = answers(adata, slot)
        precision, recall, _ = metrics.precision_recall_curve(truth == 1, proba[:, 1])
        at, height = drawn[colour]
        for point in (100, 333, 800, 1000):
            reaching = recall >= at[point] - 1e-9  # the highest threshold which reaches that recall
            assert height[point] == precision[np.flatnonzero(reaching)[-1]]
        average = metrics.average_precision_score(truth == 1, proba[:, 1])
        np.testing.assert_allclose(height[1:].mean(), average, atol=2e-3)
    chance = next(line for line in ax.lines if line.get_linestyle() == ":")
    np.testing.assert_allclose(chance.get_ydata()[0], np.mean(answers(adata, SLOTS[0])[0] == 1))


@pytest.mark.parametrize("plot", [sg.pl.roc, sg.pl.precision_recall])
def test_more_classes_show_the_mean_and_each_of_the_model(evaluated, plot) -> None:
    adata = evaluated(THREE)
    ax = plot(adata, show=False)
    thin = [line.get_ydata() for line in ax.lines if line.get_linewidth() < 0.7]
    assert len(thin) == 3
    np.testing.assert_allclose(lines_of(ax)[COLOURS[0]][1], np.mean(thin, axis=0))
    column = "auc" if plot is sg.pl.roc else "average_precision"
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    table = sg.get.evaluation(adata)[column]
    assert texts == [f"{name}, {table[name]:.3f}" for name in NAMES] + ["each class, fine-tuned"]
    assert "mean of 3 classes" in ax.get_ylabel()


def test_one_class_against_the_rest(evaluated) -> None:
    adata = evaluated(THREE)
    ax = sg.pl.roc(adata, group="T/NK", show=False)
    truth, proba = answers(adata, SLOTS[0])
    assert f"{metrics.roc_auc_score(truth == 1, proba[:, 1]):.3f}" in ax.get_legend().get_texts()[0].get_text()
    assert not [line for line in ax.lines if line.get_linewidth() < 0.7]
    with pytest.raises(ValueError, match="'X' is not a class"):
        sg.pl.roc(adata, group="X")


def test_classes_without_evaluated_cells_are_left_out(evaluated) -> None:
    adata = evaluated(THREE)
    for slot in SLOTS:
        adata.obsm[slot].loc[adata.obs["cell type"] == "mono"] = np.nan
    assert "mean of 2 classes" in sg.pl.roc(adata, show=False).get_ylabel()
    with pytest.raises(ValueError, match="No evaluated cell is of class 'mono'"):
        sg.pl.precision_recall(adata, group="mono")
    for slot in SLOTS:
        adata.obsm[slot].loc[adata.obs["cell type"] == "B"] = np.nan
    with pytest.raises(ValueError, match="all of one class|of one class"):
        sg.pl.roc(adata)
