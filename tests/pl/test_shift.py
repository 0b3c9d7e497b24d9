from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex
from scipy import sparse

import scgeneformer as sg

ABOVE, BELOW, OTHER = "#D55E00", "#0072B2", "#BDBDBD"
LAYERS = ("shift", "shift_T", "shift_B")
SIDES = (("Mono", 1), ("T", -1))


def ranked(*, goal: bool = True, **options) -> AnnData:
    """300 genes in 80 cells, of which the first 30 move cells, 15 each way."""
    rng = np.random.default_rng(0)
    tested = rng.random((80, 300)) < 0.5
    rows, columns = np.nonzero(tested)
    strength = np.zeros(300)
    strength[:30] = np.tile([1, -1], 15) * np.linspace(2e-3, 5e-3, 30)

    def layer(factor: float) -> sparse.csr_matrix:
        values = factor * strength[columns] + rng.normal(0, 1e-3, len(rows))
        return sparse.coo_matrix((values if goal else 1 - np.abs(values), (rows, columns)), tested.shape).tocsr()

    adata = AnnData(np.zeros(tested.shape), var=pd.DataFrame(index=[f"GENE{i}" for i in range(300)]))
    adata.layers["shift"] = layer(1)
    params = {"kind": "delete"}
    if goal:
        adata.layers["shift_T"], adata.layers["shift_B"] = layer(-1), layer(0.5)
        params |= {"target": "Mono", "source": "T", "others": ["B"]}
    adata.uns["shift"] = {"params": params}
    sg.tl.rank_shifts(adata, **options)
    return adata


def offsets_by_colour(ax) -> dict[str, np.ndarray]:
    drawn = [c for c in ax.collections if len(c.get_facecolors())]
    return {to_hex(c.get_facecolors()[0]).upper(): np.asarray(c.get_offsets()) for c in drawn}


def test_volcano_draws_every_tested_gene_in_its_colour() -> None:
    adata = ranked()
    ax = sg.pl.shift(adata, show=False)
    table = adata.varm["shift"]
    significant = table["pvals_adj"] <= 0.05
    drawn = offsets_by_colour(ax)
    for colour, chosen in {
        ABOVE: significant & (table["scores"] > 0),
        BELOW: significant & (table["scores"] < 0),
        OTHER: ~significant,
    }.items():
        part = table[chosen]
        expected = np.column_stack([part["effect"], -np.log10(part["pvals"])])
        assert len(expected) > 10
        np.testing.assert_allclose(np.sort(drawn[colour], axis=0), np.sort(expected, axis=0))
    assert "Mono" in ax.get_xlabel()
    assert f"above other genes ({(significant & (table['scores'] > 0)).sum()})" in ax.get_legend_handles_labels()[1]


@pytest.mark.parametrize("goal", [True, False])
def test_labels_name_the_most_significant_and_do_not_overlap(goal: bool) -> None:
    adata = ranked(goal=goal)
    figure = sg.pl.shift(adata, n_top=16, return_fig=True)
    (ax,) = figure.axes
    table = adata.varm["shift"].sort_values("pvals")
    if goal:
        expected = {*table.index[table["scores"] > 0][:8], *table.index[table["scores"] < 0][:8]}
    else:
        expected = set(table.index[table["scores"] > 0][:16])
    assert {text.get_text() for text in ax.texts} == expected
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    for text in ax.texts:  # each label points at its gene
        row = table.loc[text.get_text()]
        np.testing.assert_allclose(text.xy, [row["effect"], -np.log10(row["pvals"])], rtol=1e-6)


def test_rank_lists_both_directions_in_order() -> None:
    adata = ranked()
    ax = sg.pl.shift(adata, kind="rank", n_top=12, show=False)
    names = [label.get_text() for label in ax.get_yticklabels()]
    table = adata.varm["shift"]
    by_score = table["scores"].sort_values(ascending=False)
    by_effect = table["effect"][[*by_score.index[:6], *by_score.index[-6:]]].sort_values(ascending=False)
    assert names == by_effect.index.tolist()
    drawn = offsets_by_colour(ax)
    np.testing.assert_allclose(np.sort(drawn[ABOVE][:, 0])[::-1], by_effect[:6])
    np.testing.assert_allclose(np.sort(drawn[BELOW][:, 0])[::-1], by_effect[-6:])
    diamonds = [np.asarray(c.get_offsets()) for c in ax.collections if c.get_label() == "on B"]
    np.testing.assert_allclose(diamonds[0][:, 0], table.loc[names, "effect_B"])


def test_rank_draws_intervals(perturbed) -> None:
    adata = perturbed()
    ax = sg.pl.shift(adata, kind="rank", n_top=12, show=False)
    (lines,) = [c for c in ax.collections if c.get_label() == "95 % interval"]
    shown = adata.varm["shift"].set_index(adata.var["gene_symbols"]).loc[[t.get_text() for t in ax.get_yticklabels()]]
    drawn = np.array([segment[:, 0] for segment in lines.get_segments()])
    np.testing.assert_allclose(drawn, shown[["effect_low", "effect_high"]])
    np.testing.assert_array_equal([segment[0, 1] for segment in lines.get_segments()], np.arange(12))


