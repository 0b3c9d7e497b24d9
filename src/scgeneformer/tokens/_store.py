"""Files of vocabularies: JSON, gzipped JSON and parquet."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 2**27  # of the text, uncompressed; that of the largest published vocabulary has 9 MB
_DIGEST = "digest"
_FORMAT = "scgeneformer vocabulary 1"
_SUFFIXES = (".json", ".json.gz", ".parquet")


def write(path: Path, head: dict[str, Any], columns: dict[str, list[Any]], aliases: dict[str, str]) -> None:
    """Write the parts of a vocabulary in the format that the suffix of `path` names.

    Parameters
    ----------
    path
        File to write.
    head
        Single values: ``"name"``, ``"max_length"``, ``"hash"``, ``"has_symbols"``, and ``"values"`` where there are.
    columns
        ``"ids"``, ``"medians"`` and ``"symbols"``, one value per token.
    aliases
        Further names of genes, each with its id.
    """
    head = {"format": _FORMAT} | head
    head[_DIGEST] = _digest(head | columns | {"aliases": aliases})
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
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    try:
        content = _read(path, suffix)
    except (ValueError, TypeError, LookupError, EOFError, OSError, RecursionError, zlib.error):
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not _is_sound(content):
        msg = (
            f"{path} is not a vocabulary written by `Vocabulary.save`, or is damaged. Save it again, or pass the "
            "vocabulary as `vocabulary=`."
        )
        raise ValueError(msg)
    if content.pop(_DIGEST, None) not in (None, _digest(content)):  # older files have none
        msg = f"{path} was altered after it was written. Save the vocabulary again."
        raise ValueError(msg)
    return content


def _read(path: Path, suffix: str) -> Any:
    match suffix:
        case ".json":
            return json.loads(_limited(_start_of(path)))
        case ".json.gz":
            return json.loads(_limited(zlib.decompressobj(wbits=31).decompress(_start_of(path), MOST_BYTES + 1)))
        case _:
            _, parquet = _pyarrow()
            file = parquet.ParquetFile(path)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > MOST_BYTES:
                raise ValueError
            table = file.read()
            head = json.loads((table.schema.metadata or {}).get(b"scgeneformer", b"{}"))
            if not head:
                return head
            columns = table.to_pydict()
            names = zip(columns["ids"], columns.pop("aliases"), strict=True)
            return head | columns | {"aliases": {alias: gene for gene, aliases in names for alias in aliases}}


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _limited(text: bytes) -> bytes:
    """The text, unless it is too long; a compressed file of a few bytes can hold terabytes."""
    if len(text) > MOST_BYTES:
        raise ValueError
    return text


def _is_sound(content: dict[str, Any]) -> bool:
    """Whether all parts are there and of their types, and aliases are those of genes."""
    types = {"name": str, "max_length": int, "hash": str, "has_symbols": bool, "aliases": dict}
    types |= dict.fromkeys(("ids", "medians", "symbols"), list)
    if "values" in content:
        types["values"] = bool
    if not all(type(content.get(name)) is kind for name, kind in types.items()):
        return False
    ids, aliases = content["ids"], content["aliases"]
    return (
        len(ids) == len(content["medians"]) == len(content["symbols"])
        and all(isinstance(text, str) for text in (*ids, *content["symbols"], *aliases, *aliases.values()))
        and all(median is None or type(median) in (int, float) for median in content["medians"])
        and set(aliases.values()) <= set(ids)
    )


def _digest(content: dict[str, Any]) -> str:
    """Hexadecimal SHA-256 of all parts, in whatever format and order they are stored."""
    parts = content | {"medians": [None if median is None else float(median) for median in content["medians"]]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
