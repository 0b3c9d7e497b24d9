"""Tokenized cells in the layout of the library ``datasets``: two JSON files and a stream of arrow tables."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scgeneformer import _keys as keys
from scgeneformer import _slots
from scgeneformer.tokens import read_tokens, vocabulary_column
from scgeneformer.tokens._slot import find_problem

from ._cells import labels, with_names

if TYPE_CHECKING:
    from scgeneformer.tokens import Vocabulary

INFO, STATE, DATA = "dataset_info.json", "state.json", "data-00000-of-00001.arrow"
IDS, COUNTS, LENGTH = "input_ids", "counts", "length"
_BLOCK = 1000  # cells that are written at a time
_AGAIN = "Copy it again from its source, or write it again with the official tool"


def read(path: Path, vocabulary: Vocabulary, *, model: str | None, obs_names: str | None) -> AnnData:
    """Tokenized cells, and all genes of the vocabulary; see `read_official`.

    Raises
    ------
    ValueError
        If the folder is not a data set of tokenized cells, is damaged, or is of another vocabulary.
    """
    pa = _pyarrow()
    tokens, lengths, counts, columns = [], [], [], []
    try:
        for name in _data_files(path):
            with pa.memory_map(str(path / name)) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    batch.validate(full=True)
                    ids, n = _padded(batch, IDS, vocabulary, path)
                    tokens.append(ids)
                    lengths.append(n)
                    found = [batch.column(LENGTH).to_pylist()] if LENGTH in batch.schema.names else []
                    if COUNTS in batch.schema.names:
                        scaled, n_counts = _padded(batch, COUNTS, vocabulary, path)
                        counts.append(scaled)
                        found.append(n_counts.tolist())
                    if any(other != n.tolist() for other in found):
                        msg = f"{path} has lengths or counts that do not match its tokens. {_AGAIN}."
                        raise ValueError(msg)
                    columns.append(_scalars(batch, pa).to_pandas())
    except (pa.ArrowException, OSError, MemoryError, EOFError) as error:
        msg = f"{path} is not a data set of tokenized cells, or is damaged ({type(error).__name__}). {_AGAIN}."
        raise ValueError(msg) from None
    if not tokens or not sum(map(len, tokens)):
        msg = f"{path} has no cells. {_AGAIN}."
        raise ValueError(msg)
    ids, n_tokens = np.concatenate(tokens), np.concatenate(lengths).astype(np.int32)
    _check_vocabulary(ids, n_tokens, vocabulary, path)
    obs = with_names(pd.concat(columns, ignore_index=True), obs_names, path)
    if clash := sorted({keys.N_TOKENS, keys.TOKEN_VOCABULARY} & set(obs)):
        msg = f"{path} has a column {clash[0]!r}, a name that scgeneformer uses in .obs. Rename it there."
        raise ValueError(msg)
    genes = slice(vocabulary.n_special, None)
    var = pd.DataFrame(index=vocabulary.ids[genes].astype(object))
    if vocabulary.symbols is not None:
        var[keys.SYMBOLS[0]] = vocabulary.symbols[genes].astype(object)
    adata = AnnData(obs=obs, var=var)
    values = {
        f"obsm/{keys.TOKENS}": ids,
        f"obs/{keys.N_TOKENS}": n_tokens,
        f"obs/{keys.TOKEN_VOCABULARY}": vocabulary_column(vocabulary, len(ids)),
        f"var/{keys.TOKEN_ID}": np.arange(vocabulary.n_special, len(vocabulary), dtype=np.int32),
    }
    if counts:
        values[f"obsm/{keys.counts_key(keys.TOKENS)}"] = np.concatenate(counts)
    _slots.write(
        adata,
        "pp.tokenize",
        keys.TOKENS,
        values,
        model=model,
        vocabulary=vocabulary.name,
        vocabulary_hash=vocabulary.hash,
        max_length=vocabulary.max_length,
        special_tokens=vocabulary.has_cls,
        file=str(path),
    )
    return adata


def write(adata: AnnData, path: Path, vocabulary: Vocabulary, *, name: str) -> None:
    """Write the tokens, their counts and the columns of ``.obs`` to the new folder `path`."""
    pa = _pyarrow()
    tokens = read_tokens(adata, keys.TOKENS, vocabulary, model=name)
    counts = adata.obsm.get(keys.counts_key(keys.TOKENS))
    further = labels(adata)
    if clash := sorted({IDS, COUNTS, LENGTH} & set(further)):
        msg = f"Column {clash[0]!r} of .obs has the name of a column of the data set. Rename it."
        raise ValueError(msg)
    arrays = {str(column): _array(further[column], pa) for column in further}
    types = {IDS: pa.list_(pa.int32())} | ({} if counts is None else {COUNTS: pa.list_(pa.float32())})
    types |= {column: array.type for column, array in arrays.items()} | {LENGTH: pa.int64()}
    features = {column: _feature(kind, pa) for column, kind in types.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(list(types.items()), metadata=metadata)
    path.mkdir()
    with pa.OSFile(str(path / DATA), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for start in range(0, adata.n_obs, _BLOCK):
            block = np.asarray(tokens[start : start + _BLOCK])
            n = np.count_nonzero(block, axis=1)  # 0 is padding
            columns = {IDS: _lists(block.astype(np.int32), n, pa)}
            if counts is not None:
                columns[COUNTS] = _lists(np.asarray(counts[start : start + _BLOCK], np.float32), n, pa)
            columns |= {column: array.slice(start, len(block)) for column, array in arrays.items()}
            columns[LENGTH] = pa.array(n, pa.int64())
            stream.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    digest = hashlib.sha256((path / DATA).read_bytes()).hexdigest()[:16]
    state: dict[str, Any] = dict.fromkeys(("_format_columns", "_format_type", "_split"))
    state |= {"_data_files": [{"filename": DATA}], "_fingerprint": digest, "_format_kwargs": {}}
    state |= {"_output_all_columns": False}
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    for file_name, content in ((STATE, state), (INFO, info)):
        (path / file_name).write_text(json.dumps(content, indent=2, sort_keys=True))


def _data_files(path: Path) -> list[str]:
    """Names of the arrow files, from the file that lists them."""
    try:
        state = json.loads((path / STATE).read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
        sound = all(isinstance(name, str) and Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        sound = False
    if not sound or state.get("_indices_data_files"):
        msg = f"{path / STATE} does not list the arrow files of a data set, as `save_to_disk` writes it. {_AGAIN}."
        raise ValueError(msg)
    for name in names:
        if not (path / name).is_file():
            msg = f"{path} lacks {name}, which its {STATE} lists. {_AGAIN}."
            raise ValueError(msg)
    return names


def _padded(batch: Any, column: str, vocabulary: Vocabulary, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Lists of numbers as a matrix (n, max_length) padded with 0, uint16 or float32, and their lengths."""
    import pyarrow.types as types

    if column not in batch.schema.names:
        msg = f"{path} has no column {column!r}, but {batch.schema.names}. Name a data set of tokenized cells."
        raise ValueError(msg)
    lists = batch.column(column)
    is_ids = column == IDS
    of_lists = types.is_list(lists.type) or types.is_large_list(lists.type)
    fitting = types.is_integer if is_ids else lambda kind: types.is_integer(kind) or types.is_floating(kind)
    if not of_lists or not fitting(lists.type.value_type) or lists.null_count or lists.flatten().null_count:
        msg = f"Column {column!r} of {path} must hold lists of {'tokens' if is_ids else 'numbers'}, not {lists.type} or missing values. {_AGAIN}."
        raise ValueError(msg)
    lengths, values = np.asarray(lists.value_lengths()), np.asarray(lists.flatten())
    if lengths.max(initial=0) > vocabulary.max_length:
        msg = (
            f"{path} has cells of {lengths.max():,} tokens, but vocabulary {vocabulary.name!r} allows {vocabulary.max_length:,}. "
            "Name the model that it was made for."
        )
        raise ValueError(msg)
    if is_ids and len(values) and not 0 < values.min() <= values.max() < len(vocabulary):
        wrong = values.min() if values.min() <= 0 else values.max()
        msg = f"{path} has token {wrong:,}, which vocabulary {vocabulary.name!r} lacks. Name the model that it was made for."
        raise ValueError(msg)
    matrix = np.zeros((len(lengths), vocabulary.max_length), np.uint16 if is_ids else np.float32)
    matrix[np.arange(vocabulary.max_length) < lengths[:, None]] = values
    return matrix, lengths


