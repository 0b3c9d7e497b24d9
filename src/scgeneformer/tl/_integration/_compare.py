from __future__ import annotations

import importlib.util
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer.tl._expression import threads_of_torch_kept

from ._baselines import BASELINES, PCA, Place, brought_together, genes_and_components, scvi_latent
from ._batches import categories_of, composition
from ._integrate import points_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

LEAST = 10  # cells of a batch to draw


@checked
def compare_embeddings(
    adata: AnnData | MuData,
    batch_key: str,
    label_key: str,
    *,
    use_reps: Sequence[str] | str | None = None,
    baselines: Sequence[Literal["pca", "hvg", "center", "harmony", "scvi"]] | None = None,
    metrics: Literal["scib", "sklearn"] | None = None,
    layer: str | None = None,
    tokens_key: str = keys.TOKENS,
    max_cells: int = 2000,
    n_repeats: int = 3,
    key_added: str = keys.EMBEDDING_SCORES,
    rng: int = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score how well embeddings preserve labels and mix batches, compared with simple embeddings of the same cells.

    Scores are those of scib-metrics (Luecken 2022) if it is installed (``scgeneformer[metrics]``), else a few by scikit-learn. They depend
    on the number of cells and on the composition of batches, so all embeddings are scored on the same cells, with equal numbers of each batch, in several random
    samples. Scores are not scaled across the embeddings compared. Mixing scores also reward the removal of differences between
    conditions that differ by batch: read them together with label scores.

    Parameters
    ----------
    adata
        Cells with embeddings and the counts that were tokenized. Cells with NaN in one of the embeddings, or without a label, are left
        out for all embeddings.
    batch_key, label_key
        Columns of ``.obs`` with the batch and the label, such as the type, of each cell.
    use_reps
        Slots of ``.obsm`` to compare, for example the latent representation of a classifier; by default ``"X_geneformer"`` and the results of
        :func:`~scgeneformer.tl.integrate` for it.
    baselines
        ``"pca"``: 50 principal components of the 2,000 most variable genes; ``"hvg"``: these genes themselves; ``"center"`` and ``"harmony"``:
        the first of `use_reps` (unless this result exists) and, with ``"pca"``, the components, corrected by centring or by Harmony; ``"scvi"``: scVI on the counts
        of these genes, which takes minutes. By default all but the last, and Harmony only if it is installed.
    metrics
        Library of the scores, see :func:`~scgeneformer.get.embedding_scores`; by default scib-metrics if it is installed.
    layer
        Layer with the counts; by default the one that was tokenized.
    tokens_key
        Slot of the tokens, which records the layer of the counts.
    max_cells
        Maximum number of cells in a sample, the same number from each batch.
    n_repeats
        Number of random samples. A sample holds at most nine tenths of the smallest batch.
    key_added
        Name of the results.
    rng
        Seed for samples, components, Harmony and scVI.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.uns[key_added]["scores"]``, ``.uns[key_added]["spread"]``
        DataFrames with a row per embedding and a column per score: mean and standard deviation over the samples.
    ``.uns[key_added]["composition"]``
        DataFrame with a row per batch, as in :func:`~scgeneformer.tl.integrate`.
    ``.uns[key_added]["params"]``
        Parameters, number of cells in a sample, and of each batch in it.

    Raises
    ------
    ImportError
        If ``"harmony"`` or ``metrics="scib"`` is requested but not installed.
    KeyError
        If an embedding or a column is missing.
    ValueError
        If there is one batch or label, a batch has fewer than ten cells, there are no counts, or a slot holds something other than an earlier
        comparison.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> sg.tl.compare_embeddings(adata, "disease", "cell_type", baselines=["pca"], metrics="sklearn")
    >>> list(adata.uns["embedding_scores"]["scores"].index)
    ['X_geneformer', 'PCA of HVGs']
    """
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    slots.check_free(cells, "tl.compare_embeddings", key_added, [f"uns/{key_added}"])
    named = _named(cells, use_reps)
    wanted = _available(baselines)
    library = _library(metrics)
    points = {name: points_of(cells, name) for name in named}
    labelled = keys.obs_column(data, label_key, mod).notna().to_numpy()
    placed = np.logical_and.reduce([np.isfinite(of_cells).all(axis=1) for of_cells in points.values()])
    rows = np.flatnonzero(placed & labelled)
    batches = categories_of(data, batch_key, mod, rows)
    labels = categories_of(data, label_key, mod, rows)
    batch_codes, label_codes = batches.codes.astype(np.int64), labels.codes.astype(np.int64)
    smallest = int(np.bincount(batch_codes).min())
    if smallest < LEAST:
        name = batches.categories[np.bincount(batch_codes).argmin()]
        msg = f"Batch {str(name)!r} of .obs[{batch_key!r}] has {smallest} cells, but {LEAST} are needed to compare. Leave it out, or merge it with another."
        raise ValueError(msg)
    of_each = max(2, min(max_cells // len(batches.categories), int(0.9 * smallest)))

    start = logg.info(f"comparing embeddings of {len(rows)} cells in {len(batches.categories)} batches")
    compared = {name: of_cells[rows] for name, of_cells in points.items()}
    place = Place(layer, tokens_key)
    columns, genes, components = genes_and_components(cells, rows, batch_codes, place, rng=rng)
    compared |= {PCA: components} if "pca" in wanted else {}
    compared |= {"HVGs": genes} if "hvg" in wanted else {}
    for name, ready in ((named[0], _methods_used(cells, named, batch_key)), (PCA, set())):
        if name in compared:
            compared |= brought_together(name, compared[name], batch_codes, set(wanted) - ready, rng=rng)
    if "scvi" in wanted:
        compared["scVI"] = scvi_latent(cells, rows, columns, batch_codes, place, rng=rng)
    drawings = [_draw(batch_codes, of_each, np.random.default_rng([rng, repeat])) for repeat in range(n_repeats)]
    score = partial(_scores, library=library, rng=rng)
    tables = [
        pd.DataFrame.from_dict(
            {
                name: score(of_cells[drawn], label_codes[drawn], batch_codes[drawn], components[drawn])
                for name, of_cells in compared.items()
            },
            orient="index",
        )
        for drawn in drawings
    ]
    stacked = np.stack([table.to_numpy() for table in tables])
    like = {"index": tables[0].index, "columns": tables[0].columns}
    spread = stacked.std(axis=0, ddof=1) if n_repeats > 1 else np.full(stacked.shape[1:], np.nan)
    slots.write(
        cells,
        "tl.compare_embeddings",
        key_added,
        {},
        batch_key=batch_key,
        label_key=label_key,
        use_reps=tuple(named),
        baselines=tuple(wanted),
        metrics=library,
        n_cells=len(drawings[0]),
        n_cells_of_a_batch=of_each,
        n_repeats=n_repeats,
        rng=rng,
    )
    cells.uns[key_added] |= {
        "scores": pd.DataFrame(stacked.mean(axis=0), **like),
        "spread": pd.DataFrame(spread, **like),
        "composition": composition(batches, labels),
    }
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, scores of embeddings (adata.uns)")
    return data if copy else None


def _named(cells: AnnData, use_reps: Sequence[str] | str | None) -> list[str]:
    """Slots of the embeddings to compare."""
    if use_reps is not None:
        names = [use_reps] if isinstance(use_reps, str) else list(dict.fromkeys(use_reps))
        if not names:
            msg = "use_reps is empty. Name slots of .obsm, or leave it out to compare those of Geneformer."
            raise ValueError(msg)
        return names
    embedding = keys.embedding_key(keys.GENEFORMER)
    made_of_it = [
        name
        for name in cells.obsm
        if cells.uns.get(keys.embedding_name(name), {}).get("params", {}).get("use_rep") == embedding
    ]
    return [embedding, *(name for name in made_of_it if name.startswith(keys.embedding_key("")))]


def _methods_used(cells: AnnData, named: list[str], batch_key: str) -> set[str]:
    """Methods by which :func:`integrate` has made one of the embeddings from the first, as the baselines would: these need no second row."""
    of_all = [cells.uns.get(keys.embedding_name(name), {}).get("params", {}) for name in named]
    alike = {"use_rep": named[0], "batch_key": batch_key, "reference": None}
    return {
        params["method"]
        for params in of_all
        if params.get("method") == "harmony" or (params.get("method") == "center" and params.get("label_key") is None)
        if all(params.get(name) == value for name, value in alike.items())
    }


def _available(baselines: Sequence[str] | None) -> list[str]:
    """Baselines that were asked for, or that can be had without waiting."""
    has_harmony = importlib.util.find_spec("harmonypy") is not None
    if baselines is None:
        if not has_harmony:
            logg.info(
                "Harmony is left out of the comparison: it needs harmonypy (`pip install 'scgeneformer[integrate]'`)."
            )
        return [name for name in BASELINES if name != "scvi" and (has_harmony or name != "harmony")]
    if "harmony" in baselines and not has_harmony:
        msg = "The baseline 'harmony' needs harmonypy. Install it with `pip install 'scgeneformer[integrate]'`, or leave it out."
        raise ImportError(msg)
    return [name for name in BASELINES if name in baselines]


def _library(metrics: str | None) -> str:
    from scgeneformer.evaluation.embeddings import has_scib_metrics

    if metrics is None:
        return "scib" if has_scib_metrics() else "sklearn"
    if metrics == "scib" and not has_scib_metrics():
        msg = "metrics='scib' needs scib-metrics. Install it with `pip install 'scgeneformer[metrics]'`, or use 'sklearn'."
        raise ImportError(msg)
    return metrics


@cache
def _announce_compilation() -> None:
    """Say once why the first scores take longer."""
    logg.info("    scib-metrics compiles its functions on the first call in a session, which can take a minute")


def _draw(batches: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` cells of each batch, in order."""
    drawn = [rng.choice(np.flatnonzero(batches == batch), n, replace=False) for batch in range(batches.max() + 1)]
    return np.sort(np.concatenate(drawn))


@threads_of_torch_kept()
def _scores(
    points: np.ndarray, labels: np.ndarray, batches: np.ndarray, before: np.ndarray, *, library: str, rng: int
) -> Mapping[str, Any]:
    from scgeneformer.evaluation import embeddings

    labels = np.unique(labels, return_inverse=True)[1]  # a label may not have been drawn
    if library == "scib":
        _announce_compilation()
        return embeddings.by_scib_metrics(points, labels, batches, before)
    return embeddings.by_scikit_learn(points, labels, batches, before, rng=rng)
