"""Every slot name, spelled once, and the few functions that read and write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anndata.experimental.backed import Dataset2D
    from mudata import MuData

TOKENS = "geneformer_tokens"  # obsm, uint16 (n_obs, L); uns[TOKENS]["params"]
N_TOKENS = "n_tokens"  # obs, length of each row of tokens, special tokens included; see `lengths_key`
TOKEN_VOCABULARY = "token_vocabulary"  # obs, name and hash of the vocabulary; see `vocabulary_key`
TOKEN_ID = "token_id"  # var, -1 where a gene is not in the vocabulary; see `token_id_key`
GENEFORMER = "geneformer"  # obsm["X_geneformer"], varm["geneformer"], uns["geneformer"]["params"]
COMPLETED = "geneformer_completed"  # tokens as TOKENS, of cells that a decoder completed
LIKELIHOOD = "geneformer_loglik"  # obs; var and var["geneformer_loglik_n"]; uns["geneformer_loglik"]["params"]
SYMBOLS = (
    "gene_symbols",
    "gene_symbol",
    "symbol",
    "gene_names",
    "gene_name",
    "feature_name",
)  # var, where there are any
SHIFT = "shift"  # layers["shift"], layers["shift_<state>"], varm["shift"], uns["shift"]["params"]
SHIFT_SETS = "shift_sets"  # obsm["shift_sets"], obsm["shift_sets_<state>"], uns["shift_sets"]["params"]
GENE_CLASSES = "gene_classes"  # var; varm, DataFrame (n_vars, n_classes); uns["gene_classes"]["params" | "scores"]
SHARED_COLUMNS = (  # of a ranking, the same for every end state
    "n_cells",
    "fraction_detected",
    "mean_rank",
    "n_donors",
    "null_n_cells",
    "fraction_exact",
    "log2fc",
    "auroc",
    "linear_shift",
    "contrast",
    "contrast_low",
    "contrast_high",
    "contrast_scores",
    "contrast_pvals",
    "contrast_pvals_adj",
)
PARTS = ("own", "network", "renumbering")  # of the shifts of deletions; columns of a ranking, and see `part_key`
# beginnings of names of states whose slots would be those of further results
RESERVED_STATES = ("_method_", "_reference_", "_random_", "_untrained_", *(f"_{part}_" for part in PARTS))
UNKNOWN = "unknown"  # category of cells that are unlike all labelled ones
SET_SCORES = "set_scores"  # obsm, also with `expression_scores_key`; uns["set_scores"]["sets" | "params"]
STATE_SCORE = "state_score"  # obs; uns["state_score"]["scores" | "params"]
EMBEDDING_SCORES = "embedding_scores"  # uns["embedding_scores"]["scores" | "spread" | "composition" | "params"]
NETWORK = "network"  # varp, row source, column target; obs["network_cells"]; uns["network"]["params"]; see `pairs_key`
CENTRALITY = "centrality"  # var, see `centrality_key`; uns["centrality"]["params"]
NETWORK_EVALUATION = "network_evaluation"  # uns["network_evaluation"]["metrics" | "params"]
EVALUATION = "evaluation"  # obs; uns["evaluation"]["metrics" | "per_class" | "confusion" | "params"]; see `answer_key`


def lengths_key(key: str) -> str:
    """Name of the `obs` column with the lengths of the tokens in ``.obsm[key]``."""
    return N_TOKENS if key == TOKENS else f"{key}_{N_TOKENS}"


def token_id_key(key: str) -> str:
    """Name of the `var` column with the token of each gene; tokens of another vocabulary, under another key, have their own."""
    return TOKEN_ID if key == TOKENS else f"{key}_{TOKEN_ID}"


def vocabulary_key(key: str) -> str:
    """Name of the `obs` column with the vocabulary of each cell's tokens in ``.obsm[key]``."""
    return TOKEN_VOCABULARY if key == TOKENS else f"{key}_{TOKEN_VOCABULARY}"


def values_key(key: str) -> str:
    """Name of the `obsm` slot with the values of the tokens in ``.obsm[key]``, for models that read values."""
    return f"{key}_values"


def counts_key(key: str) -> str:
    """Name of the `obsm` slot with the counts of the tokens in ``.obsm[key]``."""
    return f"{key}_counts"


