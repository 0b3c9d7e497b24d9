"""Cells unlike all of the reference are detected, and cells like it are not called unknown more often than requested."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scanpy import logging as logg

import scgeneformer as sg

CENTRES, SPREADS = (
    np.array([0.0, 0.8, 1.5]),
    np.array([0.5, 1.0, 2.0]),
)  # labels that overlap, and are not equally dense
K = 15


def cells(n: int, seed: int, *, n_donors: int = 1, donor_sd: float = 0.0) -> AnnData:
    rng = np.random.default_rng(seed)
    code, donor = rng.integers(0, 3, n), rng.integers(0, n_donors, n)
    moved = donor_sd * rng.normal(size=(n_donors, 8))
    states = CENTRES[code, None] + SPREADS[code, None] * rng.normal(size=(n, 8)) + moved[donor]
    obs = pd.DataFrame(
        {"label": pd.Categorical.from_codes(code, ["a", "b", "c/d"]), "donor": [f"donor {seed} {d}" for d in donor]},
        index=[f"{seed}-{i}" for i in range(n)],
    )
    return AnnData(np.zeros((n, 1), dtype=np.float32), obs=obs, obsm={"X_pca": states.astype(np.float32)})


def transfer(query: AnnData, reference: AnnData, **options) -> AnnData:
    return sg.tl.transfer(query, reference, "label", use_rep="X_pca", key_added="new", copy=True, **options)


def false_unknowns(alpha: float, n_runs: int = 8, **options) -> tuple[float, float]:
    """Share of cells that are called unknown although they come from the distribution of the reference, and its standard error."""
    shares = []
    for run in range(n_runs):
        sample = {"n_donors": 25, "donor_sd": 0.5} if options else {}
        reference, query = cells(500, 2 * run, **sample), cells(500, 2 * run + 1, **sample)
        shares.append(np.mean(transfer(query, reference, unknown=alpha, **options).obs["new"] == "unknown"))
    return float(np.mean(shares)), float(np.std(shares) / np.sqrt(n_runs))


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_known_cells_are_unknown_at_most_as_often_as_asked_for(alpha: float) -> None:
    share, error = false_unknowns(alpha)
    assert alpha / 3 < share < alpha + 3 * error


def test_far_more_unknown_cells_than_were_asked_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    reference, query = cells(500, 0), cells(200, 1)
    transfer(query, reference, unknown=0.05)
    assert warnings == []
    query.obsm["X_pca"][:60] += 20  # of another study, or of a type that the reference lacks
    labels = transfer(query, reference, unknown=0.05).obs["new"]
    n_unknown = int((labels == "unknown").sum())
    assert n_unknown >= 60
    (said,) = warnings
    assert said.startswith(
        f"{n_unknown} of 200 cells ({n_unknown / 200:.0%}) are unknown, but unknown=0.05 flags at most 5%"
    )


def test_cells_of_new_donors_need_donors_left_out() -> None:
    share, error = false_unknowns(0.05, donor="donor")
    assert share < 0.05 + 3 * error
    same = [cells(500, seed, n_donors=25, donor_sd=0.5) for seed in range(16)]
    pairs = zip(same[::2], same[1::2], strict=True)
    naive = np.mean([np.mean(transfer(q, r, unknown=0.05).obs["new"] == "unknown") for r, q in pairs])
    assert naive > share


@pytest.mark.parametrize("donor", [None, "donor"])
def test_columns_are_a_loop(donor: str | None) -> None:
    reference, query = cells(150, 1, n_donors=6), cells(40, 2)
    result = transfer(query, reference, donor=donor)
    points, label = reference.obsm["X_pca"].astype(float), reference.obs["label"].astype(str).to_numpy()
    group = np.arange(150) if donor is None else reference.obs["donor"].to_numpy()

    def look(state: np.ndarray, others: np.ndarray) -> tuple[float, str]:
        """Mean distance to the nearest of `others`, and their label for the cell."""
        distances = np.sqrt(((points[others] - state) ** 2).sum(axis=1))
        nearest = np.argsort(distances)[:K]
        votes = pd.Series(1 / distances[nearest]).groupby(label[others][nearest]).sum()
        return distances[nearest].mean(), votes.idxmax()

    left_out = [look(points[i], group != group[i]) for i in range(150)]
    for i in range(40):
        distance, told = look(query.obsm["X_pca"][i].astype(float), np.ones(150, dtype=bool))
        alike = np.array([d for d, name in left_out if name == told])
        assert result.obs["new"].iloc[i] == told
        np.testing.assert_allclose(result.obs["new_distance"].iloc[i], distance / np.median(alike), rtol=1e-4)
        np.testing.assert_allclose(result.obs["new_novelty"].iloc[i], (1 + sum(alike >= distance)) / (len(alike) + 1))


def test_a_far_cluster_is_unknown_and_the_vote_does_not_see_it() -> None:
    reference, query = cells(300, 1), cells(60, 2)
    query.obsm["X_pca"][:20] -= 9
    result = transfer(query, reference, unknown=0.05)
    far = np.arange(60) < 20
    assert (result.obs["new"][far] == "unknown").all()
    assert (result.obs["new_distance"][far] > 3).all()
    assert result.obs["new_score"][far].mean() > 0.8
    assert (result.obs["new"][~far] == "unknown").mean() < 0.15
    assert result.obs["new"].cat.categories.tolist() == ["a", "b", "c/d", "unknown"]
    plain = transfer(query, reference)
    pd.testing.assert_series_equal(result.obs["new_nearest"], plain.obs["new"], check_names=False)
    assert "new_nearest" not in plain.obs
    kept = result.obs["new"] != "unknown"
    assert (result.obs["new"][kept].astype(str) == plain.obs["new"][kept].astype(str)).all()


def test_round_trip(tmp_path) -> None:
    query = cells(40, 2)
    query.obsm["X_pca"][3] = np.nan
    result = transfer(query, cells(150, 1, n_donors=6), unknown=0.1, donor="donor")
    assert (
        np.flatnonzero(result.obs["new_novelty"].isna()).tolist()
        == [3]
        == np.flatnonzero(result.obs["new"].isna()).tolist()
    )
    result.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(back.obs, result.obs, check_categorical=False)
    assert back.uns["new"]["params"]["unknown"] == 0.1
    assert back.uns["new"]["params"]["donor"] == "donor"
    assert set(transfer(back, cells(150, 1)).obs) == set(result.obs) - {"new_nearest"}  # a run replaces the one before


def test_labels_with_few_cells_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = cells(150, 1)
    reference = reference[(reference.obs["label"] != "a") | (np.arange(150) < 20)].copy()
    lines: list[str] = []
    monkeypatch.setattr("scanpy.logging.warning", lines.append)
    transfer(cells(10, 2), reference, unknown=0.05)
    assert ["labels 'a', 'c/d' are never unknown: fewer than 20 reference cells" in line for line in lines] == [True]


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (None, {"unknown": 0.0}, ValueError, "unknown=0.0 must be .*between 0 and 1"),
        (None, {"unknown": 0.01}, ValueError, "at least 100 reference cells of a label.*no label has more than"),
        (lambda r: r.obs.__setitem__("label", r.obs["label"].cat.rename_categories({"a": "unknown"})), {"unknown": 0.1}, ValueError, "a label 'unknown' already"),
        (None, {"donor": "sample"}, KeyError, "No column 'sample' in reference.obs"),
        (lambda r: r.obs.__setitem__("donor", "one"), {"donor": "donor"}, ValueError, r"of one donor \(\.obs\['donor'\]\)"),
        (lambda r: r.obs.__setitem__("donor", [None, *"de" * 29, "d"]), {"donor": "donor"}, ValueError, "1 labelled cells of the reference have no donor"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(change, options, error, match) -> None:
    reference, query = cells(60, 1), cells(10, 2)
    if change is not None:
        change(reference)
    before = query.copy()
    with pytest.raises(error, match=match):
        sg.tl.transfer(query, reference, "label", use_rep="X_pca", key_added="new", **options)
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert not query.uns
