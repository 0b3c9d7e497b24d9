"""Baseline embeddings of a comparison: genes, their principal components, integrated batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from scgeneformer import stats
from scgeneformer.tl._expression import counts_of, log_profile, threads_of_torch_kept

if TYPE_CHECKING:
    from collections.abc import Collection

    from anndata import AnnData

N_GENES, N_COMPONENTS = 2000, 50
BASELINES = ("pca", "hvg", "center", "harmony", "scvi")
PCA = "PCA of HVGs"
CURE = "Set `layer=` to the one with counts, or leave baselines out: `baselines=[]`."


class Place(NamedTuple):
    """Where the counts are: a layer, None for where the tokens came from, and the slot of the tokens, which tells where that is."""

    layer: str | None
    tokens_key: str


@threads_of_torch_kept()
def genes_and_components(
    cells: AnnData, rows: np.ndarray, batches: np.ndarray, place: Place, *, rng: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most variable genes, chosen within batches.

    Returns
    -------
    Their columns in `cells`; their log1p of counts per 10,000, and the principal components of these, both float32 (n_rows, ...).
    """
    import scanpy as sc

    profile = log_profile(cells, rows, layer=place.layer, tokens_key=place.tokens_key, cure=CURE)
    profile.var["column"] = np.arange(profile.n_vars)
    sc.pp.filter_genes(profile, min_cells=max(3, len(rows) // 1000))
    if profile.n_vars > N_GENES:
        profile.obs["batch"] = batches.astype(str)
        sc.pp.highly_variable_genes(profile, n_top_genes=N_GENES, flavor="seurat", batch_key="batch")
        profile = profile[:, profile.var["highly_variable"].to_numpy()].copy()
    n_components = min(N_COMPONENTS, profile.n_obs - 1, profile.n_vars - 1)
    sc.pp.pca(profile, n_comps=n_components, random_state=rng)
    genes = profile.X.toarray() if sparse.issparse(profile.X) else profile.X
    components = np.asarray(profile.obsm["X_pca"], dtype=np.float32)
    return profile.var["column"].to_numpy(), genes.astype(np.float32), components


def scvi_latent(
    cells: AnnData, rows: np.ndarray, columns: np.ndarray, batches: np.ndarray, place: Place, *, rng: int
) -> np.ndarray:
    """Latent space of an scVI of the counts of some genes, with its defaults, float32 (n_rows, 10)."""
    from scgeneformer.model._baselines import scvi_latent

    counts = counts_of(cells, rows, layer=place.layer, tokens_key=place.tokens_key, cure=CURE)
    return scvi_latent(counts[:, columns], batches, rng=rng)


def brought_together(
    name: str, points: np.ndarray, batches: np.ndarray, wanted: Collection[str], *, rng: int
) -> dict[str, np.ndarray]:
    """An embedding centred by batch, or moved by Harmony, under its name with ``", centred"`` or ``", Harmony"``."""
    moved = {}
    if "center" in wanted:
        moved[f"{name}, centred"] = stats.center(points, batches)
    if "harmony" in wanted:
        with threads_of_torch_kept():
            moved[f"{name}, Harmony"] = stats.harmonise(points, batches, rng=np.random.default_rng(rng))
    return moved