def embedding_key(key: str) -> str:
    """Name of the `obsm` slot of an embedding, found by ``sc.pl.embedding(basis=key)``."""
    return f"X_{key}"


def embedding_name(slot: str) -> str:
    """Name of an embedding by its slot in `obsm`, or as it is."""
    return slot.removeprefix(embedding_key(""))


def expression_scores_key(key: str) -> str:
    """Name of the `obsm` slot of the scores of sets by expression, beside those in ``.obsm[key]``."""
    return f"{key}_expression"


def slot_name(name: object) -> str:
    """`name` as part of a slot's or a column's name: a slash would make a group within a file, so it becomes a bar."""
    return str(name).replace("/", "|")


def slot_names(names: Iterable[object], what: str) -> list[str]:
    """`names` as parts of names of slots or columns.

    Raises
    ------
    ValueError
        If two of them would have the same, which no file can hold; `what` says what they name.
    """
    by_slot: dict[str, object] = {}
    for name in names:
        other = by_slot.setdefault(slot_name(name), name)
        if other != name:
            msg = f"{what} {other!r} and {name!r} differ only by a slash and a bar, which are the same in a file. Rename one of them."
            raise ValueError(msg)
    return list(by_slot)


def state_layer(key: str, state: str) -> str:
    """Name of the layer of shifts with respect to `state`, where it is not the target: ``shift_CD4+|CD25 T`` for ``CD4+/CD25 T``."""
    return f"{key}_{slot_name(state)}"


def state_column(name: str, state: str) -> str:
    """Name of the column of a ranking with `name` with respect to `state`, where it is not the target.

    ``effect_low`` and ``effect_high`` are the ends of an interval, and ``effect_elsewhere`` is that in other groups, so
    states of these names are distinguished from them.
    """
    return state_layer(name, f"state_{state}" if state in ("low", "high", "elsewhere") else state)


def sets_key(key: str) -> str:
    """Name of the `obsm` slot with the shifts of sets of genes, and of the `varm` slot with their effects on genes: ``<key>_sets``, once."""
    return f"{key.removesuffix('_sets')}_sets"


def has_genes(adata: AnnData, key: str) -> bool:
    """Whether ``.layers[key]`` holds shifts of genes of the run under `key`, and not those towards a state of another run."""
    slots = adata.uns.get(key, {}).get("params", {}).get("slots")
    return key in adata.layers and (slots is None or f"layers/{key}" in map(str, slots))


def has_sets(adata: AnnData, slots: Mapping[str, Any], key: str) -> bool:
    """Whether `slots`, such as ``adata.obsm``, hold sets of the run under `key`, and not of a run of their own."""
    name = sets_key(key)
    return name in slots and (name == key or name not in adata.uns)


def reference_key(key: str) -> str:
    """Name of the layer with shifts of random genes, which were perturbed beside listed ones. No state has such a name."""
    return f"{key}__reference"


def random_sets_key(key: str) -> str:
    """Name of the `obsm` slot with shifts of random sets of genes, which were perturbed beside named ones. No state has such a name."""
    return f"{sets_key(key)}__random"


def untrained_key(key: str) -> str:
    """Name of the layer with the shifts in ``.layers[key]`` as an untrained encoder gives them. No state has such a name."""
    return f"{key}__untrained"


def method_layer(key: str) -> str:
    """Name of the layer that tells which shifts are exact (1) and which are estimates (0). No state has such a name."""
    return f"{key}__method"


def direction_key(key: str, group: str | None = None) -> str:
    """Name of the `varm` slot with the mean movement by each gene, of a group of cells if any."""
    return f"{key}__direction" if group is None else group_key(f"{key}__direction", group)


def movement_key(key: str) -> str:
    """Name of the `obsm` slot with the mean movement of each cell by the genes that its shifts are centred by."""
    return f"{key}__movement"


def state_embedding_key(key: str) -> str:
    """Name of the `obsm` slot with the embeddings of the cells that the states' centroids are made of."""
    return f"{key}__embedding"


def part_key(key: str, part: str) -> str:
    """Name of the layer with one of `PARTS` of the shifts in ``.layers[key]``. No state has such a name."""
    return f"{key}__{part}"


