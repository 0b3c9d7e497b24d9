"""Impossible requests are refused by name before the model runs, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest

import scgeneformer as sg
from scgeneformer.nn._encoder import Embedding

from .test_perturb_checkpoint import perturb_by

GOAL = {"groupby": "state", "source": "sick", "target": "well"}
SCREEN = GOAL | {"refine": 0}


def slots(adata):
    """Names in every slot, and what a run might touch."""
    return {
        **{slot: set(getattr(adata, slot)) - {None} for slot in ("layers", "obsm", "varm", "varp", "obsp", "uns")},
        "obs": adata.obs.to_dict(),
        "var": adata.var.to_dict(),
    }


@pytest.fixture
def refused(tokenized, folder, monkeypatch):
    """Call the verb of these options, which must refuse, not run the model and change nothing."""

    def never(*_):
        pytest.fail("the model ran")

    def call(error, words, adata=tokenized, model=folder, settings=None, **options):
        monkeypatch.setattr(Embedding, "forward", never)
        before, copied = slots(adata), adata.copy()
        with pytest.raises(error, match=words), sg.settings.override(**(settings or {})):
            perturb_by(adata, model, **options)
        assert slots(adata) == before
        assert (adata.X != copied.X).nnz == 0
        np.testing.assert_array_equal(adata.obsm["geneformer_tokens"], copied.obsm["geneformer_tokens"])

    return call


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "explode"}, ValueError, "kind='explode' must be 'delete'"),
        ({"kind": "inhibit", "quartiles": 4}, ValueError, "quartiles=4"),
        ({"kind": "inhibit", "ranks": 0}, ValueError, "ranks=0 must be an integer of at least 1"),
        ({"kind": "inhibit", "ranks": 5, "quartiles": 2}, ValueError, "leave out one of the two"),
        (SCREEN | {"ranks": 5}, ValueError, "kind='inhibit' or 'activate' in place of 'delete'"),
        ({"positions": "moved"}, ValueError, "positions='moved' must be 'renumbered'"),
        ({"positions": "kept", "kind": "inhibit"}, ValueError, "is for kind='delete'.*Leave out `positions`"),
        (SCREEN | {"positions": "kept", "kind": "activate"}, ValueError, "is for kind='delete'.*Leave out `positions`"),
        ({"sets": {"a": ["SYM1"]}, "positions": "kept", "kind": "overexpress"}, ValueError, "is for kind='delete'"),
        ({"positions": "kept", "compat": "official"}, ValueError, "Leave out `compat`, or `positions`"),
        (GOAL | {"decompose": True, "kind": "activate"}, ValueError, "use kind='delete'"),
        (GOAL | {"decompose": True, "positions": "kept"}, ValueError, "leave out `positions`"),
        ({"decompose": True}, ValueError, "name a `target`"),
        ({"compat": "old"}, ValueError, "compat='old'"),
        ({"missing": "eror"}, ValueError, "missing='eror' must be 'error' or 'ignore'"),
        (SCREEN | {"refine": -1}, ValueError, "refine=-1"),
        ({"max_cells": 0}, ValueError, "max_cells=0"),
        (GOAL | {"max_state_cells": 1}, ValueError, "max_state_cells=1.*single cell"),
        ({"genes": ["GATA4"]}, ValueError, "not in vocabulary 'small': GATA4"),
        ({"genes": ["SYM3", "SYM29"]}, ValueError, "not in vocabulary 'small': SYM29"),
        ({"genes": []}, ValueError, "No gene in `genes`"),
        ({"genes": "vocabulary"}, ValueError, "is for kind='overexpress'"),
        ({"genes": "vocabulary", "kind": "inhibit"}, ValueError, "is for kind='overexpress'"),
        ({"sets": {"a": ["GATA4"]}}, ValueError, r"sets\['a'\].*GATA4"),
        ({"sets": ["SYM1", "SYM2"]}, ValueError, "must be sets of genes"),
        ({"sets": {}}, ValueError, "`sets` is empty"),
        ({"anchor": "GATA4"}, ValueError, "`anchor`.*GATA4"),
        ({"anchor": "SYM1", "genes": ["SYM1"]}, ValueError, "No gene goes with `anchor`"),
        ({"anchor": "SYM1", "sets": [("SYM1", "SYM2")]}, TypeError, "single genes that go with it"),
        ({"sets": None}, TypeError, "Name `sets`"),
        ({"cells": "n >"}, ValueError, "not a valid query"),
        ({"cells": ["dog"]}, KeyError, "'dog'"),
        ({"cells": [True]}, ValueError, "1 bools, but there are 40"),
        ({"target": "well"}, ValueError, "need `groupby`"),
        ({"groupby": "state"}, ValueError, "`source`"),
        (GOAL | {"groupby": "disease"}, KeyError, r"'disease' in \.obs"),
        (GOAL | {"source": "dead"}, ValueError, "'dead'.*'odd', 'sick', 'well'"),
        (GOAL | {"target": "sick"}, ValueError, "twice"),
        (GOAL | {"others": ["well"]}, ValueError, "twice"),
        (GOAL | {"cells": "state == 'well'"}, ValueError, "`source` is among `cells`"),
        (GOAL | {"centroids": "mode"}, ValueError, "centroids='mode'"),
        (GOAL | {"centroids": {"well": np.ones(16)}}, ValueError, "no centroid of 'sick'"),
        (GOAL | {"centroids": {"well": np.ones(16), "sick": np.ones(17)}}, ValueError, "must be 16 finite"),
        (GOAL | {"centroids": {"well": np.full(16, np.nan), "sick": np.ones(16)}}, ValueError, "finite"),
        ({"refine": 0}, TypeError, "target"),
        (GOAL | {"within": "type"}, KeyError, r"'type' in \.obs"),
        (GOAL | {"within": "state"}, ValueError, "'sick' lacks two cells of 'well'"),
        ({"pooling": "max"}, ValueError, "pooling='max'"),
        ({"emb_layer": 1}, ValueError, "emb_layer=1"),
        ({"settings": {"precision": "float8"}}, ValueError, "precision='float8'"),
        ({"settings": {"device": "abacus"}}, ValueError, "abacus"),
        ({"tokens_key": "other"}, KeyError, "No tokens in .*other"),
        ({"mod": "other", "model": "no-such-model"}, ValueError, "no-such-model"),
    ],
)
def test_options(refused, options, error, words):
    refused(error, words, **options)


def test_genes_that_no_chosen_cell_expresses(adata, folder, refused):
    adata.X[:20, 4] = 0
    adata.X.eliminate_zeros()
    sg.pp.tokenize(adata, folder)
    name = adata.var_names[4]
    in_none = [*[True] * 20, *[False] * 20]
    for kind in ("delete", "inhibit", "activate"):
        refused(ValueError, f"no perturbed cell: .*{name}", genes=[name], cells=in_none, kind=kind)
    refused(ValueError, f"no perturbed cell: .*{name}", anchor=name, cells=in_none)


def test_genes_without_a_column(tokenized, refused):
    few = tokenized[:, [2, 9]].copy()
    lost = tokenized.var_names[5]
    for kind in ("delete", "overexpress"):
        refused(
            ValueError, rf"without a column in \.var.*{lost}.*`sg.tl.perturb_sets`", adata=few, genes=[lost], kind=kind
        )


def test_a_state_with_one_cell(tokenized, refused):
    tokenized.obs["state"] = ["one", *["two"] * 39]
    refused(ValueError, r"\['one'\] have a single cell.*centroids", groupby="state", source="two", target="one")


def test_a_model_of_another_vocabulary(tokenized, folder, refused, tmp_path):
    other = sg.Vocabulary.from_adata(tokenized[:, 5:].copy(), name="other", max_length=64)
    sg.pp.tokenize(tokenized, other)
    refused(ValueError, "made with vocabulary 'other'.*vocabulary 'small'")


def test_cls_without_such_a_token(adata, tmp_path, refused):
    vocabulary = sg.Vocabulary.from_adata(adata, name="bare", max_length=64, special_tokens=False)
    config = sg.nn.EncoderConfig(len(vocabulary), n_layers=2, width=16, n_heads=2, feed_forward=24, max_length=64)
    sg.nn.save_checkpoint(tmp_path / "bare", sg.nn.Encoder(config))
    vocabulary.save(tmp_path / "bare" / "vocabulary.json")
    sg.pp.tokenize(adata, tmp_path / "bare")
    refused(ValueError, "needs a <cls> token", adata=adata, model=tmp_path / "bare", pooling="cls")


def test_a_folder_that_cannot_be_used(tokenized, folder, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(OSError, "file", checkpoint=tmp_path / "file", **GOAL)
    (tmp_path / "run" / "genes").mkdir(parents=True)
    (tmp_path / "run" / "genes" / "run.json").write_text('{"model": "else"}')
    refused(ValueError, "model was 'else' and is 'model'", checkpoint=tmp_path / "run", **GOAL)


def test_a_missing_modality(tokenized, folder):
    import mudata as md

    with pytest.raises(KeyError, match="No modality 'rna'"):
        sg.tl.perturb(md.MuData({"gex": tokenized}), folder)
    with pytest.raises(TypeError, match="AnnData or MuData"):
        sg.tl.perturb(tokenized.X, folder)
