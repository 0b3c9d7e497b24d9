"""Properties of all plots of an evaluation: `ax`, `show`, `return_fig`, an unchanged adata, and errors that name the cure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from mudata import MuData

import scgeneformer as sg

LONG = [f"CD{i}+/CD45RA+ naive cell of kind {i}" for i in range(12)]
PLOTS = [sg.pl.confusion, sg.pl.roc, sg.pl.precision_recall, sg.pl.calibration]


@pytest.fixture(params=PLOTS, ids=lambda plot: plot.__name__)
def plot(request):
    return request.param


def test_own_figure_is_returned_or_shown_and_given_axes_are_not(evaluated, plot, monkeypatch) -> None:
    adata, shown = evaluated(), []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert isinstance(plot(adata, show=False), plt.Axes)
    assert isinstance(plot(adata, return_fig=True), plt.Figure)
    assert shown == []
    assert plot(adata, show=True) is None
    assert len(shown) == 1
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    assert plot(adata, ax=left) is left
    assert not right.has_data()
    assert plot(adata, ax=right, return_fig=True) is figure
    assert len(shown) == 1


def test_adata_is_left_as_it_was(evaluated, plot) -> None:
    adata, before = evaluated(), evaluated()
    plot(adata, show=False)
    assert list(adata.obs) == list(before.obs)
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.uns) == set(before.uns)
    np.testing.assert_array_equal(adata.obsm["evaluation_proba"], before.obsm["evaluation_proba"])


def test_of_a_modality(evaluated, plot) -> None:
    mdata = MuData({"rna": evaluated()})
    assert isinstance(plot(mdata, show=False), plt.Axes)
    label = mdata["rna"].uns["evaluation"]["params"]["labels"]
    mdata.obs[label] = mdata["rna"].obs.pop(label)
    assert isinstance(plot(mdata, show=False), plt.Axes)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c"), LONG])
def test_texts_lie_within_the_figure_and_apart(evaluated, plot, classes, assert_apart) -> None:
    figure = plot(evaluated(classes), return_fig=True)
    ax = figure.axes[0]
    legend = ax.get_legend()
    above = [*legend.get_texts(), legend.get_title()] if legend else [ax.title, *ax.get_yticklabels(), ax.yaxis.label]
    above = [text for text in [*above, ax.xaxis.label] if text.get_text()]
    if legend is None:  # matplotlib keeps titles on the left apart
        above[0] = ax._left_title
    assert_apart(figure, [text for text in above if text.get_text()])


def test_without_baselines(evaluated, plot) -> None:
    ax = plot(evaluated(baselines=()), show=False)
    assert "probe" not in str([text.get_text() for text in (ax.get_legend().get_texts() if ax.get_legend() else [])])


def test_errors_name_slot_and_cure(evaluated, plot) -> None:
    adata = evaluated()
    with pytest.raises(KeyError, match=r"\.uns\['other'\].*sg\.tl\.evaluate"):
        plot(adata, key="other")
    with pytest.raises(ValueError, match="'cell type' are numbers"):
        plot(evaluated(kind="continuous"))
    changed = evaluated()
    changed.obs["cell type"] = "X"
    with pytest.raises(ValueError, match=r"\.obs\['cell type'\] have changed"):
        plot(changed)
    del adata.obsm["evaluation_probe_proba"]
    with pytest.raises(KeyError, match=r"\.obsm\['evaluation_probe_proba'\]"):
        plot(adata)