def score_key(key: str) -> str:
    """Name of the `obs` column with the probability of, or the share of votes for, the labels in ``.obs[key]``."""
    return f"{key}_score"


def distance_key(key: str) -> str:
    """Name of the `obs` column with the distance to labelled cells, relative to what is typical of the labels in ``.obs[key]``."""
    return f"{key}_distance"


def novelty_key(key: str) -> str:
    """Name of the `obs` column with the conformal p of that distance: small where a cell is unlike all labelled ones."""
    return f"{key}_novelty"


def nearest_key(key: str) -> str:
    """Name of the `obs` column with the labels of all cells, also of those that are "unknown" in ``.obs[key]`` or have the label of a cluster."""
    return f"{key}_nearest"


def majority_key(key: str) -> str:
    """Name of the `obs` column with the share of the votes of a cell's cluster for the label in ``.obs[key]``."""
    return f"{key}_majority"


def value_key(key: str) -> str:
    """Name of the `obs` column with the expected position among the ordered labels in ``.obs[key]``."""
    return f"{key}_value"


def effects_keys(key: str) -> tuple[str, str, str]:
    """Names of the slots with means, numbers and standard deviations of effects on genes."""
    return key, f"{key}_n", f"{key}_sd"


def group_key(key: str, group: str) -> str:
    """Name of the `varm` slot with the ranking of one group of cells."""
    return f"{key}_{slot_name(group)}"


def pairs_key(key: str) -> str:
    """Name of the `varp` slot with the number of cells behind each edge in ``.varp[key]``."""
    return f"{key}__n"


def cells_key(key: str) -> str:
    """Name of the `obs` column that tells which cells the network under `key` was made of."""
    return f"{key}_cells"


def centrality_key(key: str, measure: str) -> str:
    """Name of the `var` column with one of the centralities under `key`."""
    return f"{key}_{measure}"


def answer_key(key: str, baseline: str = "", *, proba: bool = True) -> str:
    """Name of the `obsm` slot with what the model or a baseline predicted for evaluated cells, or of the `obs` column if numbers."""
    return "_".join(part for part in (key, baseline, "proba" if proba else "predicted") if part)


def end_states(run: dict[str, Any]) -> list[str]:
    """The target, the source and further states of a perturbation with these params; none without a target."""
    if "target" not in run:
        return []
    source = [str(run["source"])] if "source" in run else []
    return [str(run["target"]), *source, *map(str, run.get("others", ()))]


def symbols(adata: AnnData, column: str | None = None) -> np.ndarray | None:
    """Symbols of genes in `column` of ``.var``, or in the first usual one, (n_vars,) of str; None if there is none.

    Raises
    ------
    KeyError
        If there is no column `column`.
    """
    if column is not None and column not in adata.var:
        msg = f"No column {column!r} in .var, which has {list(adata.var)}."
        raise KeyError(msg)
    found = [column] if column is not None else [name for name in SYMBOLS if name in adata.var]
    return adata.var[found[0]].astype(str).to_numpy() if found else None


def gene_columns(adata: AnnData, names: Iterable[str], symbol_column: str | None = None) -> np.ndarray:
    """Column of ``.var`` of each gene given by its name in ``var_names``, else by its symbol; -1 if neither is there, int64 (n,).

    Where several columns have a name, the first is taken.
    """
    names = [str(name) for name in names]
    found = np.full(len(names), -1)
    for known in (adata.var_names.astype(str).to_numpy(), symbols(adata, symbol_column)):
        if known is not None:
            first = dict(zip(known[::-1], range(len(known) - 1, -1, -1), strict=True))
            found = np.where(found >= 0, found, [first.get(name, -1) for name in names])
    return found


def read_frame(frame: pd.DataFrame | Dataset2D, columns: list[str] | None = None) -> pd.DataFrame:
    """`columns` of ``.obs`` or ``.var``, by default all, read into memory where they are in a file (`anndata.experimental.read_lazy`)."""
    selected = frame if columns is None else frame[columns]
    return selected if isinstance(selected, pd.DataFrame) else selected.to_memory()


