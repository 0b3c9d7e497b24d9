"""``tl.score_sets``: how close cells are to sets of genes in the embedding, beside scores of expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._gene_sets import as_gene_sets
from scgeneformer._slots import read_embedding
from scgeneformer.tokens import token_params

from ._expression import log_profile
from ._perturbation._beside import random_sets
from ._perturbation._write import columns_by_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

CURE = "sg.tl.embed(adata, genes=True, pooling='mean')"


@checked
def score_sets(
    adata: AnnData | MuData,
    sets: Mapping[str, Sequence[str]] | pd.DataFrame | str | Path,
    *,
    embedding: str = keys.GENEFORMER,
    min_genes: int = 5,
    n_random: int = 100,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.SET_SCORES,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score cells by the similarity of their embedding to gene sets, relative to random sets, and by the expression of the sets.

    Cells and genes are embedded in one space, a cell as the mean of its genes. The score of a cell is the cosine similarity of its embedding, minus
    the mean over all cells, with the mean embedding of the genes of the set, minus that of all genes. Genes that a cell does not express count as well.
    Every set is closer to some cells than to others, so the score is given in standard deviations of random sets of the same size, whose genes match those of the set
    in detection and rank. In every comparison made so far, the expression of the set was more informative, also in shallow cells (see the page
    *Batches and axes*); it is written as well.

    Parameters
    ----------
    adata
        Embedded by :func:`embed` with ``genes=True`` and ``pooling="mean"``.
    sets
        Genes by name of the set; a decoupler table with columns ``source`` (sets) and ``target`` (genes); or a file that
        :func:`scgeneformer.datasets.read_gene_sets` reads, such as a GMT file. Genes are named by ``var_names`` or symbol.
    embedding
        Name of the embedding, `key_added` of :func:`embed`.
    min_genes
        Minimum number of genes of a set with an embedding, that is, expressed in some cell; smaller sets are left out with a warning.
    n_random
        Number of random sets for each set.
    tokens_key
        Slot of the tokens in ``.obsm``, which record the layer of the counts.
    key_added
        Name of the results.
    rng
        Seed or generator of the random sets.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Writes

    ``.obsm["set_scores"]``
        DataFrame (n_obs, n_sets), float64: the score of each set in the embedding, in standard deviations of its random sets in the same cell; NaN for
        cells without an embedding.
    ``.obsm["set_scores_expression"]``
        The same for the mean log-normalised expression of the genes of the set, relative to the same random sets: a baseline without a model.
    ``.uns["set_scores"]``
        ``"params"``, and ``"sets"``: for each set the number of genes, the number of genes used, and the Spearman correlation of both scores
        over cells.

    Raises
    ------
    KeyError
        If there are no embeddings of cells and genes, or a table lacks a column.
    ValueError
        If no set has `min_genes` genes, the embedding of cells is not a mean over genes, there are no counts, or a slot holds something other
        than earlier scores.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata, genes=True)
    >>> sg.tl.score_sets(adata, {"ISGF3": ["STAT1", "STAT2", "IRF9"]}, min_genes=3)
    >>> adata.obsm["set_scores"].shape
    (32, 1)
    """
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    beside = keys.expression_scores_key(key_added)
    written = [f"obsm/{key_added}", f"obsm/{beside}"]
    slots.check_free(cells, "tl.score_sets", key_added, [*written, f"uns/{key_added}"])
    by_name = _by_name(sets)
    keys.slot_names(by_name, "Sets")
    of_cells, of_genes, params = _embeddings(cells, embedding)
    token_id = _token_id(cells, tokens_key)
    usable = (token_id >= 0) & np.isfinite(of_genes).all(axis=1)
    columns_of = _columns_of_sets(cells, by_name, usable, min_genes)
    start = logg.info(f"scoring {len(columns_of)} sets of genes")
    column_of = columns_by_token(np.where(usable, token_id, -1), int(token_id.max()) + 1)
    of_sets = [token_id[columns] for columns in columns_of.values()]
    tokens, candidates = np.asarray(cells.obsm[tokens_key]), np.flatnonzero(column_of >= 0)
    drawn = random_sets(tokens, of_sets, candidates, n_random, np.random.default_rng(rng))
    logged = log_profile(cells, np.arange(cells.n_obs), layer=None, tokens_key=tokens_key, cure=_COUNTS).X
    near = _directions(of_cells - np.nanmean(of_cells, axis=0))
    centred = of_genes - of_genes[column_of[candidates]].mean(axis=0)

    scores, of_expression = np.empty((2, cells.n_obs, len(columns_of)))
    for i, genes in enumerate(of_sets):
        groups = column_of[np.stack([genes, *drawn[i * n_random : (i + 1) * n_random]])]  # (1 + n_random, n_genes)
        scores[:, i] = _beyond_random(near @ _directions(centred[groups].mean(axis=1)).T)
        of_expression[:, i] = _beyond_random(_means(logged, groups))
    names = keys.slot_names(columns_of, "Sets")
    frames = [pd.DataFrame(values, index=cells.obs_names, columns=names) for values in (scores, of_expression)]
    slots.write(
        cells,
        "tl.score_sets",
        key_added,
        dict(zip(written, frames, strict=True)),
        embedding=embedding,
        min_genes=min_genes,
        n_random=n_random,
        tokens_key=tokens_key,
        **{
            name: params[name] for name in ("model", "weights_sha256", "vocabulary_hash", "emb_layer") if name in params
        },
    )
    cells.uns[key_added]["sets"] = pd.DataFrame(
        {
            "n_genes": [len(set(by_name[name])) for name in columns_of],
            "n_used": [len(columns) for columns in columns_of.values()],
            "spearman": [frames[0][name].corr(frames[1][name], method="spearman") for name in names],
        },
        index=names,
    )
    logg.info("    finished", time=start, deep="\n    ".join(["added", *written]))
    return data if copy else None


