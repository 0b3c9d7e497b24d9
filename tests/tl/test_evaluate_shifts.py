"""Rankings against experiments: planted hits are found, by name or symbol, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

STATES = {"groupby": "state", "source": "sick", "target": "well"}
LABELS = {"n_bootstrap": 20, "rng": 1}


@pytest.fixture
def ranked(tokenized):
    sg.tl.perturb(tokenized, **STATES)
    sg.tl.rank_shifts(tokenized)
    return tokenized


def ranking(adata) -> pd.DataFrame:
    frame = sg.get.shifts(adata)
    return frame[frame["n_cells"] >= 5]


def test_genes_of_the_largest_shifts_are_predicted_by_their_shifts(ranked):
    frame = ranking(ranked)
    hits = frame.nlargest(6, "effect")["names"]
    sg.tl.evaluate_shifts(ranked, {name: name in set(hits) for name in frame["names"]}, **LABELS)
    table = sg.get.evaluation(ranked, key="shift_evaluation")
    assert table.loc["effect", "auroc"] == table.loc["effect", "average_precision"] == 1
    truth = frame["names"].isin(hits)
    for column in ("log2fc", "linear_shift"):
        assert table.loc[column, "auroc"] == pytest.approx(roc_auc_score(truth, frame[column]))
    assert table.loc["|log2fc|", "auroc"] == pytest.approx(roc_auc_score(truth, frame["log2fc"].abs()))
    assert table.loc["rank", "auroc"] == pytest.approx(roc_auc_score(truth, -frame["mean_rank"]))
    gain = ranked.uns["shift_evaluation"]["increment"].iloc[0]
    together = table["auroc"]
    assert gain["auroc"] == pytest.approx(together["expression and shift"] - together["expression, together"])
    params = ranked.uns["shift_evaluation"]["params"]
    assert (params["n_genes"], params["n_hits"]) == (len(frame), 6)
    assert params["base_rate"] == pytest.approx(6 / len(frame))


def test_hits_alone_by_symbol_are_hits_by_name(ranked):
    frame = ranking(ranked)
    chosen = frame.iloc[[0, 3, 5, 7, 9, 11]]
    sg.tl.evaluate_shifts(ranked, chosen["symbol"].tolist(), **LABELS)
    by_symbol = sg.get.evaluation(ranked, key="shift_evaluation")
    sg.tl.evaluate_shifts(ranked, frame["names"].isin(chosen["names"]).set_axis(frame["names"]), **LABELS)
    pd.testing.assert_frame_equal(by_symbol, sg.get.evaluation(ranked, key="shift_evaluation"))


def test_effects_of_some_genes(ranked):
    frame = ranking(ranked)
    some = frame.iloc[2:]
    effects = pd.Series(some["effect"].to_numpy() ** 3, index=some["names"])
    effects["no such gene"] = 1.0
    sg.tl.evaluate_shifts(ranked, effects, **LABELS)
    table, params = sg.get.evaluation(ranked, key="shift_evaluation"), ranked.uns["shift_evaluation"]["params"]
    assert table.loc["effect", "spearman"] == pytest.approx(1)
    assert (params["n_genes"], params["n_not_ranked"]) == (len(some), 1)
    assert "base_rate" not in params


def test_results_survive_a_file_and_are_written_anew(ranked, tmp_path):
    import anndata as ad

    genes = ranking(ranked)["names"].iloc[::3].tolist()
    sg.tl.evaluate_shifts(ranked, genes, **LABELS)
    ranked.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(
        sg.get.evaluation(again, key="shift_evaluation"), sg.get.evaluation(ranked, key="shift_evaluation")
    )
    sg.tl.evaluate_shifts(again, genes[:3], **LABELS)
    assert again.uns["shift_evaluation"]["params"]["n_hits"] == 3
    assert "increment" not in again.uns["shift_evaluation"]  # too few for a cross-validation


def test_within_groups_one_is_named(tokenized):
    tokenized.obs["half"] = np.where(np.arange(tokenized.n_obs) % 2, "odd", "even")
    sg.tl.perturb(tokenized, within="half", **STATES)
    sg.tl.rank_shifts(tokenized)
    with pytest.raises(ValueError, match="Set `group=` to one of them"):
        sg.tl.evaluate_shifts(tokenized, ["SYM1", "SYM2"])
    sg.tl.evaluate_shifts(tokenized, [f"SYM{i}" for i in range(1, 7)], group="odd", **LABELS)
    assert tokenized.uns["shift_evaluation"]["params"]["group"] == "odd"


@pytest.mark.parametrize(
    ("truth", "error", "message"),
    [
        (["unknown"], ValueError, "0 of .* items are hits"),
        (pd.Series([True, False], index=["SYM1", "SYM1"]), ValueError, "twice: SYM1"),
        ({"SYM1": 0.3, "SYM2": 0.1}, ValueError, "3 items or more"),
    ],
)
def test_refused(ranked, truth, error, message):
    before = set(ranked.uns)
    with pytest.raises(error, match=message):
        sg.tl.evaluate_shifts(ranked, truth)
    assert set(ranked.uns) == before


def test_without_a_ranking(tokenized):
    with pytest.raises(KeyError, match=r"sg\.tl\.rank_shifts"):
        sg.tl.evaluate_shifts(tokenized, ["SYM1"])
