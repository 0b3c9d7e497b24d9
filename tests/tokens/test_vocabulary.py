from __future__ import annotations

import gzip
import json
import os
import pickle
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scgeneformer.tokens import Vocabulary, _store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUFFIXES = [".json", ".json.gz", ".parquet"]
SPECIAL = ["<pad>", "<mask>", "<cls>", "<eos>"]


@pytest.fixture
def named(small: Vocabulary) -> Vocabulary:
    gene = small.ids[small.n_special :]
    symbols = np.array(["", *(f"Gene{i}" for i in range(1, len(small)))])
    return replace(small, aliases={"GENE5": gene[1], "MARCH1": gene[2], "AC0001.1": gene[3]}, symbols=symbols)


def test_official_v1(official: Callable) -> None:
    """Against what the published dictionaries are known to hold."""
    v1 = official("V1")
    assert len(v1) == 25_426
    assert (v1.n_special, v1.cls_id, v1.eos_id, v1.max_length) == (2, None, None, 2048)
    assert list(v1.ids[2:]) == sorted(v1.ids[2:])
    assert v1.medians[2:].max() == pytest.approx(634, abs=1)
    assert v1.medians[2:].min() == pytest.approx(0.0947, abs=1e-4)
    # symbols, which V1's own mapping lacks
    np.testing.assert_array_equal(v1.tokens_of(["tp53", "MT-ND1"]), v1.token_of(["ENSG00000141510", "ENSG00000198888"]))


def test_official_v2(official: Callable) -> None:
    v2 = official("V2")
    assert len(v2) == 20_275
    assert (v2.n_special, v2.cls_id, v2.eos_id, v2.max_length) == (4, 2, 3, 4096)
    assert (v2.medians == 1.105969024047805).sum() == 72
    assert np.median(v2.medians[4:]) == pytest.approx(1.403, abs=1e-3)
    assert (v2.token_of(v2.ids[4:]) == np.arange(4, len(v2))).all()
    token = v2.token_of(["ENSG00000141510"])[0]
    assert v2.symbols[token] == "TP53"
    found = v2.tokens_of(["ensg00000141510.18", " TP53 ", "p53", "ENSG00000141510", "no gene"])
    np.testing.assert_array_equal(found, [token, token, token, token, -1])
    assert (v2.token_of(["TP53", "ensg00000141510"]) == -1).all()
    retired = [alias for alias in v2.aliases if alias.startswith("ENSG")]
    assert len(retired) == 3423
    assert (v2.tokens_of(retired) >= 4).all()


def test_official_refuses_a_malicious_file(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return open, (str(tmp_path / "trace"), "w")

    good, bad = tmp_path / "good.pkl", tmp_path / "bad.pkl"
    good.write_bytes(pickle.dumps({"<pad>": 0, "<mask>": 1, "ENSG00000000001": 2}))
    bad.write_bytes(pickle.dumps({"<pad>": Attack()}))
    for token_file, median_file in ((bad, good), (good, bad)):
        with pytest.raises(pickle.UnpicklingError, match="refused to load"):
            Vocabulary.from_official(token_file, median_file, name="x", max_length=10)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("tokens", "medians", "error"),
    [
        ({"<pad>": 0, "<mask>": 1, "A": 3}, {"A": 1.0}, "integers from 0 to 2"),
        ({"<pad>": 0, "<mask>": 1, "A": 2}, {"B": 1.0}, "positive median"),
        ({"A": 0, "<pad>": 1, "<mask>": 2}, {"A": 1.0}, "must start with"),
    ],
)
def test_official_refuses_dictionaries_that_do_not_fit(tmp_path: Path, tokens: dict, medians: dict, error: str) -> None:
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(tokens))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(medians))
    with pytest.raises(ValueError, match=error):
        Vocabulary.from_official(tmp_path / "t.pkl", tmp_path / "m.pkl", name="x", max_length=10)


def test_names_of_genes(named: Vocabulary) -> None:
    first = named.n_special
    names = [
        "GENE5",
        "gene5",
        "march1",
        "AC0001.1",
        "AC0001",
        "ENSG00000000007.3",
        "ensg00000000007",
        "ENSG00000000007.1_PAR_Y",
        "",
    ]
    np.testing.assert_array_equal(named.tokens_of(names) - first, [1, 1, 2, 3, -1 - first, 7, 7, 7, -1 - first])
    assert named.tokens_of(["<pad>", "<cls>"]).tolist() == [-1, -1]
    assert named.n_named_by_id(names) == 3


def test_an_id_is_no_alias(small: Vocabulary) -> None:
    confused = replace(small, aliases={small.ids[10]: small.ids[11]})
    assert confused.tokens_of([small.ids[10]])[0] == 10


def test_hash_holds_what_decides_on_tokens(named: Vocabulary) -> None:
    same = replace(named, name="other", aliases={}, symbols=None)
    assert same.hash == named.hash
    assert same == named
    assert len({same, named}) == 1
    medians = named.medians.copy()
    medians[-1] = np.nextafter(medians[-1], np.inf)
    ids = named.ids.copy()
    ids[[-1, -2]] = ids[[-2, -1]]
    others = [replace(named, medians=medians), replace(named, ids=ids), replace(named, max_length=40)]
    assert len({named.hash, *(other.hash for other in others)}) == 4


