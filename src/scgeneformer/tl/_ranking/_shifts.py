"""Stored shifts in long form, and what else a ranking reads: donors, another perturbation, where genes stand in their cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _keys, stats

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

CURE = "sg.tl.perturb(adata)"
CURE_SETS = "sg.tl.perturb_sets(adata, sets=...)"
TOKENS_CURE = "sg.pp.tokenize(adata, model)"
ROWS_AT_ONCE = 4096  # of tokens, which may be read from disk


@dataclass(frozen=True)
class Shifts:
    """Measured values in long form: effect, column (gene or set) and row (cell) of each."""

    effects: np.ndarray
    genes: np.ndarray
    cells: np.ndarray

    def renamed(self, names: pd.Index, new_names: pd.Index) -> Shifts:
        """The same with columns counted in `new_names`; entries of genes that are not there are left out."""
        column = new_names.get_indexer(names)[self.genes]
        kept = column >= 0
        return Shifts(self.effects[kept], column[kept], self.cells[kept])

    def where(self, kept: np.ndarray) -> Shifts:
        """The entries where `kept`, a mask or indices."""
        return Shifts(self.effects[kept], self.genes[kept], self.cells[kept])


def read_shifts(data: AnnData, name: str, *, goal: bool) -> Shifts:
    """Stored entries of ``.layers[name]`` that are not NaN, as effects."""
    if name not in data.layers:
        msg = f"No shifts in .layers[{name!r}]. Run `{CURE}` first."
        raise KeyError(msg)
    x = data.layers[name]
    if not sparse.issparse(x) or x.format not in ("csr", "csc"):
        msg = (
            f".layers[{name!r}] is {type(x).__name__}, but only a CSR or CSC matrix distinguishes a tested shift of 0 "
            f"from no test. Run `{CURE}` again."
        )
        raise ValueError(msg)
    outer = np.repeat(np.arange(len(x.indptr) - 1, dtype=x.indices.dtype), np.diff(x.indptr))
    cells, genes = (outer, x.indices) if x.format == "csr" else (x.indices, outer)
    values = x.data.astype(np.float64)
    if np.isinf(values).any():
        msg = f".layers[{name!r}] has infinite shifts, which no perturbation gives. Run `{CURE}` again."
        raise ValueError(msg)
    shifts, measured = Shifts(values if goal else 1 - values, genes, cells), ~np.isnan(values)
    return shifts if measured.all() else shifts.where(measured)


def read_set_shifts(data: AnnData, name: str, *, goal: bool) -> tuple[Shifts, list[str]]:
    """Entries of ``.obsm[name]`` that are not NaN, as effects, and the names of its columns."""
    if name not in data.obsm:
        msg = f"No shifts of sets in .obsm[{name!r}]. Run `{CURE}` again."
        raise KeyError(msg)
    frame = data.obsm[name]
    if not isinstance(frame, pd.DataFrame):
        msg = f".obsm[{name!r}] is {type(frame).__name__}, not a DataFrame with one column per set. Run `{CURE}` again."
        raise ValueError(msg)
    values = frame.to_numpy(dtype=np.float64)
    cells, sets = at = np.nonzero(~np.isnan(values))
    return Shifts(values[at] if goal else 1 - values[at], sets, cells), [str(column) for column in frame]


def centre(shifts: Shifts, reference: Shifts | None, n_obs: int) -> tuple[Shifts, Shifts | None]:
    """Effects less what perturbing any gene does to the cell: the mean effect of the reference genes in it, or else of all tested genes.

    Parameters
    ----------
    shifts
        Of the tested genes.
    reference
        Of random genes in the same cells; None where all genes of the cells were tested.
    n_obs
        Number of cells.

    Returns
    -------
    Both, centred, without cells that have no such mean: those with no reference gene, or with a single tested one.

    Notes
    -----
    Most of what a deletion does is common to all genes of a cell (the others move up by one rank). A gene's plain mean therefore depends on
    which cells happen to express it.
    """
    base = shifts if reference is None else reference
    common = stats.common_effect(base.effects, base.cells, n_obs, of_reference=reference is not None)
    centred = shifts.where(~np.isnan(common[shifts.cells]))
    centred = replace(centred, effects=centred.effects - common[centred.cells])
    if reference is not None:
        reference = replace(reference, effects=reference.effects - common[reference.cells])
    return centred, reference


def resolve_null(data: AnnData, null: AnnData | MuData | str, key: str, *, mod: str) -> tuple[AnnData, str]:
    """Object and key of the null's shifts, after checking that they measure the same thing."""
    null_data, null_key = (data, null) if isinstance(null, str) else (_keys.as_adata(null, mod), key)
    _check_alike(data, key, null_data, null_key, ("anchor",))
    if not (data.var_names.is_unique and null_data.var_names.is_unique):
        msg = "Genes are matched by .var_names, which are not unique. Run `adata.var_names_make_unique()` on both."
        raise ValueError(msg)
    return null_data, null_key


