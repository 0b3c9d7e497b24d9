"""Vocabularies in files: JSON, gzipped JSON and parquet, all with the hash that they must have when read."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ._vocabulary import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = "scgeneformer vocabulary 1"
_SUFFIXES = (".json", ".json.gz", ".parquet")


def save(vocabulary: Vocabulary, path: Path) -> None:
    """Write `vocabulary` in the format that the suffix of `path` says."""
    head = {
        "format": _FORMAT,
        "name": vocabulary.name,
        "max_length": vocabulary.max_length,
        "hash": vocabulary.hash,
        "has_symbols": vocabulary.symbols is not None,
    }
    columns = {
        "ids": vocabulary.ids.tolist(),
        # JSON knows no nan; Python writes floats with all the digits that reading needs
        "medians": [None if np.isnan(median) else median for median in vocabulary.medians.tolist()],
        "symbols": [""] * len(vocabulary) if vocabulary.symbols is None else vocabulary.symbols.tolist(),
    }
    match _suffix(path):
        case ".json":
            path.write_text(
                json.dumps(head | columns | {"aliases": dict(vocabulary.aliases)}, indent=0), encoding="utf-8"
            )
        case ".json.gz":
            text = json.dumps(head | columns | {"aliases": dict(vocabulary.aliases)})
            path.write_bytes(gzip.compress(text.encode(), mtime=0))  # the same bytes whenever it is written
        case ".parquet":
            pa, parquet = _pyarrow()
            names: dict[str, list[str]] = {gene: [] for gene in columns["ids"]}
            for alias, gene in vocabulary.aliases.items():
                names[gene].append(alias)
            table = pa.table(columns | {"aliases": pa.array(list(names.values()), type=pa.list_(pa.string()))})
            parquet.write_table(table.replace_schema_metadata({"scgeneformer": json.dumps(head)}), path)


def load(path: Path) -> Vocabulary:
    """Read a file written by `save` and compare its hash with the one that it was written with."""
    suffix = _suffix(path)
    try:
        content = _read(path, suffix)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        msg = f"{path} is not a vocabulary written by `Vocabulary.save`, or is damaged. Save it again, or name the vocabulary by `vocabulary=`."
        raise ValueError(msg)
    vocabulary = Vocabulary(
        name=content["name"],
        ids=np.array(content["ids"]),
        medians=np.array([np.nan if median is None else median for median in content["medians"]]),
        max_length=content["max_length"],
        aliases=content["aliases"],
        symbols=np.array(content["symbols"]) if content["has_symbols"] else None,
    )
    if vocabulary.hash != content["hash"]:
        msg = f"{path} was altered since it was written: its hash is {vocabulary.hash}, not {content['hash']}."
        raise ValueError(msg)
    return vocabulary


def _read(path: Path, suffix: str) -> Any:
    match suffix:
        case ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        case ".json.gz":
            return json.loads(gzip.decompress(path.read_bytes()))
        case _:
            _, parquet = _pyarrow()
            table = parquet.read_table(path)
            head = json.loads((table.schema.metadata or {}).get(b"scgeneformer", b"{}"))
            if not head:
                return head
            columns = table.to_pydict()
            names = zip(columns["ids"], columns.pop("aliases"), strict=True)
            return head | columns | {"aliases": {alias: gene for gene, aliases in names for alias in aliases}}


def _suffix(path: Path) -> str:
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    msg = f"Cannot tell the format of {path.name!r}: a vocabulary is stored in a file that ends in {', '.join(_SUFFIXES)}."
    raise ValueError(msg)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        msg = "Parquet needs pyarrow: `pip install pyarrow`, or use a name that ends in .json.gz."
        raise ImportError(msg) from error
    return pa, parquet
