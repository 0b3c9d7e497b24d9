"""The pinned facts, against the official files themselves and the recorded list of the official repository."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest

from scgeneformer import hub, settings
from scgeneformer.hub import _registry, _vocabularies
from scgeneformer.hub._cache import fetch
from scgeneformer.hub._registry import GENERATIONS, MODELS, RemoteFile

if TYPE_CHECKING:
    from pathlib import Path

BERTS = {"V1-10M": 10_288_722, "V2-104M": 104_386_867, "V2-104M_CLcancer": 104_386_867, "V2-316M": 316_354_867}
FINE_TUNED = "V1-10M_CellClassifier_cardiomyopathies"
PARAMETERS = BERTS | {FINE_TUNED: 10_263_555, "MaxToki-217M": 216_946_576, "MaxToki-1B": 1_049_036_544}


def described(path: Path) -> tuple[str, int]:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content)


@pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)
def test_dictionaries_are_the_official_ones(generation: _registry.Generation, shared: Path) -> None:
    for file in generation.files:
        name = file.path.rsplit("/", 1)[-1]
        assert described(shared / "geneformer" / generation.name / name) == (file.sha256, file.size)


@pytest.mark.parametrize("name", BERTS)
def test_configs_are_the_official_ones(name: str, shared: Path) -> None:
    config = MODELS[name].config
    assert described(shared / "geneformer" / "configs" / f"{name}.json") == (config.sha256, config.size)


def test_files_are_in_the_list_of_the_repository(shared: Path) -> None:
    text = (shared / "reference" / "geneformer.md").read_text()
    listed = {
        RemoteFile(path, sha256, int(size))
        for path, sha256, size in re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \| (\d+) \|$", text, flags=re.MULTILINE)
    }
    pinned = {MODELS[name].weights for name in (*BERTS, FINE_TUNED)} | {
        f for g in GENERATIONS.values() for f in g.files
    }
    assert len(pinned) == 5 + 8
    assert pinned <= listed


def test_files_of_maxtoki_are_in_the_list_of_its_repository(shared: Path) -> None:
    text = (shared / "reference" / "maxtoki.md").read_text()
    listed = {
        (path, int(size), sha256)
        for path, size, sha256 in re.findall(r"^\| (\S+) \| (\d+) \| ([0-9a-f]{64}) \|$", text, flags=re.MULTILINE)
    }
    pinned = [file for name in MODELS if name.startswith("MaxToki") for file in MODELS[name].files]
    assert {(file.path, file.size, file.sha256) for file in pinned} <= listed
    assert {file.sources[0] for file in pinned} == {
        "https://huggingface.co/theodoris-lab/MaxToki/resolve/21aa7b7f844c146c16fb79ffb3aa75d9b07a3d77/"
    }


def test_dictionaries_of_maxtoki_are_those_of_v2(shared: Path) -> None:
    """The published JSON files are these pickles, ``<bos>`` for ``<cls>``, byte for byte."""
    import json

    from scgeneformer.tokens._official import read_dictionary

    def digest(dictionary: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps(dictionary, separators=(",", ":")).encode()).hexdigest()

    folder = shared / "geneformer" / "V2"
    tokens, medians, mapping = (
        read_dictionary(folder / f"{name}_gc104M.pkl")
        for name in ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict")
    )
    tokens = {"<bos>" if name == "<cls>" else name: token for name, token in tokens.items()}
    assert digest(tokens) == "b4577f7a983ae1878e1c5db8862ccb46987e904bc2759bd305960fbb838ccb15"
    assert digest(medians) == "8ced5c2b1e5e6d3310128c627b3dc98f2a9d1f397bb6f30103d78d40360abec5"
    content = json.dumps(mapping, separators=(",", ":")).encode()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()  # as git counts it
    assert blob == "c01d75366e484800d114194e9c2ba431d7ca7c9f"
    assert MODELS["MaxToki-217M"].generation == MODELS["MaxToki-1B"].generation == "V2"


def test_shapes_are_those_of_the_configs(shared: Path) -> None:
    import json

    for name in BERTS:
        model = MODELS[name]
        config = json.loads((shared / "geneformer" / "configs" / f"{name}.json").read_text())
        generation = GENERATIONS[model.generation]
        assert (model.n_layers, model.width) == (config["num_hidden_layers"], config["hidden_size"])
        assert (generation.n_tokens, generation.max_length) == (config["vocab_size"], config["max_position_embeddings"])


def test_weights_have_the_size_of_their_parameters() -> None:
    table = hub.available()
    for name, model in MODELS.items():
        header = model.weights.size - 4 * table.loc[name, "parameters"]  # float32, after a JSON header or in a pickle
        assert 0 < header < 70_000


def test_available(cache: Path) -> None:
    table = hub.available().drop(index=["default", "CellFM-80M", "CellFM-800M"], errors="ignore")
    assert table.columns.tolist() == [
        *(
            "generation",
            "backbone",
            "layers",
            "width",
            "parameters",
            "max_length",
            "download_mb",
            "cached",
            "licence",
            "source",
            "description",
        )
    ]
    assert table["parameters"].to_dict() == PARAMETERS
    assert table["max_length"].tolist() == [2048, *[4096] * 3, 2048, *[4096] * 2]
    assert table["layers"].tolist() == [6, 12, 12, 18, 6, 11, 20]
    assert set(table["licence"]) == {"Apache-2.0"}
    assert not table["cached"].any()
    assert table.loc["V1-10M", "download_mb"] == pytest.approx(44.6, abs=0.05)


def test_cached_means_that_all_files_are_there(
    server: Any, online: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not hub.available().loc[tiny_model, "cached"]
    model = MODELS[tiny_model]
    files = [*model.files, *GENERATIONS[model.generation].files]
    for file in files:
        assert not hub.available().loc[tiny_model, "cached"]
        fetch(file)
    server.requests.clear()
    assert hub.available().loc[tiny_model, "cached"]
    assert server.requests == []


def test_bundled_model_is_listed_if_it_is_there(
    tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_vocabularies, "DEFAULT_FOLDER", tmp_path / "nowhere")
    assert "default" not in hub.available().index
    monkeypatch.setattr(_vocabularies, "DEFAULT_FOLDER", tiny_folder)
    row = hub.available().loc["default"]
    encoder_and_head = hub.load("default").masked_gene_model()
    assert row["parameters"] == sum(p.numel() for p in encoder_and_head.parameters())
    assert row["cached"]
    assert row["download_mb"] == 0


def test_settings_decide_where(tmp_path: Path) -> None:
    with settings.override(cache_dir=tmp_path / "a"):
        assert not hub.available().loc["V1-10M", "cached"]
    assert not (tmp_path / "a").exists()
