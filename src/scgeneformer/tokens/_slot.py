"""Read tokens from an AnnData, after checking their vocabulary and that they are intact."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _keys

from ._genes import resolve_genes
from ._values import with_values

if TYPE_CHECKING:
    from anndata import AnnData

    from ._vocabulary import Vocabulary

_CURE = "sg.pp.tokenize(adata, model)"
_SEPARATOR = ":"
_STALE_CELLS, _STALE = 16, 0.05  # cells that are looked at, and the share of genes that are 0 in more than half of them


def vocabulary_column(vocabulary: Vocabulary, n_obs: int) -> pd.Categorical:
    """Column of `obs` with the vocabulary of each cell's tokens, ``"<name>:<hash>"``.

    Concatenation keeps columns of `obs` but drops `uns`, and may join cells of different vocabularies.
    """
    return pd.Categorical.from_codes(np.zeros(n_obs, np.int8), [f"{vocabulary.name}{_SEPARATOR}{vocabulary.hash}"])


def token_params(adata: AnnData, key: str, *, cure: str = _CURE) -> dict[str, Any]:
    """Parameters of the tokens in ``.obsm[key]``: ``.uns[key]["params"]``, or the vocabulary in ``.obs`` alone after concatenation.

    Returns
    -------
    At least ``vocabulary`` and ``vocabulary_hash``.

    Raises
    ------
    KeyError
        If there are no tokens, or their vocabulary is recorded nowhere.
    TypeError
        If they are not integers.
    ValueError
        If cells were tokenized with different vocabularies, or some not at all.
    """
    if key not in adata.obsm:
        msg = f"No tokens in .obsm[{key!r}]. Run `{cure}` first."
        raise KeyError(msg)
    _integers(adata.obsm[key], f".obsm[{key!r}]", cure)
    column = _keys.vocabulary_key(key)
    if column not in adata.obs:
        return _keys.params(adata, key, cure=cure)
    values = _keys.read_frame(adata.obs, [column])[column].astype("object")
    n_without = int(values.isna().sum())
    if n_without:
        msg = (
            f"{n_without:,} of {adata.n_obs:,} cells have tokens in .obsm[{key!r}] but no vocabulary in .obs[{column!r}], as after "
            f"concatenation with cells that were not tokenized. Run `{cure}` on all of them."
        )
        raise ValueError(msg)
    names = values.unique()
    if len(names) > 1:
        listed = " and ".join(repr(str(name).partition(_SEPARATOR)[0]) for name in names)
        msg = f"The cells in .obsm[{key!r}] were tokenized with different vocabularies, {listed}. Run `{cure}` on all of them."
        raise ValueError(msg)
    run = dict(adata.uns.get(key, {}).get("params", {}))
    if len(names):
        name, _, digest = str(names[0]).rpartition(_SEPARATOR)
        if run.get("vocabulary_hash") != digest:  # the parameters of other tokens
            run = {"vocabulary": name, "vocabulary_hash": digest}
    return run


def read_tokens(adata: AnnData, key: str, vocabulary: Vocabulary, *, model: str) -> Any:
    """Return the tokens in ``.obsm[key]`` after checking that they were made with `vocabulary` and are intact.

    Parameters
    ----------
    adata
        Tokenized cells.
    key
        Slot of the tokens in `obsm`.
    vocabulary
        Vocabulary of the model.
    model
        Name of the model in errors.

    Returns
    -------
    Integers of shape (n_obs, L), NumPy or dask, right-padded with 0; pairs of tokens and values if the vocabulary has values (see `with_values`).
    Blocks of a dask array are checked when they are computed.

    Raises
    ------
    KeyError
        If there are no tokens, or no values of a vocabulary that has some.
    TypeError, ValueError
        If they were made with another vocabulary, or values are not those of the tokens; or as `check_tokens`.
    """
    cure = f'sg.pp.tokenize(adata, "{model}")'
    made_with = token_params(adata, key, cure=cure)
    if made_with["vocabulary_hash"] != vocabulary.hash:
        msg = (
            f"The tokens in .obsm[{key!r}] were made with vocabulary {made_with['vocabulary']!r}, but model {model!r} "
            f"was trained with vocabulary {vocabulary.name!r}. Run `{cure}`, with another `key_added` to keep both."
        )
        raise ValueError(msg)
    tokens = check_tokens(adata.obsm[key], vocabulary, n_tokens=_read_lengths(adata, key), key=key, cure=cure)
    _warn_if_stale(adata, tokens, key, vocabulary, made_with.get("layer"), cure)
    return _with_values(adata, tokens, key, vocabulary, cure) if vocabulary.values else tokens


def _with_values(adata: AnnData, tokens: Any, key: str, vocabulary: Vocabulary, cure: str) -> Any:
    """Tokens with the values beside them; those of dask arrays are checked when they are computed."""
    slot = _keys.values_key(key)
    if slot not in adata.obsm:
        msg = (
            f"No values in .obsm[{slot!r}], which vocabulary {vocabulary.name!r} needs beside tokens. Run `{cure}` "
            "first."
        )
        raise KeyError(msg)
    values = adata.obsm[slot]
    if np.dtype(getattr(values, "dtype", object)).kind != "f" or values.shape != tokens.shape:
        msg = (
            f".obsm[{slot!r}] must hold a real number for each token of .obsm[{key!r}], shape {tokens.shape}, but is "
            f"{type(values).__name__} of {getattr(values, 'dtype', 'no type')} and shape "
            f"{getattr(values, 'shape', None)}. Run `{cure}` again."
        )
        raise TypeError(msg)
    cells: Any = with_values(tokens, values)
    if isinstance(cells, np.ndarray):
        return _check_values(cells, vocabulary, slot, cure)
    return cells.map_blocks(_check_values, vocabulary, slot, cure, dtype=cells.dtype, meta=cells._meta)


def _check_values(cells: np.ndarray, vocabulary: Vocabulary, slot: str, cure: str) -> np.ndarray:
    """Refuse values that no counts have."""
    genes = cells["token"] >= vocabulary.n_special
    if (
        not np.isfinite(cells["value"]).all()
        or (cells["value"][genes] <= 0).any()
        or cells["value"][~genes].min(initial=0) < 0
    ):
        msg = (
            f".obsm[{slot!r}] has values that are not finite, or genes whose value is not above 0. Run `{cure}` again."
        )
        raise ValueError(msg)
    return cells


def _warn_if_stale(adata: AnnData, tokens: Any, key: str, vocabulary: Vocabulary, layer: str | None, cure: str) -> None:
    """Warn if most of some cells have tokens of genes that are 0 in the matrix in memory.

    Normalisation, logarithms, imputation, scaling and the removal of cells or genes do not make a gene of a cell 0: after any of these,
    tokens are those of the counts as before. Other counts do.
    """
    X = adata.X if layer is None else adata.layers.get(layer)
    column = _keys.token_id_key(key)
    if (
        not isinstance(tokens, np.ndarray)
        or not (isinstance(X, np.ndarray) or sparse.issparse(X))
        or column not in adata.var
    ):
        return
    rows = np.unique(np.linspace(0, max(adata.n_obs, 1) - 1, _STALE_CELLS).astype(int))[: adata.n_obs]
    values = X[rows]
    values = np.asarray(values.toarray() if sparse.issparse(values) else values)
    token_id = _keys.read_frame(adata.var, [column])[column].to_numpy()
    if token_id.dtype.kind not in "iu":  # refused where it is used
        return
    lost = []
    for row, of_cell in zip(rows, values, strict=True):
        genes = np.intersect1d(tokens[row][tokens[row] >= vocabulary.n_special], token_id)
        if len(genes):
            lost.append(1 - np.isin(genes, token_id[of_cell != 0]).mean())
    if len(lost) and np.median(lost) > _STALE:
        slot = ".X" if layer is None else f".layers[{layer!r}]"
        msg = (
            f"{slot} was changed after tokenizing: of the genes in .obsm[{key!r}], {np.median(lost):.0%} (median of "
            f"{len(lost)} cells) are 0 there. If the counts have changed, run `{cure}` again."
        )
        warnings.warn(msg, UserWarning, stacklevel=5)


def _read_lengths(adata: AnnData, key: str) -> np.ndarray | None:
    """Number of tokens of each cell as written by `pp.tokenize`, int64 (n_obs,); None if the column was removed."""
    column = _keys.lengths_key(key)
    if column not in adata.obs:
        return None
    values = _keys.read_frame(adata.obs, [column])[column]
    if values.dtype.kind not in "iuf" or values.isna().any():
        msg = f".obs[{column!r}] must hold the number of tokens of each cell. Run `{_CURE}` again."
        raise ValueError(msg)
    return values.to_numpy().astype(np.int64)


def check_tokens(
    tokens: Any, vocabulary: Vocabulary, *, n_tokens: np.ndarray | None, key: str = _keys.TOKENS, cure: str = _CURE
) -> Any:
    """Return `tokens` after checking that they are valid tokens of `vocabulary`.

    Parameters
    ----------
    tokens
        Shape (n_obs, L), NumPy or dask.
    vocabulary
        Vocabulary of the tokens.
    n_tokens
        Shape (n_obs,): number of tokens of each cell when it was tokenized; None if unknown.
    key, cure
        Slot of the tokens in `obsm`, and the call that repairs them, for errors.

    Raises
    ------
    TypeError
        If `tokens` is not a matrix of integers.
    ValueError
        If a cell does not have `n_tokens` tokens, or has tokens outside the vocabulary, padding between tokens, a gene twice, or missing or
        misplaced special tokens.
    """
    slot = f".obsm[{key!r}]"
    dtype = _integers(tokens, slot, cure)
    longest = 0 if n_tokens is None else int(n_tokens.max(initial=0))
    if longest > tokens.shape[1]:
        msg = (
            f"{slot} has {tokens.shape[1]} columns, but cells of up to {longest} tokens (.obs[{_keys.lengths_key(key)!r}]): "
            f"it was cut, for example by concatenating tokens of different `max_length`. Run `{cure}` again."
        )
        raise ValueError(msg)
    if isinstance(tokens, np.ndarray):
        return _check_block(tokens, n_tokens, vocabulary, slot, cure)
    if tokens.numblocks[1] != 1:
        tokens = tokens.rechunk({1: -1})
    if n_tokens is None:
        return tokens.map_blocks(_check_block, None, vocabulary, slot, cure, dtype=dtype, meta=np.empty((0, 0), dtype))
    import dask.array as da

    lengths = da.from_array(n_tokens[:, None], chunks=(tokens.chunks[0], 1))
    return da.map_blocks(
        _check_block,
        tokens,
        lengths,
        vocabulary,
        slot,
        cure,
        dtype=dtype,
        chunks=tokens.chunks,
        meta=np.empty((0, 0), dtype),
    )


def _integers(tokens: Any, slot: str, cure: str) -> np.dtype:
    """Data type of a matrix of integers; raises for anything else."""
    dtype = np.dtype(getattr(tokens, "dtype", object))
    if getattr(tokens, "ndim", 0) != 2 or dtype.kind not in "iu":
        msg = (
            f"{slot} is {type(tokens).__name__} of {dtype}, not a matrix of integers. It was changed after tokenizing, for example by "
            f"concatenating tokens of different widths. Run `{cure}` again."
        )
        raise TypeError(msg)
    return dtype


def _check_block(
    tokens: np.ndarray, n_tokens: np.ndarray | None, vocabulary: Vocabulary, slot: str, cure: str
) -> np.ndarray:
    """Check the tokens of a block of cells."""
    tokens = np.asarray(tokens)
    if problem := find_problem(tokens, n_tokens, vocabulary):
        row, what = problem
        msg = (
            f"{slot} was changed after tokenizing: a cell (row {row} of {len(tokens)}) has {what}. Run `{cure}` again."
        )
        raise ValueError(msg)
    return tokens


def find_problem(tokens: np.ndarray, n_tokens: np.ndarray | None, vocabulary: Vocabulary) -> tuple[int, str] | None:
    """Row of the first cell whose tokens do not fit `vocabulary`, and what is wrong with it; None if all are sound.

    Parameters
    ----------
    tokens
        Integers (n_obs, L), right-padded with 0.
    n_tokens
        Number of tokens that each cell should have, (n_obs,) or (n_obs, 1); None if unknown.
    vocabulary
        Vocabulary of the tokens.
    """
    from ._kernels import GAP, MISPLACED, REPEATED, UNKNOWN, check_tokens

    lengths = np.empty(len(tokens), np.int64)
    row, problem = check_tokens(tokens, len(vocabulary), vocabulary.n_special, lengths)
    if problem:
        return int(row), {
            UNKNOWN: f"a token beyond the {len(vocabulary):,} of vocabulary {vocabulary.name!r}",
            GAP: "padding between tokens",
            REPEATED: "a gene twice",
            MISPLACED: f"missing or misplaced special tokens of vocabulary {vocabulary.name!r}",
        }[problem]
    if n_tokens is not None and (lengths != np.ravel(n_tokens)).any():
        row = int(np.flatnonzero(lengths != np.ravel(n_tokens))[0])
        return row, f"{lengths[row]} tokens where {np.ravel(n_tokens)[row]} were written"
    return None


def token_ids(adata: AnnData, key: str, vocabulary: Vocabulary) -> np.ndarray:
    """Token of each gene of ``.var``, -1 for genes outside the vocabulary; int32 (n_vars,).

    If concatenation has dropped the column written by :func:`scgeneformer.pp.tokenize`, genes are mapped again by their names.

    Raises
    ------
    ValueError
        If the column does not hold tokens of `vocabulary`, or was dropped and no gene's name is in the vocabulary.
    """
    column = _keys.token_id_key(key)
    if column not in adata.var:
        gene_ids = token_params(adata, key).get("gene_ids")
        genes = resolve_genes(
            _keys.read_frame(adata.var), vocabulary, gene_ids=gene_ids if gene_ids in adata.var else None
        )
        if genes.n_mapped == 0:
            msg = f"No column {column!r} in .var, and no gene's name is in vocabulary {vocabulary.name!r}. Run `{_CURE}` again."
            raise ValueError(msg)
        return genes.token_id
    values = _keys.read_frame(adata.var, [column])[column]
    if values.dtype.kind not in "iu" or not values.between(-1, len(vocabulary) - 1).all():
        msg = f".var[{column!r}] must hold integers from -1 to {len(vocabulary) - 1}, as `{_CURE}` writes them. Run it again."
        raise ValueError(msg)
    return values.to_numpy().astype(np.int32)
