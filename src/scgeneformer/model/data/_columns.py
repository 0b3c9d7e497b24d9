"""Columns of ``obs`` as scvi-tools sees them: labels to be learned, and the sample that a cell is from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi.data.fields import BaseAnnDataField, MuDataWrapper

from ._cell_labels import CellTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

LABELS_PREFIX, SAMPLE_FIELD = "labels_", "sample"  # names of fields in the registry


class ColumnField(BaseAnnDataField):
    """A column of ``obs`` that training reads, and that data to be predicted need not have."""

    attr_name = "obs"
    registry_key = attr_key = None  # set by each instance
    is_empty = False

    def __init__(self, registry_key: str, attr_key: str) -> None:
        self.registry_key, self.attr_key = registry_key, attr_key

    def validate_field(self, adata: AnnData) -> None:
        """Check that the column is there."""
        if self.attr_key not in adata.obs:
            msg = f"No column {self.attr_key!r} in .obs, which has {list(adata.obs)}."
            raise KeyError(msg)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Check that the column is there."""
        self.validate_field(adata)
        return {}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Keep what was learned; new data may lack the column."""
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict) -> dict[str, int]:
        """Nothing that sizes of the network depend on."""
        return {}

    def view_state_registry(self, state_registry: dict) -> None:
        """No table."""
        return None


class LabelsField(ColumnField):
    """Labels to be learned; the registry keeps their classes."""

    def __init__(self, registry_key: str, attr_key: str, kind: str | None, unlabeled: str | None) -> None:
        super().__init__(registry_key, attr_key)
        self.kind, self.unlabeled = kind, unlabeled

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Note kind and classes."""
        self.validate_field(adata)
        return CellTask.of(adata.obs[self.attr_key], self.kind, self.unlabeled).state


MuDataLabelsField = MuDataWrapper(LabelsField)
MuDataColumnField = MuDataWrapper(ColumnField)


def kinds_of(labels: str | Sequence[str] | Mapping[str, str | None]) -> dict[str, str | None]:
    """Each column of labels with its kind, None if that is to be told from the column."""
    if isinstance(labels, str):
        return {labels: None}
    return dict(labels) if hasattr(labels, "items") else dict.fromkeys(labels)


def tasks_of(registry: Mapping[str, Any]) -> tuple[CellTask, ...]:
    """The tasks that a registry knows, in the order in which they were set up."""
    fields = registry["field_registries"]
    found = [(key, fields[key]) for key in fields if key.startswith(LABELS_PREFIX)]
    return tuple(CellTask.restored(key.removeprefix(LABELS_PREFIX), field["state_registry"]) for key, field in found)
