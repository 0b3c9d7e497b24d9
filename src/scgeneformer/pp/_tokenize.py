from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _log as logg
from scgeneformer import _slots
from scgeneformer._arguments import checked
from scgeneformer._keys import (
    TOKENS,
    as_adata,
    counts_key,
    lengths_key,
    obs_column,
    read_frame,
    token_id_key,
    values_key,
    vocabulary_key,
)
from scgeneformer.tokens import encode, inspect, resolve_genes, vocabulary_column
from scgeneformer.tokens._genes import FEW_COUNTS, FEW_GENES, TOO_FEW_COUNTS

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import GeneMap, Inspection, Vocabulary


@checked
def tokenize(
    adata: AnnData | MuData,
    model: str | Path | Vocabulary | Any = "default",
    *,
    layer: str | None = None,
    gene_ids: str | None = None,
    counts: Literal["raw", "linear", "log1p"] = "raw",
    total_counts: str | None = None,
    keep_counts: bool = False,
    max_length: int | None = None,
    rng: int | None = None,
    key_added: str = TOKENS,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Encode each cell as its expressed genes, ranked by expression relative to their medians in the training corpus of the model.

    The genes of a cell are ordered by count / non-zero median, highest first, as published (Theodoris 2023). Scaling to the total of the cell
    does not change the order and is omitted. Ties are broken by token, so that tokens do not depend on the order of genes in `adata`, the
    type of the matrix or its chunks; in official Geneformer the order of ties depends on the processor. In contrast to official Geneformer, explicit zeros are not
    expressed, counts of genes with the same token are always summed, and no cell is dropped.

    Parameters
    ----------
    adata
        Cells with counts of all genes, not of a selection.
    model
        Model that will read the tokens: its name in :func:`scgeneformer.hub.available`, its folder, or a loaded or trained model; or a
        vocabulary. By default the bundled model. Only models with the same vocabulary can read the tokens.
    layer
        Layer with the counts; ``None`` for ``.X``. An array, CSR, CSC or dask array, or a file, for an AnnData opened by ``backed=`` or
        :func:`anndata.experimental.read_lazy`. It is never made dense as a whole.
    gene_ids
        Column of ``.var`` with Ensembl ids (versions are ignored) or symbols, or ``"var_names"``. By default the column with the most genes
        of the vocabulary. Genes without a name in this column are named by ``var_names`` or another column of the same genes, see
        :func:`scgeneformer.tokens.resolve_genes`.
    counts
        ``"raw"`` for counts, integers or not; an error is raised if they look log-normalised. ``"log1p"`` for log(x + 1), which is undone,
        to the base in ``.uns["log1p"]`` or e; equal counts that differ by rounding of the logarithm are then not ties. ``"linear"`` for
        other values that are proportional to counts in each cell, without a check.
    total_counts
        Column of ``.obs`` with total counts of cells, for `keep_counts` (the official ``n_counts``) and for the depth that CellFM reads; for MuData, also of the MuData
        itself or of another modality (``"prot:n_counts"``). By default the sums of all genes.
    keep_counts
        Also write the counts, scaled to 10,000 per cell, in the order of the tokens.
    max_length
        Maximum number of tokens per cell, special tokens included; by default the model's. The genes of lowest rank are left out.
    rng
        Seed for sampling genes in proportion to their values if a cell has too many, as in the training of CellFM;
        ``None`` takes the highest values. Only for models that read values.
    key_added
        Name of the slots in ``.obsm`` and ``.uns``. A name other than the default also prefixes the columns below, so that tokens of
        several vocabularies can be stored together.
    mod
        Modality with the counts, for MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.obsm[key_added]``
        uint16 of shape (n_obs, `max_length`): tokens, special tokens of the model included (V2), right-padded with 0. A dask array if the
        counts are a dask array or in a file: the counts are read once by this call, for checks and lengths, and once when the tokens are computed,
        chunk by chunk.
    ``.obsm[f"{key_added}_counts"]``
        float32 of the same shape, if `keep_counts`: counts per 10,000 of each token's gene, 0 elsewhere.
    ``.obsm[f"{key_added}_values"]``
        float32 of the same shape, for models that read values (CellFM): log1p of counts per 10,000 counts of genes in the vocabulary;
        at ``<cls>``, log1p of total counts over 1,000. Perturbations by a factor need it.
    ``.obs["n_tokens"]``
        int32: number of tokens of each cell, special tokens included; 0 (V1), 1 (CellFM) or 2 (V2) for cells without genes of the vocabulary.
    ``.obs["token_vocabulary"]``
        Categorical: ``"<name>:<hash>"`` of the vocabulary. Unlike ``.uns``, it is kept by concatenation.
    ``.var["token_id"]``
        int32: token of each gene, -1 if it is not in the vocabulary.
    ``.uns[key_added]["params"]``
        Model, where it has a name or folder, name and hash of the vocabulary, and the parameters.
    ``.uns[key_added]["coverage"]``
        Numbers of genes (``n_genes``), of genes in the vocabulary (``n_mapped``), of these named by id (``n_by_id``), named by another column
        (``n_by_fallback``) or sharing a token (``n_duplicates``), and of cells without such genes (``n_empty_cells``). Fractions of the genes
        (``fraction_genes``) and of the counts (``fraction_counts``) that are in the vocabulary, and of the vocabulary that is in the data (``fraction_vocabulary``).

    Raises
    ------
    KeyError
        If a layer, column or modality does not exist.
    ValueError
        If values are negative, NaN, infinite, look log-normalised, or are square roots, ranks or binary, if genes of the vocabulary have less than 5 % of the counts, or if a
        slot holds something other than earlier tokens. Nothing is written then.

    Warns
    -----
    UserWarning
        If integers do not look like counts; if columns of ids disagree, or symbols are those of mouse genes; if genes of the vocabulary have less than half of the counts; if cells have no gene of the vocabulary; or if `adata` has less than a
        quarter of the vocabulary's genes, as after a selection of highly variable genes or with a targeted panel. Data of the whole
        transcriptome have more, even without rarely detected genes: 44 % of V1 and 59 % of V2 for 13,714 genes of 2,638 blood cells,
        31 % and 40 % for 8,595 genes of 385 cells.

    Notes
    -----
    Tokens have the same width for all cells of a vocabulary, so that :func:`anndata.concat` keeps all of them. They take 2 bytes x
    `max_length` per cell in memory: 8 kB for V2, 4 kB for V1, 2 kB for the bundled model, and three times that with `keep_counts`. If your
    cells have fewer genes, a smaller `max_length` saves memory without loss as long as no ``.obs["n_tokens"]`` reaches it; use the same
    for all data to be concatenated. Padding compresses well: V2 tokens of blood cells with 800 genes take 1.6 kB per cell in an h5ad
    file written with ``compression="gzip"``, and 1.7 kB in zarr, which is compressed by default.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> adata.obsm["geneformer_tokens"].shape
    (32, 1024)
    >>> adata.uns["geneformer_tokens"]["coverage"]["n_mapped"]
    40
    """
    from scgeneformer import hub
    from scgeneformer.hub._available import name_of

    start = logg.info("tokenizing cells")
    data = adata.copy() if copy else adata
    adata = as_adata(data, mod)
    slots = [f"obsm/{key_added}", f"obs/{lengths_key(key_added)}", f"obs/{vocabulary_key(key_added)}"]
    slots += [f"var/{token_id_key(key_added)}"]
    slots += [f"obsm/{counts_key(key_added)}"] if keep_counts else []
    _slots.check_free(adata, "pp.tokenize", key_added, [*slots, f"uns/{key_added}"])
    vocabulary, model_name = hub.vocabulary(model), name_of(model)
    if vocabulary.values:
        slots += [f"obsm/{values_key(key_added)}"]
        _slots.check_free(adata, "pp.tokenize", key_added, slots)
    X, slot = _matrix(adata, layer)
    totals = None if total_counts is None else _totals(obs_column(data, total_counts, mod))
    log_base = adata.uns.get("log1p", {}).get("base") if counts == "log1p" else None

    genes = resolve_genes(read_frame(adata.var), vocabulary, gene_ids=gene_ids)
    inspection = inspect(X, genes.token_id, counts=counts, log_base=log_base, slot=slot)
    coverage = _coverage(adata, genes, inspection, vocabulary)
    if counts == "raw" and inspection.doubts is not None:
        msg = f"{slot} seems not to hold counts: {inspection.doubts}. If it does not, set `layer=` to a layer with raw counts."
        warnings.warn(msg, UserWarning, stacklevel=3)
    for doubt in genes.doubts:
        warnings.warn(doubt, UserWarning, stacklevel=3)
    if vocabulary.values and counts != "raw" and totals is None:
        msg = f"counts={counts!r} do not tell how deeply cells were sequenced, which a model with values may read. Pass their total counts as `total_counts=`."
        warnings.warn(msg, UserWarning, stacklevel=3)
    encoded = encode(
        X,
        genes.token_id,
        vocabulary,
        counts=counts,
        log_base=log_base,
        max_length=max_length,
        total_counts=totals,
        keep_counts=keep_counts,
        seed=rng,
        inspection=inspection,
        slot=slot,
    )

    values = [encoded.tokens, encoded.lengths, vocabulary_column(vocabulary, adata.n_obs), genes.token_id]
    values += [part for part in (encoded.counts, encoded.values) if part is not None]
    _slots.write(
        adata,
        "pp.tokenize",
        key_added,
        dict(zip(slots, values, strict=True)),
        model=model_name,
        vocabulary=vocabulary.name,
        vocabulary_hash=vocabulary.hash,
        max_length=max_length or vocabulary.max_length,
        counts=counts,
        layer=layer,
        gene_ids=genes.source,
        total_counts=total_counts,
        rng=rng,
        special_tokens=vocabulary.n_enclosing > 0,
    )
    adata.uns[key_added]["coverage"] = coverage
    logg.info(
        "    finished",
        time=start,
        deep=f"added\n    {key_added!r}, tokens (adata.obsm)\n    {lengths_key(key_added)!r} and {vocabulary_key(key_added)!r}, lengths and vocabulary (adata.obs)\n"
        f"    {token_id_key(key_added)!r}, tokens of genes (adata.var)\n    {key_added!r}, parameters and coverage (adata.uns)",
    )
    return data if copy else None


def _matrix(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    if layer is None:
        if adata.X is None:
            msg = "There is no .X. Set `layer=` to the layer with raw counts."
            raise ValueError(msg)
        return adata.X, ".X"
    if layer not in adata.layers:
        msg = f"No layer {layer!r} in .layers, which has {[name for name in adata.layers if name is not None]}."
        raise KeyError(msg)
    return adata.layers[layer], f".layers[{layer!r}]"


def _totals(column: pd.Series) -> np.ndarray:
    """Total counts of cells, float64 (n_obs,)."""
    if column.dtype.kind not in "iuf":
        msg = f"total_counts={column.name!r} names a column of .obs of {column.dtype}, not of numbers."
        raise TypeError(msg)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _coverage(adata: AnnData, genes: GeneMap, inspection: Inspection, vocabulary: Vocabulary) -> dict[str, Any]:
    """Shares of genes and counts that are in the vocabulary, for ``.uns``; raises if they are too low and warns if they are low."""
    by_gene = genes.n_mapped / max(1, adata.n_vars)
    fraction = inspection.fraction_mapped
    fraction = by_gene if np.isnan(fraction) else fraction
    if genes.n_mapped == 0 or fraction < TOO_FEW_COUNTS:
        var_names = ", ".join(map(repr, adata.var_names[:3].astype(str)))
        ids = ", ".join(map(repr, vocabulary.ids[vocabulary.n_special :][:2].tolist()))
        symbols = "" if vocabulary.symbols is None else ", or symbols such as " + _examples(vocabulary.symbols)
        msg = (
            f"Genes of vocabulary {vocabulary.name!r} have {fraction:.1%} of the counts ({genes.n_mapped:,} of "
            f"{adata.n_vars:,} genes, named by {genes.source}). Found .var_names such as {var_names}; expected ids "
            f"such as {ids}{symbols}. Set `gene_ids=` to the column of .var that has them."
        )
        raise ValueError(msg)
    if fraction < FEW_COUNTS:
        msg = (
            f"Genes of vocabulary {vocabulary.name!r} have only {fraction:.1%} of the counts ({genes.n_mapped:,} of "
            f"{adata.n_vars:,} genes, named by {genes.source}); the rest is left out. See .uns[...]['coverage']; or "
            "set `gene_ids=` to another column."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    of_vocabulary = (genes.n_mapped - genes.n_duplicates) / (len(vocabulary) - vocabulary.n_special)
    if of_vocabulary < FEW_GENES and adata.n_obs:
        raw = adata.raw
        cure = "Tokenize the matrix of all genes before you select highly variable ones."
        if raw is not None and raw.n_vars > adata.n_vars:
            cure = f"Tokenize all {raw.n_vars:,} genes, `adata.raw.to_adata()`, before you select highly variable ones."
        msg = (
            f".var has {of_vocabulary:.1%} of the {len(vocabulary) - vocabulary.n_special:,} genes of vocabulary {vocabulary.name!r}, and cells "
            f"have {np.median(inspection.n_genes):.0f} of them (median), but the model was trained on the ranks of all expressed genes. {cure} "
            "If a targeted panel measured no others, compare results only between cells of this panel."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    n_empty = int((inspection.n_genes == 0).sum())
    if n_empty:
        msg = f"{n_empty:,} of {adata.n_obs:,} cells have no gene of the vocabulary. They have special tokens only, or none."
        warnings.warn(msg, UserWarning, stacklevel=4)
    return {
        "n_genes": adata.n_vars,
        "n_mapped": genes.n_mapped,
        "n_by_id": genes.n_exact,
        "n_by_fallback": genes.n_fallback,
        "n_duplicates": genes.n_duplicates,
        "fraction_genes": by_gene,
        "fraction_vocabulary": of_vocabulary,
        "fraction_counts": fraction,
        "n_empty_cells": n_empty,
    }


def _examples(symbols: np.ndarray) -> str:
    return ", ".join(map(repr, symbols[symbols != ""][:2].tolist()))
