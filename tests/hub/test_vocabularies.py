"""The vocabulary that belongs to a model."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scgeneformer import hub, settings
from scgeneformer.hub._registry import GENERATIONS, MODELS
from scgeneformer.tokens import Vocabulary


def test_vocabulary_by_name_needs_no_weights(server: Any, online: Path, tiny_model: str) -> None:
    found = hub.vocabulary(tiny_model)
    assert {path for path, _ in server.requests} == {
        f"geneformer/{n}.pkl" for n in ("tokens", "medians", "mapping", "names")
    }
    assert hub.vocabulary(tiny_model) is found
    assert hub.vocabulary("T") is found
    assert len(server.requests) == 4


def test_altered_dictionary_is_never_opened(server: Any, online: Path, tiny_model: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "harm"),))

    server.files["geneformer/tokens.pkl"] = pickle.dumps(Evil())
    with pytest.raises(ValueError, match=r"tokens\.pkl is not the expected file"):
        hub.vocabulary(tiny_model)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["vocabulary.json", "vocabulary.json.gz", "vocabulary.parquet"])
def test_vocabulary_files(folder: Path, tiny_vocabulary: Vocabulary, name: str) -> None:
    tiny_vocabulary.save(folder / name)
    assert hub.load(folder).vocabulary.hash == tiny_vocabulary.hash
    assert hub.vocabulary(folder / name).hash == tiny_vocabulary.hash


def test_vocabulary_by_hand(folder: Path, tiny_vocabulary: Vocabulary, tiny_folder: Path) -> None:
    for given in (tiny_vocabulary, tiny_folder, tiny_folder / "vocabulary.json", hub.load(tiny_folder)):
        assert hub.load(folder, vocabulary=given).vocabulary == tiny_vocabulary


def test_no_vocabulary(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mine has a model of 11 tokens but no vocabulary.*vocabulary\.save.*hub\.load"
    ):
        hub.load(folder)


def other_size(vocabulary: Vocabulary) -> Vocabulary:
    return dataclasses.replace(vocabulary, name="short", ids=vocabulary.ids[:-1], medians=vocabulary.medians[:-1])


def test_vocabulary_of_another_size(folder: Path, tiny_folder: Path, tiny_vocabulary: Vocabulary) -> None:
    short = other_size(tiny_vocabulary)
    message = r"'short' has 10 tokens, but the model in .* has 11"
    with pytest.raises(ValueError, match=message):
        hub.load(folder, vocabulary=short)
    with pytest.raises(ValueError, match=message):
        hub.load(hub.load(tiny_folder), vocabulary=short)
    short.save(folder / "vocabulary.json")
    with pytest.raises(ValueError, match=message):
        hub.load(folder)
    with pytest.raises(ValueError, match=message):
        hub.vocabulary(folder)


def test_vocabulary_longer_than_the_positions(folder: Path, tiny_vocabulary: Vocabulary) -> None:
    long = dataclasses.replace(tiny_vocabulary, max_length=17)
    with pytest.raises(ValueError, match=r"'tiny' allows 17 tokens per cell, but .* has 16 positions.*max_length=16"):
        hub.load(folder, vocabulary=long)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize(("name", "n_tokens", "length"), [("V1", 25_426, 2048), ("V2", 20_275, 4096)])
def test_official_vocabularies(shared: Path, name: str, n_tokens: int, length: int) -> None:
    found = hub.vocabulary(name)
    assert (found.name, len(found), found.max_length, found.has_cls) == (name, n_tokens, length, name == "V2")
    assert all(hub.vocabulary(model.name) is found for model in MODELS.values() if model.generation == name)
    model = hub.load(shared / "conformance" / "models" / f"{name.lower()}-tiny")
    assert model.vocabulary is found
    assert model.encoder.config.vocab_size == n_tokens


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("name", ["V1", "V2"])
def test_official_dictionaries_are_parsed_once(shared: Path, name: str) -> None:
    files = [shared / "geneformer" / name / Path(file.path).name for file in GENERATIONS[name].files]
    tokens, medians, mapping, names = files
    n = GENERATIONS[name].max_length
    expected = Vocabulary.from_official(tokens, medians, mapping_file=mapping, name_file=names, name=name, max_length=n)
    hub.vocabulary(name)
    parsed = settings.cache_dir / "vocabularies" / f"{name}.json"
    shutil.rmtree(settings.cache_dir / "geneformer")
    with settings.override(mirror=None, offline=True):  # so that the dictionaries cannot be read again
        found = hub.vocabulary(name)
        assert (found.hash, found.aliases, found.name) == (expected.hash, expected.aliases, name)
        np.testing.assert_array_equal(found.symbols, expected.symbols)
        content = parsed.read_bytes()
        parsed.write_bytes(content.replace(b"ENSG", b"ENSH", 1))
        with pytest.raises(FileNotFoundError, match="dictionary"):
            hub.vocabulary(name)
    assert hub.vocabulary(name).hash == expected.hash
    assert parsed.read_bytes() == content


@pytest.mark.usefixtures("official")
def test_a_cache_that_cannot_keep_the_parsed_dictionaries_is_no_error() -> None:
    (settings.cache_dir / "vocabularies").parent.mkdir(parents=True, exist_ok=True)
    (settings.cache_dir / "vocabularies").touch()  # a file where the folder would be
    assert len(hub.vocabulary("V1")) == 25_426


@pytest.mark.usefixtures("official")
def test_official_vocabulary_for_fewer_positions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 20_275, "max_position_embeddings": 2048}))
    found = hub.vocabulary(folder)
    assert (found.name, found.max_length) == ("V2", 2048)
    assert found != hub.vocabulary("V2")


@pytest.mark.usefixtures("official")
def test_no_torch(shared: Path) -> None:
    code = (
        "import sys; from scgeneformer import hub; hub.available(); hub.vocabulary('V2-104M');"
        f"hub.vocabulary({str(shared / 'conformance' / 'models' / 'v2-tiny')!r});"
        "assert not {'torch', 'scvi', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    env = os.environ | {
        "SCGENEFORMER_CACHE_DIR": str(settings.cache_dir),
        "SCGENEFORMER_MIRROR": str(settings.mirror),
        "SCGENEFORMER_OFFLINE": "1",
    }
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
