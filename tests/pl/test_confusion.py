from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

import scgeneformer as sg

CLASSES = ["B", "T/NK", "mono"]


def oracle(adata, slot: str = "evaluation_proba", **options) -> np.ndarray:
    proba = adata.obsm[slot].dropna()
    truth = adata.obs.loc[proba.index, "cell type"]
    predicted = np.array(CLASSES)[proba.to_numpy().argmax(axis=1)]
    return confusion_matrix(truth, predicted, labels=CLASSES, **options)


@pytest.mark.parametrize(
    ("model", "slot"),
    [
        (None, "evaluation_proba"),
        ("linear probe", "evaluation_probe_proba"),
        ("regression on HVGs", "evaluation_hvg_proba"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_fields_are_sklearns(evaluated, model, slot, normalize) -> None:
    adata = evaluated(CLASSES)
    ax = sg.pl.confusion(adata, model=model, normalize=normalize, show=False)
    expected = 100 * oracle(adata, slot, normalize="true") if normalize else oracle(adata, slot)
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(3, 3), expected)
    assert ax.yaxis_inverted()
    numbers = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in ax.texts}
    assert set(numbers) == set(map(tuple, np.argwhere(expected)))
    assert all(text == f"{expected[at]:.0f}" for at, text in numbers.items())
    support = adata.obs["cell type"][adata.obsm[slot].notna().all(axis=1)].value_counts()
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"{name} ({support[name]})" for name in CLASSES]
    assert [t.get_text() for t in ax.get_xticklabels()] == CLASSES


def test_the_model_of_uns_is_the_one_drawn(evaluated) -> None:
    adata = evaluated(CLASSES)
    pd.testing.assert_frame_equal(
        adata.uns["evaluation"]["confusion"],
        pd.DataFrame(oracle(adata), index=CLASSES, columns=["B", "T|NK", "mono"]),
    )


def test_scores_of_all_models_are_above(evaluated) -> None:
    adata = evaluated(CLASSES)
    lines = sg.pl.confusion(adata, show=False).get_title(loc="left").splitlines()
    metrics = sg.get.evaluation(adata)
    assert len(lines) == 3
    for name, line in zip(metrics.index, lines, strict=False):
        assert (
            line
            == f"{name}: accuracy {metrics.loc[name, 'accuracy']:.2f}, macro F1 {metrics.loc[name, 'macro_f1']:.2f}"
        )


def test_numbers_are_readable_on_their_fields_and_left_out_where_they_would_not_fit(evaluated) -> None:
    ax = sg.pl.confusion(evaluated(CLASSES), show=False)
    shades = ax.collections[0].get_array().reshape(3, 3)
    for text in ax.texts:
        value = shades[int(text.get_position()[1]), int(text.get_position()[0])]
        assert text.get_color() == ("white" if value > 60 else "black")
    many = sg.pl.confusion(evaluated([f"type {i}" for i in range(25)], n=600), show=False)
    assert len(many.texts) == 0


def test_a_class_without_cells_is_an_empty_row(evaluated) -> None:
    adata = evaluated(CLASSES)
    adata.obsm["evaluation_proba"].loc[adata.obs["cell type"] == "mono"] = np.nan
    adata.obsm["evaluation_probe_proba"].loc[adata.obs["cell type"] == "mono"] = np.nan
    adata.obsm["evaluation_hvg_proba"].loc[adata.obs["cell type"] == "mono"] = np.nan
    ax = sg.pl.confusion(adata, show=False)
    assert np.ma.getmaskarray(ax.collections[0].get_array()).reshape(3, 3)[2].all()
    assert ax.get_yticklabels()[2].get_text() == "mono (0)"


def test_unknown_model(evaluated) -> None:
    with pytest.raises(ValueError, match="no predictions of model='most frequent class'"):
        sg.pl.confusion(evaluated(), model="most frequent class")
