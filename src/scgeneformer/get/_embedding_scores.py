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
    """How well embeddings keep labels together and mix batches, from :func:`~scgeneformer.tl.compare_embeddings`.

    Parameters
    ----------
    adata
        Annotated data with a comparison in ``.uns[key]``.
    key
        Slot of the comparison.
    spread
        Put the standard deviation over drawings of cells, ``<score>_sd``, behind each score.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with one row per embedding and one column per score, larger is better. By scib-metrics, of labels: ``nmi`` and ``ari``, agreement
    with clusters by k-means; ``isolated_labels``; ``silhouette_label``; ``clisi``. Of batches: ``bras``, a silhouette of batches within labels;
    ``ilisi``; ``kbet``; ``graph_connectivity``; ``pcr_comparison``, how much less variance batches explain than in the principal components of the
    genes. And ``bio_conservation``, ``batch_correction``, ``total``, six tenths of the one and four of the other. By scikit-learn: ``nmi``,
    ``ari``, ``silhouette_label``, ``graph_connectivity``, ``batch_entropy``, ``pcr_comparison``.

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
