"""Results that are not finite: the error names the model if the cells have genes, and the cells if they have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import scgeneformer as sg
from scgeneformer import hub

SLOTS = ("obs", "var", "obsm", "varm", "layers", "varp", "uns")
GOAL = {"groupby": "state", "source": "sick", "target": "well"}
CALLS = {
    "embed": lambda adata, model: sg.tl.embed(adata, model, genes=True),
    "embed cls": lambda adata, model: sg.tl.embed(adata, model, pooling="cls"),
    "perturb": lambda adata, model: sg.tl.perturb(adata, model, adata.var_names[:3], pooling="mean"),
    "perturb cls": lambda adata, model: sg.tl.perturb(adata, model, adata.var_names[:3], pooling="cls"),
    "perturb to a goal": lambda adata, model: sg.tl.perturb(adata, model, adata.var_names[:3], **GOAL),
    "screen": lambda adata, model: sg.tl.screen(adata, model, adata.var_names[:3], centroids=positions(model), **GOAL),
    "effects": lambda adata, model: sg.tl.perturb(adata, model, adata.var_names[:3], effects=True),
    "annotate": lambda adata, model: sg.tl.annotate(adata, cell_classifier(adata, model)),
    "classify genes": lambda adata, model: sg.tl.classify_genes(adata, gene_classifier(adata, model)),
}


def positions(model) -> dict[str, np.ndarray]:
    return {"well": np.ones(16), "sick": -np.ones(16)}


def cell_classifier(adata, model):
    sg.model.CellClassifier.setup_anndata(adata, "state")
    return trained(sg.model.CellClassifier(adata, model))


def gene_classifier(adata, model):
    sg.model.GeneClassifier.setup_anndata(adata)
    return trained(sg.model.GeneClassifier(adata, {"x": adata.var_names[:5], "y": adata.var_names[5:9]}, model))


def trained(model):
    model.is_trained_ = True
    return model


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_that_gives_no_numbers_is_blamed(call, value, tokenized, folder):
    pretrained = hub.load(folder)
    with torch.no_grad():
        pretrained.encoder.blocks[0].feed_forward.up.bias[0] = value
    broken = hub.Pretrained("broken", pretrained.vocabulary, model=pretrained.encoder)
    before = {name: set(getattr(tokenized, name)) for name in SLOTS}
    with pytest.raises(FloatingPointError, match="weights are not finite"):
        CALLS[call](tokenized, broken)
    registered = {"_scvi_uuid", "_scvi_manager_uuid"}  # by making the classifier
    assert before == {name: set(getattr(tokenized, name)) - registered for name in SLOTS}


def test_a_cell_without_genes_is_not_the_model_s_fault(tokenized, folder):
    expected = sg.tl.embed(tokenized, folder, pooling="mean", copy=True).obsm["X_geneformer"]
    tokenized.obsm["geneformer_tokens"][5] = 0
    tokenized.obsm["geneformer_tokens"][9] = [2, 3] + [0] * (tokenized.obsm["geneformer_tokens"].shape[1] - 2)
    tokenized.obs["n_tokens"] = (tokenized.obsm["geneformer_tokens"] > 0).sum(1)
    with pytest.warns(UserWarning, match="2 cells have no gene"):
        sg.tl.embed(tokenized, folder, pooling="mean", genes=True)
    found = tokenized.obsm["X_geneformer"]
    assert np.flatnonzero(np.isnan(found).any(1)).tolist() == [5, 9]
    others = np.delete(np.arange(40), [5, 9])
    np.testing.assert_allclose(found[others], expected[others], atol=1e-5)
    for verb in (sg.tl.perturb, sg.tl.screen):
        verb(tokenized, folder, tokenized.var_names[:3], pooling="mean", key_added=verb.__name__, **GOAL)


@pytest.mark.parametrize("call", ["embed", "perturb to a goal", "annotate"])
def test_a_file_with_such_weights_is_named_first(call, tokenized, folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][2] = torch.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.bias.*model\.safetensors.*NaN"):
        CALLS[call](tokenized, folder)
