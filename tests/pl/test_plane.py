from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

import scgeneformer as sg

GREY, DARK, BLUE, VERMILLION = "#BDBDBD", "#4D4D4D", "#0072B2", "#D55E00"


@pytest.mark.parametrize(("others", "state", "shown"), [(True, None, "B"), (True, "A", "A"), (False, None, "A")])
def test_dots_are_effects_on_both_states(perturbed, others, state, shown) -> None:
    adata = perturbed(others=others)
    ax = sg.pl.shift(adata, kind="plane", state=state, show=False)
    table = adata.varm["shift"].dropna(subset="pvals")
    significant = (table["pvals_adj"] <= 0.05).to_numpy()
    beside = (table[f"pvals_adj_{shown}"] <= 0.05).to_numpy() & ~significant
    up = (table["scores"] > 0).to_numpy()
    expected = {
        GREY: ~significant & ~beside,
        DARK: beside,
        BLUE: significant & ~up,
        VERMILLION: significant & up,
    }
    drawn = {to_hex(c.get_facecolors()[0]).upper(): np.asarray(c.get_offsets()) for c in ax.collections}
    assert set(drawn) == {colour for colour, at in expected.items() if at.any()}
    for colour, offsets in drawn.items():
        part = table.loc[expected[colour], ["effect", f"effect_{shown}"]]
        np.testing.assert_allclose(np.sort(offsets, axis=0), np.sort(part, axis=0))
    assert "towards T" in ax.get_xlabel()
    assert f"towards {shown}" in ax.get_ylabel()
    assert all("10$^{-3}$" in label for label in (ax.get_xlabel(), ax.get_ylabel()))
    assert ax.xaxis.get_major_formatter()(0.002, 0) == ax.yaxis.get_major_formatter()(0.002, 0) == "2"


def test_labels_are_the_farthest_significant_genes_and_apart(perturbed, assert_apart) -> None:
    adata = perturbed()
    figure = sg.pl.shift(adata, kind="plane", n_top=10, return_fig=True)
    (ax,) = figure.axes
    table = adata.varm["shift"].set_index(adata.var["gene_symbols"]).dropna(subset="pvals")
    x, y = table["effect"], table["effect_B"]
    distance = np.hypot(x / x.std(ddof=0), y / y.std(ddof=0))[table["pvals_adj"] <= 0.05]
    assert [text.get_text() for text in ax.texts] == distance.nlargest(10).index.tolist()
    for text in ax.texts:
        np.testing.assert_allclose(text.xy, [x[text.get_text()], y[text.get_text()]])
    assert_apart(figure, ax.texts)


def test_a_second_state_is_needed(perturbed) -> None:
    adata = perturbed(others=False, rank=False)
    del adata.uns["shift"]["params"]["source"]
    sg.tl.rank_shifts(adata)
    with pytest.raises(ValueError, match="only 'T'"):
        sg.pl.shift(adata, kind="plane")