def test_a_ranking_without_intervals_is_drawn_without(perturbed) -> None:
    adata = perturbed()
    adata.varm["shift"] = adata.varm["shift"][[c for c in adata.varm["shift"] if "low" not in c]]
    ax = sg.pl.shift(adata, kind="rank", show=False)
    assert "95 % interval" not in ax.get_legend_handles_labels()[1]


def test_a_ranking_without_test_is_coloured_by_intervals(perturbed) -> None:
    adata = perturbed(rank=False)
    sg.tl.rank_shifts(adata, test="aggregate")
    ax = sg.pl.shift(adata, kind="rank", n_top=100, show=False)
    table = adata.varm["shift"]
    drawn = offsets_by_colour(ax)
    assert len(drawn[ABOVE]) == (table["effect_low"] > 0).sum() > 5
    assert len(drawn[BELOW]) == (table["effect_high"] < 0).sum() > 5
    assert "above 0" in ax.get_legend_handles_labels()[1]


def test_a_test_over_donors_is_drawn_as_tested(perturbed) -> None:
    adata = perturbed(rank=False)
    adata.obs["donor"] = [f"d{i % 6}" for i in range(adata.n_obs)]
    sg.tl.rank_shifts(adata, test="donors", donor="donor")
    ax = sg.pl.shift(adata, kind="rank", n_top=12, show=False)
    assert "beyond other genes, over donors" in ax.get_xlabel().replace("\n", " ")
    (lines,) = [c for c in ax.collections if c.get_label() == "95 % interval"]
    middle = np.sort([segment[:, 0].mean() for segment in lines.get_segments()])
    dots = np.sort(np.concatenate([x[:, 0] for colour, x in offsets_by_colour(ax).items()]))
    np.testing.assert_allclose(dots, middle)


