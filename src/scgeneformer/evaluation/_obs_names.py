"""Columns of ``obs`` that are known by their names: donors, and types of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

DONORS = ("donor", "individual", "patient", "subject", "sample", "replicate", "biosample", "mouse", "animal")
TYPES = (
    *(
        "cell_type",
        "celltype",
        "cell_types",
        "cell_ontology_class",
        "author_cell_type",
        "annotation",
        "majority_voting",
    ),
    *("leiden", "louvain", "cluster", "clusters", "seurat_clusters", "seurat_annotations"),
)


def donor_column(obs: pd.DataFrame) -> str | None:
    """First column with the name of donors that tells several from each other, each with several cells."""
    return _first(obs, DONORS)


def type_column(obs: pd.DataFrame) -> str | None:
    """First column with the name of cell types or clusters, of several cells each."""
    return _first(obs, TYPES)


def _first(obs: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    for column in obs:
        if str(column).lower().removesuffix("_id") in names and 1 < obs[column].nunique() <= len(obs) / 2:
            return str(column)
    return None
