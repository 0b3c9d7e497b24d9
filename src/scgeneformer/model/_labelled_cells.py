"""Registration of labels of cells: columns of ``obs`` of an AnnData, or of a MuData and its modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys

from ._classifier import Classifier
from .data._fields import (
    LABELS_PREFIX,
    SAMPLE_FIELD,
    TOKENS_FIELD,
    ColumnField,
    LabelsField,
    MuDataColumnField,
    MuDataLabelsField,
    MuDataTokensField,
    TokensField,
    kinds_of,
    modality_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from scvi.data.fields import BaseAnnDataField

    from .data._cell_labels import CellTask


class LabelledCells(Classifier):
    """A classifier whose targets are columns of ``obs``."""

    tasks: tuple[CellTask, ...]

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str | Sequence[str] | Mapping[str, str | None],
        *,
        sample_key: str | None = None,
        unlabeled_category: str | None = None,
        tokens_key: str = _keys.TOKENS,
        **kwargs: Any,
    ) -> None:
        """Register tokenized and labelled data with this model class.

        Parameters
        ----------
        adata
            AnnData with tokens of :func:`scgeneformer.pp.tokenize`.
        labels_key
            Columns of ``.obs`` to learn: one, several, or a mapping from columns to ``"categorical"``, ``"ordinal"``, ``"continuous"``
            or None. By default ordered categoricals are ordinal, floating numbers continuous, all others categorical. Labels may be
            missing (NaN), in some columns or all.
        sample_key
            Column of ``.obs`` that groups cells, such as donors: no sample is in two sets of a split.
        unlabeled_category
            A value of the labels that means that a cell has none, such as ``"unknown"``.
        tokens_key
            Name of the tokens in ``.obsm``.

        Raises
        ------
        KeyError
            If there are no tokens, or no such column.
        ValueError
            If a column has no labels, one class only, or infinite numbers.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        fields: list[BaseAnnDataField] = [TokensField(TOKENS_FIELD, tokens_key)]
        for name, kind in kinds_of(labels_key).items():
            fields.append(LabelsField(LABELS_PREFIX + name, name, kind, unlabeled_category))
        fields += [] if sample_key is None else [ColumnField(SAMPLE_FIELD, sample_key)]
        cls._register(adata, fields, setup_method_args, **kwargs)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        labels_key: str | Sequence[str] | Mapping[str, str | None],
        *,
        sample_key: str | None = None,
        unlabeled_category: str | None = None,
        tokens_key: str = _keys.TOKENS,
        modalities: Mapping[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the tokens of a MuData, and labels of any of its modalities, with this model class.

        Parameters
        ----------
        mdata
            MuData of which one modality has tokens.
        labels_key, sample_key, unlabeled_category, tokens_key
            As in :meth:`setup_anndata`.
        modalities
            Modality of ``"tokens_key"``, by default ``"rna"``, of ``"labels_key"`` and of ``"sample_key"``, by default that of the tokens.
            None is the ``.obs`` of `mdata` itself. Cells are matched by name.

        Raises
        ------
        ValueError
            As in :meth:`setup_anndata`, or if `modalities` has another name.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        mod = modality_of(modalities, ["tokens_key", "labels_key", "sample_key"])
        where = {key: {"mod_key": name, "mod_required": name is not None} for key, name in mod.items()}
        fields: list[BaseAnnDataField] = [MuDataTokensField(TOKENS_FIELD, tokens_key, **where["tokens_key"])]
        for name, kind in kinds_of(labels_key).items():
            fields.append(
                MuDataLabelsField(LABELS_PREFIX + name, name, kind, unlabeled_category, **where["labels_key"])
            )
        fields += [] if sample_key is None else [MuDataColumnField(SAMPLE_FIELD, sample_key, **where["sample_key"])]
        cls._register(mdata, fields, setup_method_args, **kwargs)

    def task(self, name: str | None = None) -> CellTask:
        """The task of this name, or the only one.

        Raises
        ------
        ValueError
            If there are several and none is named, or none has this name.
        """
        names = [task.name for task in self.tasks]
        if name is None and len(names) == 1:
            return self.tasks[0]
        if name not in names:
            msg = f"task={name!r}: name one of {names}."
            raise ValueError(msg)
        return self.tasks[names.index(name)]

    def labels(self, adata: AnnData | None = None) -> np.ndarray:
        """Labels of cells as numbers: codes of classes, standardised values, NaN where missing; float32 (n_obs, tasks).

        Parameters
        ----------
        adata
            Data with the columns of the tasks. Defaults to the data of this model.
        """
        unlabeled = self.registry["setup_args"].get("unlabeled_category")
        columns = [self._column(LABELS_PREFIX + t.name) if adata is None else adata.obs[t.name] for t in self.tasks]
        return np.stack([task.encode(column, unlabeled) for task, column in zip(self.tasks, columns, strict=True)], 1)

    def samples(self) -> np.ndarray | None:
        """Sample of each cell, or None if the data were set up without samples."""
        registered = SAMPLE_FIELD in self.adata_manager.data_registry
        return self._column(SAMPLE_FIELD).to_numpy() if registered else None

    def _column(self, field: str) -> pd.Series:
        """A registered column of ``obs``, in the order of the tokenized cells."""
        where = self.adata_manager.data_registry[field]
        mod = where.get("mod_key")
        data = self.adata if mod is None else self.adata[mod]
        return data.obs[where["attr_key"]].reindex(self._cells().obs_names)
