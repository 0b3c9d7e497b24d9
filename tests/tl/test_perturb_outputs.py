"""Changes of the predictions of a classifier, against its predictions for cells edited by hand."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest

import scgeneformer as sg

KEY = "geneformer_tokens"
LABELS = {"protein": "continuous", "marker": "continuous", "gate": "categorical"}


@pytest.fixture
def cells(tokenized):
    rng = np.random.default_rng(1)
    tokenized.obs["protein"] = 5 + 3 * rng.normal(size=40)
    tokenized.obs["marker"] = rng.normal(size=40)
    tokenized.obs["gate"] = rng.choice(["low", "high"], 40)
    return tokenized


def classifier(cells, folder, labels=None, **options):
    labels = LABELS if labels is None else labels
    sg.model.CellClassifier.setup_anndata(cells, labels)
    model = sg.model.CellClassifier(cells, folder, **options)
    run = {"max_epochs": 1} if options.get("head") == "bert" else {"recipe": "probe"}
    model.train(**run, enable_progress_bar=False)
    return model


def deleted(tokens, gene):
    """Rows with the gene, and the same without it."""
    rows = np.flatnonzero((tokens == gene).any(axis=1))
    after = np.zeros_like(tokens[rows])
    for new, row in zip(after, tokens[rows], strict=True):
        rest = row[row != gene]
        new[: len(rest)] = rest
    return rows, after


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_changes_are_those_of_its_predictions(cells, folder, pooling):
    model = classifier(cells, folder, pooling=pooling)
    sg.tl.perturb(cells, model, ["SYM1", "SYM7"], outputs=list(LABELS), n_reference=0)
    for column in (1, 7):
        rows, after = deleted(cells.obsm[KEY], cells.var["token_id"].iloc[column])
        for name, slot in (("protein", "shift"), ("marker", "shift_marker"), ("gate", "shift_gate")):
            before_and_after = [model.answer(t, task=name).answer for t in (cells.obsm[KEY][rows], after)]
            if name == "gate":  # classes are in the order of the alphabet: high, low
                before_and_after = [np.log(p[:, 1] / p[:, 0]) for p in before_and_after]
            change = before_and_after[1] - before_and_after[0]
            assert np.abs(change).max() > 1e-4
            found = cells.layers[slot][:, [column]].toarray()[rows, 0]
            np.testing.assert_allclose(found, change, rtol=1e-3, atol=2e-5)
    params = cells.uns["shift"]["params"]
    assert list(params["outputs"]) == list(LABELS)
    assert (params["target"], params["emb_layer"], params["pooling"]) == ("protein", 0, pooling)


def test_they_are_ranked_and_listed_by_label(cells, folder):
    model = classifier(cells, folder)
    sg.tl.perturb(cells, model, ["SYM1", "SYM7", "SYM9"], outputs=["protein", "gate"])
    sg.tl.rank_shifts(cells)
    table = sg.get.shifts(cells)
    assert set(table["names"]) == {"ENSG00000000001", "ENSG00000000007", "ENSG00000000009"}
    assert sg.get.shifts(cells, state="gate")["effect"].notna().all()


def test_sets_groups_files_and_mudata(cells, folder, tmp_path):
    cells.obs["half"] = np.repeat(["a", "b"], 20)
    model = classifier(cells, folder)
    model.save(tmp_path / "classifier")
    sets = {"pair": ["SYM1", "SYM7"]}
    whole = sg.tl.perturb_sets(cells, model, sets, outputs="protein", n_random=0, copy=True)
    mdata = md.MuData({"rna": cells})
    sg.tl.perturb_sets(
        mdata, tmp_path / "classifier", sets, outputs="protein", within="half", n_random=0, checkpoint=tmp_path / "run"
    )
    np.testing.assert_allclose(mdata["rna"].obsm["shift_sets"], whole.obsm["shift_sets"], atol=1e-5)
    with pytest.raises(ValueError, match="holds parts of another run"):
        sg.tl.perturb_sets(mdata, model, sets, outputs="gate", within="half", n_random=0, checkpoint=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "well", "groupby": "state"}, r"leave out \['groupby', 'target'\]"),
        ({"emb_layer": -1}, r"leave out \['emb_layer'\]"),
        ({"decompose": True}, r"leave out \['decompose'\]"),
        ({"centroids": {"a": np.ones(16)}}, r"leave out \['centroids'\]"),
        ({"outputs": []}, "names no label"),
        ({"outputs": "height"}, "task='height': name one of"),
    ],
)
def test_options_that_contradict_it(cells, folder, options, message):
    model = classifier(cells, folder)
    before = set(cells.layers)
    with pytest.raises(ValueError, match=message):
        sg.tl.perturb(cells, model, ["SYM1"], **{"outputs": "protein"} | options)
    assert set(cells.layers) == before


def test_classifiers_that_cannot(cells, folder):
    untrained = sg.model.CellClassifier
    untrained.setup_anndata(cells, "gate")
    with pytest.raises(ValueError, match="train"):
        sg.tl.perturb(cells, untrained(cells, folder), ["SYM1"], outputs="gate")
    with pytest.raises(ValueError, match="head 'bert'"):
        sg.tl.perturb(cells, classifier(cells, folder, "gate", head="bert"), ["SYM1"], outputs="gate")
    with pytest.raises(ValueError, match="'state' has 3 classes"):
        sg.tl.perturb(cells, classifier(cells, folder, "state"), ["SYM1"], outputs="state")
    with pytest.raises(TypeError, match="not a CellClassifier"):
        sg.tl.perturb(cells, None, ["SYM1"], outputs="gate")