@pytest.mark.parametrize("centered", [False, True])
def test_a_test_of_states_shows_the_contrast_that_it_tests(centered) -> None:
    adata = ranked()
    rng = np.random.default_rng(1)
    adata.obs["state"] = np.where(np.arange(80) < 40, "T", "Mono")
    params, uns = adata.uns["shift"]["params"], adata.uns["shift"]
    params |= {"groupby": "state", "centroids": "mean", "slots": ["layers/shift", "varm/shift"]}
    uns["centroids"] = {"T": np.eye(3)[1], "Mono": np.eye(3)[0], "B": np.eye(3)[2]}
    means = [np.asarray(adata.layers[name].sum(0) / (adata.layers[name] != 0).sum(0)).ravel() for name in LAYERS]
    adata.varm["shift__direction"] = np.column_stack(means)  # along the centroids
    adata.obsm["shift__movement"] = np.zeros((80, 3))
    centroid = np.where((adata.obs["state"] == "Mono").to_numpy()[:, None], np.eye(3)[0], np.eye(3)[1])
    adata.obsm["shift__embedding"] = centroid + rng.normal(0, 0.1, (80, 3))
    sg.tl.rank_shifts(adata, centered=centered)
    table = adata.varm["shift"]
    assert adata.uns["shift"]["rank"]["test"] == "states"
    ax = sg.pl.shift(adata, show=False)
    x = np.sort(np.concatenate([points[:, 0] for points in offsets_by_colour(ax).values()]))
    np.testing.assert_allclose(x, np.sort(table["contrast"]))
    assert "shift towards Mono minus that towards T" in ax.get_xlabel().replace("\n", " ")
    significant = table["pvals_adj"] <= 0.05
    labels = ax.get_legend_handles_labels()[1]
    assert {f"towards {state} ({(significant & (table['contrast'] * sign > 0)).sum()})" for state, sign in SIDES} <= {
        *labels
    }
    ax = sg.pl.shift(adata, kind="rank", n_top=12, show=False)
    shown = table.loc[[label.get_text() for label in ax.get_yticklabels()]]
    assert shown["contrast"].is_monotonic_decreasing
    (lines,) = [c for c in ax.collections if c.get_label() == "95 % interval"]
    ends = np.array([segment[:, 0] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends, shown[["contrast_low", "contrast_high"]])
    (diamonds,) = [np.asarray(c.get_offsets()) for c in ax.collections if c.get_label() == "on B"]
    np.testing.assert_allclose(diamonds[:, 0], shown["effect_B"] - shown["effect_T"])
    ax = sg.pl.shift(adata, kind="plane", show=False)
    x = np.sort(np.concatenate([points[:, 0] for points in offsets_by_colour(ax).values()]))
    np.testing.assert_allclose(x, np.sort(table["effect"]))


@pytest.mark.parametrize("kind", ["volcano", "rank", "plane"])
def test_sets(perturbed, kind) -> None:
    adata = perturbed()
    ax = sg.pl.shift(adata, kind=kind, sets=True, show=False)
    texts = ax.get_yticklabels() if kind == "rank" else ax.texts
    assert {text.get_text() for text in texts} == {"up|down", "sarcomere"}
    table = adata.uns["shift"]["sets"]
    drawn = np.concatenate([x[:, 0] for x in offsets_by_colour(ax).values()])
    np.testing.assert_allclose(np.sort(drawn), np.sort(table["effect"]))
    assert any("above random sets" in text for text in ax.get_legend_handles_labels()[1])


def test_sets_alone_and_without_goal_states(perturbed) -> None:
    adata = perturbed(goal=False, rank=False)
    del adata.layers["shift"], adata.obsm["shift_sets__random"]
    sg.tl.rank_shifts(adata, test="aggregate")
    ax = sg.pl.shift(adata, kind="rank", show=False)
    assert {text.get_text() for text in ax.get_yticklabels()} == {"up|down", "sarcomere"}
    with pytest.raises(ValueError, match="`n_random` sets"):
        sg.pl.shift(adata)


@pytest.mark.parametrize(
    ("test", "reference", "what"),
    [
        ("vs_null", "above the null", "mean effect  ("),
        ("random_genes", "above matched genes", "mean effect  ("),
        ("interaction", "above the sum", "mean effect beyond the sum of singles"),
    ],
)
def test_words_say_what_was_tested(perturbed, test, reference, what) -> None:
    adata = perturbed(goal=False)
    adata.uns["shift"]["rank"]["test"] = test
    ax = sg.pl.shift(adata, show=False)
    assert any(text.startswith(reference) for text in ax.get_legend_handles_labels()[1])
    assert ax.get_xlabel().startswith(what)


def test_rank_without_goal_states_lists_the_largest() -> None:
    adata = ranked(goal=False, test="mixture")
    ax = sg.pl.shift(adata, kind="rank", n_top=10, show=False)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == adata.varm["shift"]["effect"].nlargest(10).index.tolist()
    assert "1 − cosine similarity" in ax.get_xlabel()


def test_axis_numbers_are_in_the_unit_of_the_label() -> None:
    ax = sg.pl.shift(ranked(), show=False)
    assert "10$^{-3}$" in ax.get_xlabel()
    assert ax.xaxis.get_major_formatter()(0.0025, 0) == "2.5"
    assert ax.xaxis.get_major_formatter()(-0.001, 0) == "−1"


def test_further_state_symbols_and_own_axes() -> None:
    adata = ranked()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    figure, (left, right) = plt.subplots(1, 2)
    assert sg.pl.shift(adata, state="B", ax=left) is left
    assert "towards B" in left.get_xlabel()
    assert all(text.get_text().startswith("S") for text in left.texts)
    assert sg.pl.shift(adata, kind="rank", ax=right, return_fig=True) is figure


def test_show_shows_and_returns_nothing(monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert sg.pl.shift(ranked(), show=True) is None
    assert shown == [True]


def test_vanishing_p_values_are_drawn() -> None:
    adata = ranked()
    adata.varm["shift"].loc["GENE28", "pvals"] = 0.0
    ax = sg.pl.shift(adata, show=False)
    assert np.isfinite(np.concatenate(list(offsets_by_colour(ax).values()))).all()


@pytest.mark.parametrize(
    ("adata", "options", "error", "match"),
    [
        (ranked(), {"kind": "bar"}, ValueError, "must be"),
        (ranked(), {"key": "other"}, KeyError, r"sg\.tl\.rank_shifts"),
        (ranked(goal=False, test="mixture"), {}, ValueError, "kind='rank'"),
        (ranked(min_cells=81), {}, ValueError, "No gene .* was tested"),
        (ranked(), {"kind": "plane", "state": "Mono"}, ValueError, r"Choose one of \['T', 'B'\]"),
        (ranked(goal=False, test="mixture"), {"kind": "plane"}, ValueError, "no goal states"),
    ],
)
def test_errors(adata, options, error, match) -> None:
    with pytest.raises(error, match=match):
        sg.pl.shift(adata, **options)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("kind", ["volcano", "rank", "plane"])
def test_the_caption_says_what_the_ranking_is_worth(perturbed, kind) -> None:
    adata = perturbed()
    assert not any(
        "separation of states" in text.get_text() for text in sg.pl.shift(adata, kind=kind, show=False).texts
    )
    adata.uns["shift"]["separation"] = {"embedding": 0.8125, "expression": 0.94, "held_out": "cells"}
    adata.uns["shift"]["rank"]["agreement"] = {"log2fc": 0.1, "untrained": -0.123, "explained": 0.345}
    ax = sg.pl.shift(adata, kind=kind, show=False)
    (caption,) = [text for text in ax.texts if "separation of states" in text.get_text()]
    assert caption.get_text().replace("\n", " ") == (
        "separation of states: AUROC 0.81, by expression 0.94 expression and rank explain 34% of the ranking "
        "Spearman with an untrained encoder -0.12"
    )
    ax.figure.draw_without_rendering()
    below = caption.get_window_extent()
    assert below.y1 <= ax.xaxis.label.get_window_extent().y0
    assert below.y0 >= 0
