"""Files of vocabularies: JSON, gzipped JSON and parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = "scgeneformer vocabulary 1"
_SUFFIXES = (".json", ".json.gz", ".parquet")


def write(path: Path, head: dict[str, Any], columns: dict[str, list[Any]], aliases: dict[str, str]) -> None:
    """Write the parts of a vocabulary in the format that the suffix of `path` names.

    Parameters
    ----------
    path
        File to write.
    head
        Single values: ``"name"``, ``"max_length"``, ``"hash"``, ``"has_symbols"``.
    columns
        ``"ids"``, ``"medians"`` and ``"symbols"``, one value per token.
    aliases
        Further names of genes, each with its id.
    """
    head = {"format": _FORMAT} | head
    match _suffix(path):
        case ".json":
            path.write_text(json.dumps(head | columns | {"aliases": aliases}, indent=0), encoding="utf-8")
        case ".json.gz":
            text = json.dumps(head | columns | {"aliases": aliases})
            path.write_bytes(gzip.compress(text.encode(), mtime=0))  # no time stamp, so that files are reproducible
        case ".parquet":
            pa, parquet = _pyarrow()
            names: dict[str, list[str]] = {gene: [] for gene in columns["ids"]}
            for alias, gene in aliases.items():
                names[gene].append(alias)
            table = pa.table(columns | {"aliases": pa.array(list(names.values()), type=pa.list_(pa.string()))})
            parquet.write_table(table.replace_schema_metadata({"scgeneformer": json.dumps(head)}), path)


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote: head, columns and ``"aliases"`` in one dictionary.

    Raises
    ------
    ValueError
        If the file was not written by `write`, or is damaged.
    """
    suffix = _suffix(path)
    try:
        content = _read(path, suffix)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        msg = f"{path} is not a vocabulary written by `Vocabulary.save`, or is damaged. Save it again, or name the vocabulary by `vocabulary=`."
        raise ValueError(msg)
    return content


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