_COUNTS = "Scores are compared with those of expression, which need the counts that were tokenized."


def _by_name(sets: Any) -> Mapping[str, Sequence[str]]:
    by_name: Mapping[str, Sequence[str]] = as_gene_sets(sets)
    lone = [name for name, genes in by_name.items() if isinstance(genes, str)]
    if lone or not by_name:
        msg = "`sets` must be lists of genes by name, such as {'ISGF3': ['STAT1', 'STAT2', 'IRF9']}."
        raise ValueError(msg)
    return by_name


def _embeddings(cells: AnnData, embedding: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Embeddings of cells (n_obs, H) and of genes (n_vars, H), float64, and how they were made."""
    name = keys.embedding_name(embedding)
    slot = keys.embedding_key(name)
    for place, key in (("obsm", slot), ("varm", name)):
        if key not in getattr(cells, place):
            msg = f"No embedding in .{place}[{key!r}]. Run `{CURE}` first."
            raise KeyError(msg)
    params = keys.params(cells, name, cure=CURE)
    if params.get("pooling") != "mean":
        msg = f"Cells in .obsm[{slot!r}] are read from {params.get('pooling')!r}, not the mean of genes, and so are not in the same space as genes. Run `{CURE}`."
        raise ValueError(msg)
    of_cells, of_genes = (x.astype(np.float64) for x in (read_embedding(cells, slot), np.asarray(cells.varm[name])))
    of_cells[~np.isfinite(of_cells).all(axis=1)] = np.nan
    if np.isnan(of_cells).all():
        msg = f"No cell has a place in .obsm[{slot!r}]. Run `{CURE}` again."
        raise ValueError(msg)
    return of_cells, of_genes, params


def _token_id(cells: AnnData, tokens_key: str) -> np.ndarray:
    """Token of each gene of `var`, -1 for none, (n_vars,)."""
    token_params(cells, tokens_key)  # raises if there are no tokens
    column = keys.token_id_key(tokens_key)
    if column not in cells.var:
        msg = f"No column {column!r} in .var, which `ad.concat` drops. Run `sg.pp.tokenize(adata)` and `{CURE}` again."
        raise KeyError(msg)
    return cells.var[column].to_numpy(dtype=np.int64)


def _columns_of_sets(
    cells: AnnData, by_name: Mapping[str, Sequence[str]], usable: np.ndarray, min_genes: int
) -> dict[str, np.ndarray]:
    """Columns of `var` of the genes of each set, of those that are `usable`; without sets of fewer than `min_genes`."""
    found = {name: np.unique(keys.gene_columns(cells, genes)).astype(np.int64) for name, genes in by_name.items()}
    found = {name: columns[(columns >= 0) & usable[columns]] for name, columns in found.items()}
    small = [name for name, columns in found.items() if len(columns) < min_genes]
    if len(small) == len(found):
        most = max(map(len, found.values()))
        msg = f"No set has min_genes={min_genes} genes with an embedding; the largest has {most}. Name genes by var_names or symbols, or lower min_genes."
        raise ValueError(msg)
    if small:
        logg.warning(f"Left out {len(small)} sets with fewer than min_genes={min_genes} genes: {', '.join(small[:5])}.")
    return {name: columns for name, columns in found.items() if name not in small}


def _directions(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _means(values: sparse.csr_matrix, groups: np.ndarray) -> np.ndarray:
    """Means of the columns of each group, (n, S), of CSR (n, n_vars) and columns (S, n_genes)."""
    n_sets, size = groups.shape
    columns = (groups.ravel(), np.repeat(np.arange(n_sets), size))
    members = sparse.csr_matrix((np.full(n_sets * size, 1 / size), columns), shape=(values.shape[1], n_sets))
    return (values @ members).toarray()


def _beyond_random(values: np.ndarray) -> np.ndarray:
    """The first column in standard deviations of the others, (n, S) -> (n,); 0 where all are the same."""
    mean, sd = values[:, 1:].mean(axis=1), values[:, 1:].std(axis=1, ddof=1)
    difference = values[:, 0] - mean
    return np.divide(difference, sd, out=np.where(np.isnan(difference), np.nan, 0.0), where=sd > 0)