def as_adata(data: AnnData | MuData, mod: str = "rna") -> AnnData:
    """Return `data` itself, or the modality `mod` of a MuData (a live object: what is written there is in `data`).

    Raises
    ------
    KeyError
        If the MuData has no such modality.
    TypeError
        If `data` is neither.
    """
    if isinstance(data, AnnData):
        return data
    modalities = getattr(data, "mod", None)
    if modalities is None or callable(modalities):  # a DataFrame has a method of this name
        msg = f"Expected an AnnData or MuData, got {type(data).__name__}."
        raise TypeError(msg)
    if mod not in modalities:
        msg = f"No modality {mod!r} in this MuData, which has {sorted(modalities)}. Set `mod=` to the one with counts."
        raise KeyError(msg)
    return modalities[mod]


def obs_column(data: AnnData | MuData, name: str, mod: str = "rna", *, slot: str = ".obs") -> pd.Series:
    """Column `name` of the cells of an AnnData, or of modality `mod` of a MuData, in the order of these cells.

    In a MuData a column is looked for in ``.obs`` of the modality; then, if its name is ``"<modality>:<column>"``, in that modality, which
    may have changed since its columns were pulled into the MuData; then in ``.obs`` of the MuData. Cells are matched by ``obs_names``;
    those that are not there have NaN. `slot` is what errors call the place.

    Raises
    ------
    KeyError
        If there is no such column; those that there are, are listed.
    ValueError
        If cells cannot be matched because ``obs_names`` are not unique.
    """
    cells, sources = as_adata(data, mod), _obs_sources(data, mod)
    for prefix, frame in sources:
        column = name.removeprefix(prefix)
        if name.startswith(prefix) and column in frame:
            return _of_cells(read_frame(frame, [column]), cells, name)[column].rename(name)
    columns = dict.fromkeys(f"{prefix}{column}" for prefix, frame in sources for column in frame)
    msg = f"No column {name!r} in {slot}, which has {', '.join(map(repr, columns)) or 'none'}."
    raise KeyError(msg)


def obs_frame(data: AnnData | MuData, mod: str = "rna") -> pd.DataFrame:
    """All columns that `obs_column` finds, under their full names: what a query of cells may use."""
    cells, (own, *others) = as_adata(data, mod), _obs_sources(data, mod)
    frame = read_frame(own[1])
    for prefix, other in others:
        renamed = _of_cells(read_frame(other), cells, f"{prefix}...").add_prefix(prefix)
        frame = pd.concat([frame, renamed[renamed.columns.difference(frame.columns, sort=False)]], axis=1)
    return frame


def _obs_sources(data: AnnData | MuData, mod: str) -> list[tuple[str, pd.DataFrame | Dataset2D]]:
    """Tables with columns of cells, each with the prefix of their names."""
    cells = as_adata(data, mod)
    if cells is data:
        return [("", cells.obs)]
    return [("", cells.obs), *((f"{name}:", modality.obs) for name, modality in data.mod.items()), ("", data.obs)]


def _of_cells(frame: pd.DataFrame, cells: AnnData, name: str) -> pd.DataFrame:
    """Rows of `frame` in the order of `cells`, NaN for cells that it lacks."""
    if frame.index.equals(cells.obs_names):
        return frame
    if not frame.index.is_unique:
        msg = f"Cells cannot be matched for {name!r} in .obs, since obs_names are not unique. Run `obs_names_make_unique()` on the modality."
        raise ValueError(msg)
    return frame.reindex(cells.obs_names)


def params(adata: AnnData, key: str, *, cure: str) -> dict[str, Any]:
    """Return ``adata.uns[key]["params"]``; `cure` is the call that makes it."""
    if key not in adata.uns or "params" not in adata.uns[key]:
        msg = f"Did not find .uns[{key!r}]['params']. Run `{cure}` first."
        raise KeyError(msg)
    return adata.uns[key]["params"]


def write_params(adata: AnnData, key: str, **values: Any) -> None:
    """Write ``adata.uns[key]["params"]``. ``None`` is left out, since not every file format can hold it."""
    kept = {name: _plain(value) for name, value in values.items() if value is not None}
    adata.uns[key] = {"params": kept | {"version": __version__}}


def _plain(value: Any) -> Any:
    """Tuples and lists as arrays, numpy scalars as Python's: what h5ad, zarr and h5mu all keep."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return np.asarray(value, dtype=object if not value or isinstance(value[0], str) else None)
    if isinstance(value, np.generic):
        return value.item()
    return value
