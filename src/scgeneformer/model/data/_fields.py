"""What is registered of data with scvi-tools: tokens, labels of cells, and the sample of each cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import BaseAnnDataField, ObsmField

from scgeneformer import _keys
from scgeneformer.tokens import read_tokens, token_of, token_params

from ._cell_labels import CellTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scvi.data import AnnDataManager

    from scgeneformer.tokens import Vocabulary


TOKENS_FIELD, LABELS_PREFIX, SAMPLE_FIELD = "tokens", "labels_", "sample"  # names of fields in the registry


class TokensField(ObsmField):
    """Token matrix in ``obsm``: any width is fine, another vocabulary is not.

    scvi-tools' own field for ``obsm`` fixes the number of columns, which for tokens is only the length of the longest cell. This one
    stores name and hash of the vocabulary, and refuses data that were tokenized with another one.
    """

    def __init__(self, registry_key: str, attr_key: str) -> None:
        super().__init__(registry_key, attr_key, correct_data_format=False)

    def validate_field(self, adata: AnnData) -> None:
        """Check that there are tokens of one vocabulary; they are validated when they are read."""
        token_params(adata, self.attr_key)

    def register_field(self, adata: AnnData) -> dict[str, str]:
        """Note the vocabulary."""
        self.validate_field(adata)
        made_with = token_params(adata, self.attr_key)
        return vocabulary_state(str(made_with["vocabulary"]), str(made_with["vocabulary_hash"]))

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, str]:
        """Accept tokens of the same vocabulary only."""
        state = self.register_field(adata_target)
        if state["vocabulary_hash"] != state_registry["vocabulary_hash"]:
            msg = (
                f"The tokens in .obsm[{self.attr_key!r}] were made with vocabulary {state['vocabulary']!r}, but this model "
                f"with {state_registry['vocabulary']!r}. Run `sg.pp.tokenize(adata, model.vocabulary)` first."
            )
            raise ValueError(msg)
        return state

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Nothing that sizes of the network depend on."""
        return {}


def vocabulary_state(name: str, digest: str) -> dict[str, str]:
    """What a registry holds of a vocabulary."""
    return {"vocabulary": name, "vocabulary_hash": digest}


def registry_without_data(
    model_name: str,
    name: str,
    digest: str,
    *,
    setup_args: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The registry that ``setup_anndata`` would have made, for a model that has seen no data yet."""
    tokens = field_registry("obsm", _keys.TOKENS, vocabulary_state(name, digest))
    return {
        "model_name": model_name,
        "setup_method_name": "setup_anndata",
        "setup_args": {"tokens_key": _keys.TOKENS, **(setup_args or {})},
        "field_registries": {TOKENS_FIELD: tokens, **(fields or {})},
    }


def field_registry(slot: str, key: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a registry holds of one field."""
    return {"data_registry": {"attr_name": slot, "attr_key": key}, "state_registry": state, "summary_stats": {}}


def registered_tokens(manager: AnnDataManager, vocabulary: Vocabulary) -> tuple[Any, np.ndarray]:
    """Token matrix of registered data (NumPy or dask), checked, with values if the vocabulary has them, and the length of each row."""
    where = manager.data_registry[TOKENS_FIELD]
    cells = manager.adata if where.get("mod_key") is None else manager.adata[where["mod_key"]]
    tokens = read_tokens(cells, where["attr_key"], vocabulary, model=vocabulary.name)
    return tokens, np.asarray((token_of(tokens) != vocabulary.pad_id).sum(axis=1)).astype(np.int64)


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

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Keep what was learned; new data may lack the column."""
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Nothing that sizes of the network depend on."""
        return {}

    def view_state_registry(self, state_registry: dict[str, Any]) -> None:
        """No table."""
        return None


class LabelsField(ColumnField):
    """Labels to be learned; the registry keeps their classes."""

    def __init__(self, registry_key: str, attr_key: str, kind: str | None, unlabeled_category: str | None) -> None:
        super().__init__(registry_key, attr_key)
        self.kind, self.unlabeled_category = kind, unlabeled_category

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Note kind and classes."""
        self.validate_field(adata)
        return CellTask.of(adata.obs[self.attr_key], self.kind, self.unlabeled_category).state


def kinds_of(labels: str | Sequence[str] | Mapping[str, str | None]) -> dict[str, str | None]:
    """Each column of labels with its kind, None where it follows from the column."""
    if isinstance(labels, str):
        return {labels: None}
    kinds = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(labels)
    if not kinds:
        msg = (
            f"labels_key={labels!r} names no column. Name the columns of .obs to learn, such as labels_key='cell_type'."
        )
        raise ValueError(msg)
    return kinds


def tasks_of(registry: Mapping[str, Any]) -> tuple[CellTask, ...]:
    """The tasks that a registry knows, in the order in which they were set up."""
    fields = registry["field_registries"]
    labels = [(key, fields[key]) for key in fields if key.startswith(LABELS_PREFIX)]
    return tuple(CellTask.restored(key.removeprefix(LABELS_PREFIX), field["state_registry"]) for key, field in labels)
