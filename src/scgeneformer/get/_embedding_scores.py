"""``get.embedding_scores``: embeddings compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer import _keys
from scgeneformer._arguments import checked

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


@checked
def embedding_scores(
    adata: AnnData | MuData, *, key: str = _keys.EMBEDDING_SCORES, spread: bool = False, mod: str = "rna"
) -> pd.DataFrame:
    """Scores of embeddings for the separation of labels and the mixing of batches, from :func:`~scgeneformer.tl.compare_embeddings`.

    Parameters
    ----------
    adata
        Annotated data with a comparison in ``.uns[key]``.
    key
        Slot of the comparison.
    spread
        Add the standard deviation over random samples of cells, ``<score>_sd``, after each score.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with one row per embedding and one column per score; larger is better. With scib-metrics, scores of labels are ``nmi`` and ``ari``,
    the agreement with k-means clusters; ``isolated_labels``; ``silhouette_label``; and ``clisi``. Scores of batches are ``bras``, a silhouette of
    batches within labels; ``ilisi``; ``kbet``; ``graph_connectivity``; and ``pcr_comparison``, the reduction in the variance explained by batches
    relative to the principal components of the genes. ``bio_conservation`` and ``batch_correction`` summarise the two groups, and ``total`` is
    their mean with weights 0.6 and 0.4. With scikit-learn, scores are ``nmi``, ``ari``, ``silhouette_label``, ``graph_connectivity``,
    ``batch_entropy`` and ``pcr_comparison``.

    Raises
    ------
    KeyError
        If there is no comparison.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> sg.tl.compare_embeddings(adata, "disease", "cell_type", baselines=["pca"], metrics="sklearn")
    >>> list(sg.get.embedding_scores(adata).index)
    ['X_geneformer', 'PCA of HVGs']
    """
    run = _keys.as_adata(adata, mod).uns.get(key, {})
    if "scores" not in run or "spread" not in run:
        msg = (
            f"Did not find .uns[{key!r}]['scores']. Run `sg.tl.compare_embeddings(adata, batch_key, label_key)` first."
        )
        raise KeyError(msg)
    scores = run["scores"]
    if not spread:
        return scores.copy()
    both = scores.join(run["spread"].add_suffix("_sd"))
    return both[[column for name in scores for column in (name, f"{name}_sd")]]
