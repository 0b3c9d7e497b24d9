from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

import scgeneformer as sg


@pytest.mark.parametrize("n_bins", [15, 5])
def test_dots_are_bins_of_confidence(evaluated, n_bins: int) -> None:
    adata = evaluated(["B", "T", "mono"])
    ax = sg.pl.calibration(adata, n_bins=n_bins, show=False)
    slots = ["evaluation_proba", "evaluation_probe_proba", "evaluation_hvg_proba"]
    assert len(ax.collections) == 3
    for dots, slot in zip(ax.collections, slots, strict=True):
        proba = adata.obsm[slot].dropna()
        truth = adata.obs.loc[proba.index, "cell type"].cat.codes.to_numpy()
        sure, right = proba.max(axis=1), proba.to_numpy().argmax(axis=1) == truth
        accuracy, confidence = calibration_curve(right, sure, n_bins=n_bins)
        np.testing.assert_allclose(dots.get_offsets(), np.column_stack([confidence, accuracy]))
        share = np.histogram(sure, np.linspace(0, 1, n_bins + 1))[0] / len(sure)
        np.testing.assert_allclose(dots.get_sizes(), 8 + 160 * share[share > 0])


def test_legend_has_the_errors_of_the_table(evaluated) -> None:
    adata = evaluated(["B", "T", "mono"])
    texts = [text.get_text() for text in sg.pl.calibration(adata, show=False).get_legend().get_texts()]
    table = sg.get.evaluation(adata)["calibration_error"]
    assert texts == [f"{name}, {table[name]:.3f}" for name in table.index[:3]]


def test_axes_hold_every_dot(evaluated) -> None:
    for classes in (["a", "b"], [f"type {i}" for i in range(12)]):
        ax = sg.pl.calibration(evaluated(classes), show=False)
        x = np.concatenate([dots.get_offsets()[:, 0] for dots in ax.collections])
        assert ax.get_xlim()[0] < x.min()
        assert ax.get_xlim()[1] > x.max()