def resolve_anchor(data: AnnData, key: str, singles: str) -> int:
    """Column of the anchor of the pairs under `key`, after checking that `singles` measures its genes alone."""
    run = _keys.params(data, key, cure=CURE)
    if "anchor" not in run:
        msg = f"test='interaction' is for pairs with an anchor, but .uns[{key!r}]['params'] has none. Run `sg.tl.perturb_sets(adata, anchor=...)`."
        raise ValueError(msg)
    _check_alike(data, key, data, singles, ("source",))
    if "anchor" in _keys.params(data, singles, cure=CURE):
        msg = f"singles={singles!r} names pairs with an anchor too. Name a perturbation of single genes."
        raise ValueError(msg)
    column = np.flatnonzero(data.var_names == str(run["anchor"]))
    if len(column) != 1:
        msg = (
            f"The anchor {run['anchor']!r} in .uns[{key!r}]['params'] occurs {len(column)} times in .var_names, not "
            "once."
        )
        raise ValueError(msg)
    return int(column[0])


def _check_alike(data: AnnData, key: str, other: AnnData, other_key: str, further: tuple[str, ...]) -> None:
    ours, theirs = (_keys.params(d, k, cure=CURE) for d, k in ((data, key), (other, other_key)))
    for name in (
        "kind",
        "quartiles",
        "ranks",
        "positions",
        "target",
        "within",
        "weights_sha256",
        "emb_layer",
        "pooling",
        *further,
    ):
        if ours.get(name) != theirs.get(name):
            msg = (
                f"The shifts of {other_key!r} to compare with were made with {name}={theirs.get(name)!r}, those of "
                f"{key!r} with {ours.get(name)!r}. Perturb both in the same way."
            )
            raise ValueError(msg)


def tokens_key_of(run: dict[str, Any]) -> str:
    """Slot of the tokens that were perturbed."""
    return str(run.get("tokens_key", _keys.TOKENS))


def read_token_ids(data: AnnData, run: dict[str, Any]) -> np.ndarray:
    """Token of each gene in the vocabulary of the perturbation, -1 if none."""
    column = _keys.token_id_key(tokens_key_of(run))
    if column not in data.var:
        msg = f"No column {column!r} in .var. Run `{TOKENS_CURE}` with the model of the perturbation first."
        raise KeyError(msg)
    return data.var[column].to_numpy()


@dataclass(frozen=True)
class Ranks:
    """Where genes stand in the tokens of some cells.

    Attributes
    ----------
    token_id
        int (n_vars,), token of each gene, -1 if none.
    fraction_detected
        (n_vars,), fraction of the cells that have it.
    position
        (n_vars,), its mean position in those that have it, special tokens included, which moves all genes alike; NaN if none has.
    relative
        (n_vars,), the mean of its position relative to the length of the cell: 0 for the top, 1 for the bottom.
    """

    token_id: np.ndarray
    fraction_detected: np.ndarray
    position: np.ndarray
    relative: np.ndarray


def read_ranks(data: AnnData, run: dict[str, Any], rows: np.ndarray) -> Ranks:
    """Where genes stand in the tokens of the cells `rows`.

    Raises
    ------
    KeyError
        If there are no tokens.
    ValueError
        If the tokens are of another vocabulary than the perturbation.
    """
    key, token_id = tokens_key_of(run), read_token_ids(data, run)
    if key not in data.obsm:
        msg = f"No tokens in .obsm[{key!r}]. Run `{TOKENS_CURE}` with the model of the perturbation first."
        raise KeyError(msg)
    made_with = _keys.params(data, key, cure=TOKENS_CURE).get("vocabulary_hash")
    if made_with != run.get("vocabulary_hash", made_with):
        msg = f"The tokens in .obsm[{key!r}] were made with another vocabulary than that of the shifts. Run `{TOKENS_CURE}` again."
        raise ValueError(msg)
    size = int(token_id.max(initial=0)) + 1
    n, total, relative = np.zeros((3, size))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        tokens = np.asarray(data.obsm[key][rows[start : start + ROWS_AT_ONCE]])
        cell, position = np.nonzero((tokens > 0) & (tokens < size))
        gene = tokens[cell, position]
        last = np.maximum((tokens > 0).sum(axis=1) - 1, 1)[cell]
        n += np.bincount(gene, minlength=size)
        total += np.bincount(gene, weights=position, minlength=size)
        relative += np.bincount(gene, weights=position / last, minlength=size)
    means = [np.divide(x, n, out=np.full(size, np.nan), where=n > 0) for x in (total, relative)]
    known = token_id >= 0
    fraction = np.where(known, n[token_id] / max(len(rows), 1), np.nan)
    return Ranks(token_id, fraction, *(np.where(known, mean[token_id], np.nan) for mean in means))


def with_singles(
    pairs: Shifts, singles: Shifts, anchor: int, shape: tuple[int, int]
) -> tuple[Shifts, np.ndarray, np.ndarray]:
    """Pairs of genes in cells where their two genes were measured alone too.

    Returns
    -------
    The pairs, and for each of them the effect of its gene alone and that of the anchor alone.
    """
    n_obs, n_vars = shape
    alone = np.full(n_obs, np.nan)
    of_anchor = singles.genes == anchor
    alone[singles.cells[of_anchor]] = singles.effects[of_anchor]
    place, wanted = (x.cells.astype(np.int64) * n_vars + x.genes for x in (singles, pairs))
    _, of_pair, of_single = np.intersect1d(wanted, place, assume_unique=True, return_indices=True)
    measured = ~np.isnan(alone[pairs.cells[of_pair]]) & (pairs.genes[of_pair] != anchor)
    pairs = pairs.where(of_pair[measured])
    return pairs, singles.effects[of_single[measured]], alone[pairs.cells]
