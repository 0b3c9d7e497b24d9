"""The table of docs/backbones.md against the functions: each works, or is refused by name before a model reads a cell."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg
from scgeneformer.tl._networks._score import NEEDS

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
STATES = {"groupby": "state", "source": "sick", "target": "well"}
QUIET = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False, "enable_model_summary": False}
SCORES = ("attention", "contextual", "token", "gradient", "effects")
OPTIONS = {"lora": 2, "quantize": "nf4", "attention_dropout": 0.1}  # of classifiers, that not all backbones have
KINDS = {"encoder": "BERT encoder", "decoder": "LLaMA decoder", "CellFM": "CellFM encoder"}


def rows_of_table() -> list[tuple[list[str], dict[str, str]]]:
    """Verbs of each row of the second table, and what is said of each backbone."""
    text = PAGE.read_text(encoding="utf-8").partition("## What works with which")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    backbones = [cell.strip() for cell in lines[0][1:]]
    return [
        (
            re.findall(r"\{(?:func|class)\}`([\w.]+) <", first),
            dict(zip(backbones, map(str.strip, cells), strict=True)),
        )
        for first, *cells in lines[2:]
    ]


TABLE = rows_of_table()
CELLS = [(verb, backbone, said) for verbs, row in TABLE for verb in verbs for backbone, said in row.items()]


@pytest.fixture
def folders(vocabulary, value_vocabulary, tmp_path):
    """A small model of each backbone, with a head that scores genes, and wide enough to be quantized."""
    shape = {"vocab_size": len(vocabulary), "max_length": vocabulary.max_length, "n_layers": 2, "width": 64}
    shape |= {"n_heads": 2, "feed_forward": 64}
    torch.manual_seed(0)
    networks = {
        "encoder": sg.nn.MaskedGeneModel(sg.nn.EncoderConfig(**shape)),
        "decoder": sg.nn.NextGeneModel(sg.nn.LlamaConfig(n_kv_heads=1, head_width=32, **shape)),
        "CellFM": sg.nn.CellFM(sg.nn.CellFMConfig(len(value_vocabulary), 2, 64, n_heads=2, n_bins=8, max_length=64)),
    }
    for name, network in networks.items():
        sg.nn.save_checkpoint(tmp_path / name, network)
        of_model = value_vocabulary if name == "CellFM" else vocabulary
        of_model.save(tmp_path / name / "vocabulary.json")
    return {name: tmp_path / name for name in networks}


@pytest.fixture
def cells(adata, folders, backbone):
    adata.obs["donor"], adata.obs["day"] = np.tile(list("abcd"), 10), np.arange(40) % 4
    sg.pp.tokenize(adata, folders[backbone])
    return adata


def embedded(cells, folder):
    sg.tl.embed(cells, folder)
    return cells


def shifted(cells, folder):
    sg.tl.perturb(cells, folder, **STATES, max_cells=4, untrained=False)
    return cells


def trained(cells, folder, **options):
    sg.model.CellClassifier.setup_anndata(cells, "state")
    model = sg.model.CellClassifier(cells, folder, **options)
    model.train(1, recipe="plain", train_size=0.6, validation_size=0.2, test_size=0.2, **QUIET)
    return model


def genes_trained(cells, folder, **options):
    sg.model.GeneClassifier.setup_anndata(cells)
    names = cells.var_names[:18].tolist()
    model = sg.model.GeneClassifier(cells, {"on": names[:9], "off": names[9:]}, folder, **options)
    model.train(1, recipe="plain", **QUIET)
    return model


def pairs_of(cells):
    names = cells.var_names[:12].tolist()
    a, b = np.triu_indices(12, 1)
    return pd.DataFrame({"source": np.array(names)[a], "target": np.array(names)[b]}).iloc[::2]


def network(cells, folder, score="token"):
    if score == "effects":
        sg.tl.perturb(cells, folder, **STATES, max_cells=4, effects=True, untrained=False)
    model = None if score == "effects" else folder  # which are read from .varp
    sg.tl.network(cells, model, score=score, genes=cells.var_names[:8].tolist(), min_cells=2)


def reference(cells, folder):
    return sg.Reference.from_adata(embedded(cells, folder)[:25].copy(), "state", n_neighbors=5)


def evaluated_network(cells, folder):
    network(cells, folder)
    truth = pairs_of(cells).head(20)
    sg.tl.evaluate_network(cells, truth, folder, baselines=["token"], n_bootstrap=0, n_permutations=20, directed=False)


def on_trajectories(cells, folder):
    sg.model.TrajectoryModel.setup_anndata(cells, "day")
    sg.model.TrajectoryModel(cells, folder).train(max_steps=1, **QUIET)


def pretrained(cells, folder):
    sg.model.Geneformer.setup_anndata(cells)
    sg.model.Geneformer.from_pretrained(folder, cells).train(max_steps=2, **QUIET)


VERBS = {
    "pp.tokenize": sg.pp.tokenize,
    "tl.embed": embedded,
    "tl.perturb": shifted,
    "tl.perturb_sets": lambda cells, folder: sg.tl.perturb_sets(
        cells, folder, {"a": cells.var_names[:2].tolist()}, groupby="state", target="well", max_cells=4
    ),
    "tl.rank_shifts": lambda cells, folder: sg.tl.rank_shifts(shifted(cells, folder), donor=None),
    "tl.screen": lambda cells, folder: sg.tl.screen(cells, folder, **STATES, max_cells=4),
    "tl.network": network,
    "tl.evaluate_network": evaluated_network,
    "tl.likelihood": sg.tl.likelihood,
    "tl.complete": lambda cells, folder: sg.tl.complete(cells, folder, n_genes=3),
    "Reference": reference,
    "tl.transfer": lambda cells, folder: sg.tl.transfer(cells, reference(cells, folder), key_added="found"),
    "tl.integrate": lambda cells, folder: sg.tl.integrate(embedded(cells, folder), "donor", method="center"),
    "tl.state_score": lambda cells, folder: sg.tl.state_score(
        embedded(cells, folder), "state", source="sick", target="well", donor="donor", n_bootstrap=0
    ),
    "model.CellClassifier": trained,
    "tl.annotate": lambda cells, folder: sg.tl.annotate(cells, trained(cells, folder)),
    "tl.evaluate": lambda cells, folder: sg.tl.evaluate(cells, trained(cells, folder), baselines=False, n_bootstrap=0),
    "model.GeneClassifier": genes_trained,
    "tl.classify_genes": lambda cells, folder: sg.tl.classify_genes(cells, genes_trained(cells, folder)),
    "model.PairClassifier": lambda cells, folder: sg.model.PairClassifier(cells, pairs_of(cells), folder).train(),
    "model.TrajectoryModel": on_trajectories,
    "model.Geneformer": pretrained,
}


def check_refused(call, cells, backbone, monkeypatch):
    """The error names the backbone; no model has read a cell, and the data are as they were."""
    keys = {slot: set(getattr(cells, slot)) for slot in ("obs", "var", "obsm", "varm", "varp", "layers")}
    for network in (sg.nn.Encoder, sg.nn.Llama, sg.nn.CellFM):
        monkeypatch.setattr(network, "forward", lambda *_, **__: pytest.fail("cells were read before the refusal"))
    monkeypatch.setattr(sg.nn, "quantize", lambda *_, **__: pytest.fail("layers were quantized before the refusal"))
    with pytest.raises((ValueError, TypeError), match=f"{KINDS[backbone]}|holds a {backbone}"):
        call()
    assert {slot: set(getattr(cells, slot)) for slot in keys} == keys


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("verb", "backbone", "said"), CELLS, ids=[f"{v}-{b}" for v, b, _ in CELLS])
def test_a_verb_works_with_a_backbone_as_the_table_says(verb, backbone, said, cells, folders, monkeypatch):
    assert said.startswith(("yes", "no", "all", "of ", '`"'))
    if said.startswith("no"):
        check_refused(lambda: VERBS[verb](cells, folders[backbone]), cells, backbone, monkeypatch)
    else:
        VERBS[verb](cells, folders[backbone])


SAID = next(row for verbs, row in TABLE if verbs == ["tl.network"])
NETWORKS = [(score, backbone) for score in SCORES for backbone in SAID]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("score", "backbone"), NETWORKS)
def test_a_score_of_networks_works_as_the_table_says(score, backbone, cells, folders, monkeypatch):
    assert set(NEEDS) < set(SCORES)
    if SAID[backbone].startswith("all") or f'"{score}"' in SAID[backbone]:
        network(cells, folders[backbone], score)
    else:
        check_refused(lambda: network(cells, folders[backbone], score), cells, backbone, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("train", [trained, genes_trained])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("backbone", SAID)
def test_an_option_of_classifiers_works_as_the_table_says(backbone, option, train, cells, folders, monkeypatch):
    said = next(row for verbs, row in TABLE if "model.CellClassifier" in verbs)[backbone]
    options = {option: OPTIONS[option]} | ({"lora": 2} if option == "quantize" else {})
    if f"`{option}`" in said:
        check_refused(lambda: train(cells, folders[backbone], **options), cells, backbone, monkeypatch)
    elif option == "quantize":
        pytest.importorskip("bitsandbytes")
        train(cells, folders[backbone], **options)
    else:
        train(cells, folders[backbone], **options)


def test_the_table_has_every_verb_that_takes_a_model_and_this_module_all_of_the_table():
    takes = {
        f"{room.__name__.rpartition('.')[2]}.{name}"
        for room in (sg.pp, sg.tl, sg.model)
        for name in room.__all__
        if {"model", "pretrained"} & set(inspect.signature(getattr(room, name)).parameters)
    }
    assert takes <= {verb for verb, _, _ in CELLS} == set(VERBS)
    assert set(SAID) == set(KINDS)
