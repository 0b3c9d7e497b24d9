"""No file that a model is loaded from can run code: any content of a folder gives a right result, or an error that names it."""

from __future__ import annotations

import pickle
import shutil
from functools import partial
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg
from scgeneformer import hub, model

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False, "enable_model_summary": False}


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Cells, and intact models of three kinds, each exported and saved."""
    root = tmp_path_factory.mktemp("honest")
    rng = np.random.default_rng(0)
    ids = np.array(["<pad>", "<mask>", "<cls>", "<eos>"] + [f"ENSG{i:011d}" for i in range(20)])
    vocabulary = sg.Vocabulary("toy", ids, np.r_[[np.nan] * 4, np.ones(20)], 16)
    tokens = np.zeros((30, 16), dtype=np.uint16)
    for row in tokens:
        row[:12] = [2, *(4 + rng.permutation(20)[:10]), 3]
    obs = pd.DataFrame({"type": pd.Categorical(["a", "b"] * 15)}, index=[f"cell{i}" for i in range(30)])
    var = pd.DataFrame({"token_id": np.arange(4, 24, dtype=np.int32)}, index=ids[4:])
    cells = ad.AnnData(np.ones((30, 20), np.float32), obs=obs, var=var, obsm={"geneformer_tokens": tokens})
    cells.uns["geneformer_tokens"] = {"params": {"vocabulary": "toy", "vocabulary_hash": vocabulary.hash}}
    model.Geneformer.setup_anndata(cells)
    start = model.Geneformer(cells, vocabulary=vocabulary, n_layers=1, width=8, n_heads=2, feed_forward=8)
    model.CellClassifier.setup_anndata(cells, "type")
    cell = model.CellClassifier(cells, start)
    model.GeneClassifier.setup_anndata(cells)
    gene = model.GeneClassifier(cells, {"x": ids[4:10], "y": ids[10:16]}, start)
    for kind, made in {"Geneformer": start, "CellClassifier": cell, "GeneClassifier": gene}.items():
        made.train(max_steps=1, max_epochs=1, **QUIET)
        made.export(root / "exported" / kind)
        made.save(root / "saved" / kind)
    return root, cells


def _stray(base: str, name: str, folder: Path, kind: str, root: Path, payload: Payload) -> None:
    """An intact folder with one file added or replaced."""
    if base:
        shutil.copytree(root / base / kind, folder)
    folder.mkdir(exist_ok=True)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    if name.startswith("vocabulary"):
        (folder / "vocabulary.json.gz").unlink()
    if name.endswith((".pt", ".bin")):
        torch.save({"bert.x": payload, "attr_dict": payload}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(payload))


ATTACKS = {
    f"{name} {'beside ' if base else ''}{base}".strip(): partial(_stray, base, name)
    for base, names in {
        "": ["model.pt", "prefix_model.pt", "model_params.pt", "attr.pkl", "config.json"],
        "exported": [
            "model.pt",
            "prefix_model.pt",
            "pytorch_model.bin",
            "model.safetensors",
            "config.json",
            "vocabulary.json",
            "vocabulary.json.gz",
            "vocabulary.parquet",
            "scgeneformer.json",
        ],
        "saved": ["model.pt", "model.safetensors", "scgeneformer.json", "scgeneformer.safetensors"],
    }.items()
    for name in names
}
LOADERS = {
    "Geneformer.load": ("Geneformer", lambda folder, cells: model.Geneformer.load(folder, cells)),
    "Geneformer.load with a prefix": ("Geneformer", lambda f, cells: model.Geneformer.load(f, prefix="prefix_")),
    "Geneformer.load_registry": ("Geneformer", lambda folder, cells: model.Geneformer.load_registry(folder)),
    "Geneformer.from_pretrained": ("Geneformer", lambda folder, cells: model.Geneformer.from_pretrained(folder)),
    "CellClassifier.load": ("CellClassifier", lambda folder, cells: model.CellClassifier.load(str(folder))),
    "CellClassifier.from_pretrained": ("CellClassifier", lambda f, cells: model.CellClassifier.from_pretrained(f)),
    "GeneClassifier.load": ("GeneClassifier", lambda folder, cells: model.GeneClassifier.load(folder)),
    "GeneClassifier.from_pretrained": ("GeneClassifier", lambda f, cells: model.GeneClassifier.from_pretrained(f)),
    "hub.load": ("Geneformer", lambda folder, cells: hub.load(folder).encoder),
    "tl.embed": ("Geneformer", lambda folder, cells: sg.tl.embed(cells, folder)),
    "tl.perturb": ("Geneformer", lambda folder, cells: sg.tl.perturb(cells, folder, [cells.var_names[0]])),
    "tl.annotate": ("CellClassifier", lambda folder, cells: sg.tl.annotate(cells, folder, key_added="new")),
    "tl.evaluate": ("CellClassifier", lambda folder, cells: sg.tl.evaluate(cells, folder)),
    "tl.classify_genes": ("GeneClassifier", lambda folder, cells: sg.tl.classify_genes(cells, folder)),
}
REFUSALS = (ValueError, TypeError, KeyError, FileNotFoundError)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs(attack, loader, world, tmp_path):
    root, cells = world
    kind, load = LOADERS[loader]
    folder, marker = tmp_path / "folder", tmp_path / "ran"
    ATTACKS[attack](folder, kind, root, Payload(marker))
    cells = cells.copy()
    slots = {name: set(getattr(cells, name)) for name in ("obs", "var", "obsm", "varm", "layers", "uns")}
    refusal = None
    try:
        load(folder, cells)
    except REFUSALS as error:
        refusal = error
    assert not marker.exists()
    if refusal is not None:
        assert "folder" in str(refusal) or loader == "tl.evaluate"  # honest folders may lack what that needs
        assert "weights_only" not in f"{refusal} {refusal.__cause__}"
        assert slots == {name: set(getattr(cells, name)) for name in slots}


@pytest.mark.parametrize("base", ["exported", "saved"])
def test_a_pickle_beside_an_honest_model_changes_nothing(base, world, tmp_path):
    root, cells = world
    for i, (kind, tool, slot) in enumerate(
        [
            ("CellClassifier", partial(sg.tl.annotate, key_added="new"), "new_proba"),
            ("GeneClassifier", partial(sg.tl.classify_genes, key_added="new"), "new"),
            ("CellClassifier", partial(sg.tl.embed, key_added="new"), "X_new"),
            ("Geneformer", partial(sg.tl.perturb, genes=[cells.var_names[3]], key_added="new"), "new"),
        ]
    ):
        folder = tmp_path / str(i)
        _stray(base, "model.pt", folder, kind, root, Payload(tmp_path / "ran"))
        results = [tool(cells, where, copy=True) for where in (root / base / kind, folder)]
        slots = [next(s[slot] for s in (r.obsm, r.varm, r.layers) if slot in s) for r in results]
        np.testing.assert_array_equal(*(np.asarray(x.toarray() if hasattr(x, "toarray") else x) for x in slots))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["Geneformer", "CellClassifier", "GeneClassifier"])
def test_a_checkpoint_to_resume_from_runs_nothing(kind, world, tmp_path):
    root, cells = world
    made = getattr(model, kind).load(root / "saved" / kind, cells.copy())
    plain = {} if kind == "Geneformer" else {"recipe": "plain"}
    torch.save({"state_dict": {}, "callbacks": Payload(tmp_path / "ran")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt was refused"):
        made.train(max_epochs=2, ckpt_path=tmp_path / "last.ckpt", **QUIET, **plain)
    for elsewhere in ("http://127.0.0.1:9/last.ckpt", tmp_path):  # Lightning unpickles what comes from there
        with pytest.raises(FileNotFoundError, match=r"ckpt_path=.* is not a file"):
            made.train(max_epochs=2, ckpt_path=elsewhere, **QUIET, **plain)
    if plain:  # the default resumes from a folder
        (tmp_path / "A").mkdir()
        (tmp_path / "last.ckpt").rename(tmp_path / "A" / "last.ckpt")
        with pytest.raises(ValueError, match=r"last\.ckpt was refused"):
            made.train(max_epochs=2, ckpt_path=tmp_path, **QUIET)
    assert not (tmp_path / "ran").exists()


def test_the_payload_runs_where_that_is_asked_for(tmp_path):
    torch.save(Payload(tmp_path / "ran"), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is a pickle.*allow_pickle=True"):
        model.Geneformer.load(tmp_path)
    assert not (tmp_path / "ran").exists()
    with pytest.warns(UserWarning, match=r"model\.pt is a pickle"), pytest.raises(AttributeError):
        model.Geneformer.load(tmp_path, allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_a_state_file_cannot_name_what_is_called(world, tmp_path):
    root, _ = world
    shutil.copytree(root / "saved" / "Geneformer", tmp_path / "folder")
    path = tmp_path / "folder" / "scgeneformer.json"
    honest = path.read_text()
    for old, new in (
        ('"setup_method_name": "setup_anndata"', '"setup_method_name": "load"'),
        ('"run_id_"', '"module"'),
    ):
        assert old in honest
        path.write_text(honest.replace(old, new))
        with pytest.raises(ValueError, match="does not write"):
            model.Geneformer.load(tmp_path / "folder")
