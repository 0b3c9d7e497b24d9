"""Cells, genes and sets to perturb, by the names that a caller gave."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys

from ._beside import random_genes, random_sets
from ._write import columns_by_token

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.engine.perturb import Perturbation
    from scgeneformer.tl._model_inputs import ModelInputs

    from ._options import PerturbOptions


def selected_cells(data: AnnData | MuData, cells: Any, mod: str = "rna") -> np.ndarray:
    """Whether each cell is asked for, bool (n_obs,).

    Parameters
    ----------
    data, mod
        The cells.
    cells
        A query of `obs`, one bool for each cell, names in `obs_names`, or None for all.

    Raises
    ------
    ValueError
        If a query cannot be evaluated, there are too few or many bools, or no cell is asked for.
    KeyError
        If a name is unknown.
    """
    adata = keys.as_adata(data, mod)
    if cells is None:
        return np.ones(adata.n_obs, bool)
    if isinstance(cells, str):
        columns = keys.obs_frame(data, mod)
        try:
            chosen = columns.eval(cells)
        except Exception as error:
            msg = f"cells={cells!r} is not a valid query of .obs, which has the columns {list(columns)}: {error}"
            raise ValueError(msg) from error
    else:
        chosen = np.asarray(cells)
    chosen = np.asarray(chosen)
    if chosen.dtype != bool:
        names = pd.Index(np.atleast_1d(chosen))
        unknown = names[~names.isin(adata.obs_names)]
        if len(unknown):
            msg = (
                "`cells` is neither a condition on .obs, nor one bool for each cell, nor names in .obs_names, which has no "
                f"{', '.join(map(repr, unknown[:5]))}."
            )
            raise KeyError(msg)
        chosen = adata.obs_names.isin(names)
    if chosen.shape != (adata.n_obs,):
        msg = f"`cells` has {chosen.size} bools, but there are {adata.n_obs} cells."
        raise ValueError(msg)
    if not chosen.any():
        msg = f"cells={cells!r} selects no cell."
        raise ValueError(msg)
    return chosen


def choose_cells(data: AnnData | MuData, cells: Any, members: np.ndarray | None, mod: str = "rna") -> np.ndarray:
    """Indices of the cells to perturb: of `cells`, `members` of the source only.

    Raises
    ------
    ValueError
        If the source has no cell among `cells`.
    """
    chosen = np.flatnonzero(selected_cells(data, cells, mod))
    if members is not None:
        chosen = np.intersect1d(chosen, members)
    if len(chosen) == 0:
        msg = "No cell of the `source` is among `cells`."
        raise ValueError(msg)
    return chosen


@dataclass(frozen=True)
class Targets:
    """What is perturbed.

    Attributes
    ----------
    perturbation
        For the engine.
    column_of
        int (V,), the column of `var` of each token, -1 if none.
    sets
        Tokens of each named set, if sets are perturbed.
    listed
        Whether genes were named, and so have to be expressed.
    """

    perturbation: Perturbation
    column_of: np.ndarray
    sets: dict[str, np.ndarray] | None = None
    listed: bool = False

    def check_expressed(self, inputs: ModelInputs, tokens: list[np.ndarray]) -> None:
        """Refuse genes that are in none of the `tokens` but would have to be."""
        asked = self.perturbation
        if asked.genes is None:
            return
        if self.listed and not asked.absent:
            check_expressed(inputs, asked.genes, tokens)
        if asked.anchor is not None:
            check_anchor(inputs, asked.anchor, asked.genes, None if asked.absent else tokens)

    def beside(self, tokens: np.ndarray, options: PerturbOptions) -> Perturbation | None:
        """Random genes or sets to perturb in the cells with these `tokens` beside what was named; None if they are not asked for."""
        asked, candidates = self.perturbation, np.flatnonzero(self.column_of >= 0)
        if options.official:
            return None
        rng = np.random.default_rng(options.rng)
        if self.sets is not None:
            if options.n_random == 0:
                return None
            expressed = np.intersect1d(candidates, tokens)
            pool = candidates if options.inserts else expressed
            return replace(asked, sets=tuple(random_sets(tokens, asked.sets, pool, options.n_random, rng)))
        if asked.genes is None or not self.listed or options.n_reference == 0:
            return None
        others = np.setdiff1d(candidates, [*asked.genes, *([] if asked.anchor is None else [asked.anchor])])
        genes = random_genes(tokens, others, options.n_reference, rng, inserted=asked.absent)
        return replace(asked, genes=genes) if len(genes) else None

    def anchor_name(self, cells: AnnData, anchor: str | None) -> str | None:
        """Name of the anchor in `var_names`, else as it was given."""
        column = -1 if anchor is None else self.column_of[self.perturbation.anchor]
        return anchor if column < 0 else cells.var_names[column]


def resolve_targets(
    inputs: ModelInputs, options: PerturbOptions, *, genes: Any = None, sets: Any = None, anchor: str | None = None
) -> Targets:
    """Tokens of what is to be perturbed.

    Raises
    ------
    ValueError
        If a gene is not in the vocabulary or has no column in `var`, or sets are not sets.
    """
    from scgeneformer.engine.perturb import Perturbation

    column_of = columns_by_token(inputs.token_id, len(inputs.vocabulary))
    missing, inserts = options.missing, options.inserts
    edit = Perturbation(
        options.kind,
        int(options.quartiles),
        options.positions,
        official=options.official,
        ranks=options.ranks,
        factor=1.0 if options.factor is None else options.factor,
    )
    if sets is not None:
        of_set = tokens_of_sets(inputs, sets, missing=missing, inserted=inserts)
        every = options.official and options.kind == "delete"
        return Targets(replace(edit, sets=tuple(of_set.values()), every=every), column_of, of_set)
    from_vocabulary = isinstance(genes, str) and genes == "vocabulary"
    if from_vocabulary and not inserts:
        msg = (
            f"genes='vocabulary' is for kind='overexpress'; a gene that is not expressed has nothing to {options.kind}."
        )
        raise ValueError(msg)
    listed = genes is not None and not from_vocabulary
    if listed:
        tokens = tokens_of_genes(inputs, genes, missing=missing)
        check_columns(inputs, tokens, column_of)
    else:
        tokens = np.flatnonzero(column_of >= 0)  # a gene that was dropped from var after tokenizing has no place
    if anchor is not None:
        edit = replace(edit, anchor=int(tokens_of_genes(inputs, anchor, missing="error", name="anchor")[0]))
    absent = inserts and genes is not None
    return Targets(replace(edit, genes=np.sort(tokens), absent=absent), column_of, listed=listed)


def tokens_of_genes(
    inputs: ModelInputs, genes: Sequence[str] | str, *, missing: str, name: str = "genes"
) -> np.ndarray:
    """Tokens of genes given by `var_names`, Ensembl id or symbol, in their order and once each, int64.

    Raises
    ------
    ValueError
        If a gene is not in the vocabulary, unless `missing` is ``"ignore"``; if none is left.
    """
    genes = list(dict.fromkeys([genes] if isinstance(genes, str) else map(str, genes)))
    vocabulary, found = inputs.vocabulary, find_tokens(inputs, genes)
    lost = [gene for gene, token in zip(genes, found, strict=True) if token < 0]
    if lost and missing == "error":
        msg = (
            f"Genes in `{name}` that are not in vocabulary {vocabulary.name!r}: {', '.join(lost)}. Leave them out, or "
            "pass missing='ignore'."
        )
        raise ValueError(msg)
    if lost:
        warnings.warn(f"Left out of `{name}`, not in vocabulary {vocabulary.name!r}: {', '.join(lost)}.", stacklevel=6)
    if (found < 0).all():
        msg = f"No gene in `{name}` is in vocabulary {vocabulary.name!r}."
        raise ValueError(msg)
    return pd.unique(found[found >= 0].astype(np.int64))


def find_tokens(inputs: ModelInputs, genes: list[str]) -> np.ndarray:
    """Token of each gene given by `var_names`, Ensembl id or symbol, -1 if it is not in the vocabulary, (n,)."""
    names = inputs.cells.var_names
    column = names.get_indexer(genes) if names.is_unique else np.full(len(genes), -1)
    found = np.where(column >= 0, inputs.token_id[column], -1)
    unnamed = column < 0  # a gene of `var` without a token has none, whatever the vocabulary knows by its name
    if unnamed.any():
        found[unnamed] = inputs.vocabulary.tokens_of(
            [gene for gene, looked_up in zip(genes, unnamed, strict=True) if looked_up]
        )
    return found


def tokens_of_sets(inputs: ModelInputs, sets: Any, *, missing: str, inserted: bool = False) -> dict[str, np.ndarray]:
    """Tokens of each named set; sets without names, such as pairs, are named by their genes: ``"GATA4+TBX5"``.

    Sets that would fill all ranks of the model are refused if they are `inserted`, that is overexpressed.
    """
    if not isinstance(sets, Mapping):
        if isinstance(sets, str) or any(isinstance(genes, str) for genes in sets):
            msg = "`sets` must be sets of genes, such as {'name': ['A', 'B']} or [('A', 'B'), ('A', 'C')], not genes."
            raise ValueError(msg)
        sets = {"+".join(map(str, genes)): genes for genes in sets}
    if not sets:
        msg = "`sets` is empty. Give the genes of each set by its name: sets={'targets': ['STAT1', 'STAT2']}."
        raise ValueError(msg)
    names = keys.slot_names(sets, "Sets")
    tokens = [tokens_of_genes(inputs, genes, missing=missing, name=f"sets[{name!r}]") for name, genes in sets.items()]
    found = dict(zip(names, tokens, strict=True))
    if inserted:
        _check_room(inputs, found)
    return found


def _check_room(inputs: ModelInputs, sets: dict[str, np.ndarray]) -> None:
    room = inputs.pretrained.encoder.config.max_length - inputs.vocabulary.n_enclosing
    too_large = [name for name, genes in sets.items() if len(genes) >= room]
    if too_large:
        msg = f"Sets {too_large} have as many genes as the model has ranks ({room}), so none of the cell's own would be left. Split them."
        raise ValueError(msg)


def check_columns(inputs: ModelInputs, genes: np.ndarray, column_of: np.ndarray) -> None:
    """Refuse genes without a column in `var`, by the names of the vocabulary."""
    lost = genes[column_of[genes] < 0]
    if len(lost):
        names = ", ".join(_names_of(inputs, lost))
        msg = f"Genes without a column in .var, which would hold their shifts: {names}. Perturb them by `sg.tl.perturb_sets`."
        raise ValueError(msg)


def check_expressed(inputs: ModelInputs, genes: np.ndarray, tokens: list[np.ndarray]) -> None:
    """Refuse genes that no cell expresses, by the names of the vocabulary."""
    silent = genes[~np.any([np.isin(genes, some) for some in tokens], axis=0)]
    if len(silent):
        names = ", ".join(_names_of(inputs, silent))
        msg = f"Genes that are in the tokens of no perturbed cell: {names}. Leave them out."
        raise ValueError(msg)


def _names_of(inputs: ModelInputs, genes: np.ndarray) -> list[str]:
    """Ids of genes by their tokens, with symbols where the vocabulary has them."""
    ids, symbols = inputs.vocabulary.ids[genes], inputs.vocabulary.symbols
    if symbols is None:
        return list(ids)
    return [f"{symbol} ({name})" if symbol else name for symbol, name in zip(symbols[genes], ids, strict=True)]


def check_anchor(inputs: ModelInputs, anchor: int, genes: np.ndarray, tokens: list[np.ndarray] | None) -> None:
    """Refuse an anchor without a gene to go with it, or, where it is not inserted, that no cell expresses."""
    if not (genes != anchor).any():
        msg = f"No gene goes with `anchor` {inputs.vocabulary.ids[anchor]}. Name others in `genes`."
        raise ValueError(msg)
    if tokens is not None:
        check_expressed(inputs, np.array([anchor]), tokens)
