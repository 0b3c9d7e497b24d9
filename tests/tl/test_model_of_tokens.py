"""The model that is used if none is named."""

from __future__ import annotations

import numpy as np
import pytest

import scgeneformer as sg
from scgeneformer.tl import _model_inputs
from scgeneformer.tl._model_inputs import model_of_tokens

KEY = "geneformer_tokens"


def test_a_folder_is_remembered(tokenized, folder):
    named = sg.tl.embed(tokenized, folder, copy=True)
    sg.tl.embed(tokenized)
    np.testing.assert_array_equal(tokenized.obsm["X_geneformer"], named.obsm["X_geneformer"])


def test_the_bundled_model_says_what_it_is_once(adata, monkeypatch):
    from scanpy import logging as logg

    adata.var_names = list(sg.hub.vocabulary("default").ids[-30:])
    sg.pp.tokenize(adata, "default")
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    _model_inputs._introduce_bundled.cache_clear()
    sg.tl.embed(adata)
    sg.tl.embed(adata)
    assert len(warnings) == 1
    assert "bundled model" in warnings[0]
    assert adata.uns["geneformer"]["params"]["model"] == "default"
    warnings.clear()
    sg.tl.embed(adata, "default")  # who names it knows it
    assert warnings == []


@pytest.mark.parametrize(("generation", "expected"), [("V1", "V1-10M"), ("V2", None)])
def test_cells_that_know_their_vocabulary_only(tokenized, generation, expected):
    """After concatenation."""
    del tokenized.uns[KEY]
    tokenized.obs["token_vocabulary"] = f"{generation}:abc"
    if expected is not None:
        assert model_of_tokens(tokenized, KEY) == expected
        return
    with pytest.raises(ValueError, match="several models share: 'V2-104M', 'V2-104M_CLcancer', 'V2-316M'.*`model=`"):
        sg.tl.perturb(tokenized)


def test_a_vocabulary_of_ones_own(tokenized):
    del tokenized.uns[KEY]
    with pytest.raises(ValueError, match="vocabulary 'small', which belongs to no named model.*`model=`"):
        sg.tl.screen(tokenized, target="well", groupby="state")