def _check_vocabulary(tokens: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary, path: Path) -> None:
    """Raise if the tokens do not fit `vocabulary`."""
    cure = "Name the model that it was made for"
    if problem := find_problem(tokens, lengths, vocabulary):
        row, what = problem
        msg = f"Cell {row} of {path} has {what}. {cure}; if it is this one, tokenize the counts again with `sg.pp.tokenize`."
        raise ValueError(msg)
    ends = tokens[np.arange(len(tokens)), np.maximum(lengths - 1, 0)]
    if not vocabulary.has_cls and lengths.min() > 1 and (tokens[:, 0] == 2).all() and (ends == 3).all():
        msg = f"All cells of {path} begin and end with special tokens, which vocabulary {vocabulary.name!r} lacks. {cure}."
        raise ValueError(msg)


def _scalars(batch: Any, pa: Any) -> Any:
    """The columns that are neither tokens nor lists; a warning names those that are left out."""
    further = [field for field in batch.schema if field.name not in (IDS, COUNTS, LENGTH)]
    nested = [field.name for field in further if pa.types.is_nested(field.type)]
    if nested:
        msg = f"Columns {nested} hold lists, which .obs cannot hold, and are left out."
        warnings.warn(msg, UserWarning, stacklevel=4)
    return batch.select([field.name for field in further if field.name not in nested])


def _array(column: pd.Series, pa: Any) -> Any:
    """A column of ``.obs``; categories as text or numbers."""
    values = column.astype(column.cat.categories.dtype) if isinstance(column.dtype, pd.CategoricalDtype) else column
    try:
        array = pa.array(values, from_pandas=True)
        _feature(array.type, pa)
    except (pa.ArrowException, ValueError, TypeError):
        msg = f".obs[{column.name!r}] of {column.dtype} cannot be written to a data set. Convert it to text or numbers, or drop it."
        raise ValueError(msg) from None
    return array


def _feature(kind: Any, pa: Any) -> dict[str, Any]:
    """Description of a type for ``datasets``."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type, pa), "_type": "Sequence"}
    names = {
        "bool": "bool",
        "float": "float32",
        "double": "float64",
        "string": "string",
        "large_string": "large_string",
    }
    name = str(kind) if pa.types.is_integer(kind) else names[str(kind)] if str(kind) in names else None
    if name is None:
        msg = f"no column of {kind}"
        raise ValueError(msg)
    return {"dtype": name, "_type": "Value"}


def _lists(matrix: np.ndarray, lengths: np.ndarray, pa: Any) -> Any:
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    return pa.ListArray.from_arrays(offsets, matrix[np.arange(matrix.shape[1]) < lengths[:, None]])


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError as error:
        msg = 'Data sets of tokenized cells need pyarrow: `pip install "scgeneformer[parquet]"`.'
        raise ImportError(msg) from error
    return pa