def test_cannot_be_changed(named: Vocabulary) -> None:
    with pytest.raises(ValueError, match="read-only"):
        named.medians[-1] = 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(named: Vocabulary, small: Vocabulary, tmp_path: Path, suffix: str) -> None:
    for number, vocabulary in enumerate((named, small)):
        path = tmp_path / f"v{number}{suffix}"
        vocabulary.save(path)
        back = Vocabulary.load(str(path))
        assert back.hash == vocabulary.hash
        assert (back.name, back.max_length) == (vocabulary.name, vocabulary.max_length)
        np.testing.assert_array_equal(back.ids, vocabulary.ids)
        np.testing.assert_array_equal(back.medians, vocabulary.medians)
        assert dict(back.aliases) == dict(vocabulary.aliases)
        if vocabulary.symbols is None:
            assert back.symbols is None
        else:
            np.testing.assert_array_equal(back.symbols, vocabulary.symbols)
        again = tmp_path / f"again{suffix}"
        back.save(again)
        assert again.read_bytes() == path.read_bytes()


def test_altered_file_is_refused(small: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "v.json.gz"
    small.save(path)
    content = json.loads(gzip.decompress(path.read_bytes()))
    content["medians"][-1] *= 2
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(ValueError, match="altered"):
        Vocabulary.load(path)


def test_other_files_are_refused(small: Vocabulary, tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "v.json").write_text('{"format": "other"}')
    pd.DataFrame({"ids": ["a"]}).to_parquet(tmp_path / "v.parquet")
    for name in ("v.json", "v.parquet"):
        with pytest.raises(ValueError, match=r"not a vocabulary written by"):
            Vocabulary.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.json, \.json\.gz, \.parquet"):
        small.save(tmp_path / "v.csv")


def test_parquet_without_pyarrow(small: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install pyarrow"):
        small.save(tmp_path / "v.parquet")


@pytest.mark.parametrize(
    ("ids", "medians", "max_length", "error"),
    [
        ([*SPECIAL, "A", "A"], [np.nan] * 4 + [1, 1], 10, "distinct"),
        ([*SPECIAL[:3], "A"], [np.nan] * 3 + [1], 10, "both '<cls>' and '<eos>'"),
        ([*SPECIAL, "A"], [np.nan] * 4 + [0], 10, "positive median"),
        ([*SPECIAL, "A"], [np.nan] * 4 + [np.inf], 10, "positive median"),
        ([*SPECIAL, "A"], [np.nan] * 4, 10, "of the same length"),
        ([*SPECIAL, "A"], [np.nan] * 4 + [1], 4, "must be above"),
        ([*SPECIAL, *map(str, range(65_532))], np.ones(65_536), 10, "at most 65,535"),
    ],
)
def test_impossible_vocabularies(ids: list, medians: list, max_length: int, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Vocabulary("x", np.array(ids), np.array(medians, float), max_length)


FIELDS = {
    "name": 3,
    "max_length": "48",
    "has_symbols": 1,
    "hash": None,
    "ids": {"a": 1},
    "medians": ["1"] * 64,
    "symbols": [3] * 64,
    "aliases": {"A": ["ENSG00000000001"]},
    "format": "scgeneformer vocabulary 2",
}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_of_another_type_are_refused(small: Vocabulary, tmp_path: Path, field: str) -> None:
    path = tmp_path / "v.json"
    small.save(path)
    content = json.loads(path.read_text())
    for value in (FIELDS[field], None):
        path.write_text(json.dumps(content | {field: value}))
        with pytest.raises(ValueError, match=r"v\.json is not a vocabulary"):
            Vocabulary.load(path)
    path.write_text(json.dumps({name: value for name, value in content.items() if name != field}))
    with pytest.raises(ValueError, match=r"v\.json is not a vocabulary"):
        Vocabulary.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whatever_is_altered_is_noticed(named: Vocabulary, tmp_path: Path, suffix: str, monkeypatch) -> None:
    gene, other = named.ids[-1], named.ids[-2]
    symbols = named.symbols.copy()
    symbols[-1] = "OTHER"
    for change in ({"aliases": {**named.aliases, "NEW": gene}}, {"symbols": symbols}, {"name": "other"}):
        honest = _store._digest
        monkeypatch.setattr(_store, "_digest", lambda content: "0" * 64)
        replace(named, **change).save(tmp_path / f"v{suffix}")
        monkeypatch.setattr(_store, "_digest", honest)
        with pytest.raises(ValueError, match="was altered after it was written"):
            Vocabulary.load(tmp_path / f"v{suffix}")
    path = tmp_path / "v.json"
    named.save(path)
    content = json.loads(path.read_text())
    for aliases in ({"NEW": "ENSG99999999999"}, {"NEW": other, "OLD": "none"}):  # of no gene
        path.write_text(json.dumps(content | {"aliases": aliases}))
        with pytest.raises(ValueError, match="is not a vocabulary"):
            Vocabulary.load(path)


def test_files_without_a_digest_are_read(named: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    named.save(path)
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content))
    assert Vocabulary.load(path) == named


def test_bombs_pipes_and_deep_files_end(small: Vocabulary, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(_store, "MOST_BYTES", 10**6)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * 10**8))
    (tmp_path / "long.json").write_bytes(b" " * (10**6 + 1))
    (tmp_path / "deep.json").write_bytes(b"[" * 10**5)
    (tmp_path / "list.json").write_bytes(b"[]")
    for name in ("bomb.json.gz", "long.json", "deep.json", "list.json"):
        with pytest.raises(ValueError, match="is not a vocabulary"):
            Vocabulary.load(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json", "none.json"):
        with pytest.raises(FileNotFoundError, match=f"no file .*{name}"):
            Vocabulary.load(tmp_path / name)
    small.save(tmp_path / "v.parquet")
    monkeypatch.setattr(_store, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="is not a vocabulary"):
        Vocabulary.load(tmp_path / "v.parquet")
