"""Labels of cells: columns of ``obs`` of an AnnData, or of a MuData and its modalities, registered and predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys, engine
from scgeneformer import _log as logg
from scgeneformer._arguments import checked
from scgeneformer._settings import engine_options
from scgeneformer.evaluation._obs_names import donor_column

from ._calibration import CellAnswer, novelty_of
from ._classifier import Classifier
from .data._fields import (
    LABELS_PREFIX,
    SAMPLE_FIELD,
    TOKENS_FIELD,
    ColumnField,
    LabelsField,
    TokensField,
    kinds_of,
)
from .data._setup import Places, register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

    from .data._cell_labels import CellTask
    from .objectives._cells import CellClassifierModule


class LabelledCells(Classifier):
    """A classifier that predicts columns of ``obs``."""

    module: CellClassifierModule
    tasks: tuple[CellTask, ...]
    temperature_: dict[str, float]
    reference_: dict[str, dict[str, np.ndarray]]

    @classmethod
    @checked
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
            or None. By default ordered categoricals are ordinal, floating-point numbers continuous, and all others categorical. Labels may
            be missing (NaN) in some or all columns.
        sample_key
            Column of ``.obs`` with samples, such as donors: no sample is in two sets of a split. Without it, a warning names a column that
            looks like donors.
        unlabeled_category
            Value for cells without a label, such as ``"unknown"``.
        tokens_key
            Slot of the tokens in ``.obsm``.

        Raises
        ------
        KeyError
            If there are no tokens, or no such column.
        ValueError
            If a column has no labels, only one class, or infinite numbers.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.CellClassifier.setup_anndata(adata, ["disease", "cell_type"], sample_key="donor")
        >>> model = sg.model.CellClassifier(adata, "default")
        >>> [(task.name, task.kind) for task in model.tasks]
        [('disease', 'categorical'), ('cell_type', 'categorical')]
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup_method_args, kwargs)

    @classmethod
    @checked
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
            MuData with tokens in one of its modalities.
        labels_key, sample_key, unlabeled_category, tokens_key
            As in :meth:`setup_anndata`.
        modalities
            Modality of each of ``"tokens_key"`` (default ``"rna"``), ``"labels_key"`` and ``"sample_key"`` (default that of the tokens).
            None is the ``.obs`` of `mdata` itself. Cells are matched by name.

        Raises
        ------
        ValueError
            As in :meth:`setup_anndata`, or if `modalities` has another key.

        Examples
        --------
        >>> from mudata import MuData
        >>> mdata = MuData({"rna": adata})
        >>> sg.pp.tokenize(mdata, "default")
        >>> sg.model.CellClassifier.setup_mudata(mdata, "disease", modalities={"labels_key": "rna"})
        >>> model = sg.model.CellClassifier(mdata, "default")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(mdata, setup_method_args, kwargs)

    @classmethod
    def _set_up(cls, data: AnnData | MuData, setup: dict[str, Any], words: dict[str, Any]) -> None:
        places, given = Places(data, ["tokens_key", "labels_key", "sample_key"], setup), setup["setup_args"]
        fields = [places.field("tokens_key", TokensField, TOKENS_FIELD, given["tokens_key"])]
        kinds = kinds_of(given["labels_key"])
        for name, kind in kinds.items():
            of_labels = LABELS_PREFIX + name, name, kind, given["unlabeled_category"]
            fields.append(places.field("labels_key", LabelsField, *of_labels))
        if given["sample_key"] is not None:
            fields.append(places.field("sample_key", ColumnField, SAMPLE_FIELD, given["sample_key"]))
        register(cls, data, fields, setup, words)
        if given["sample_key"] is not None:
            return
        donor = donor_column(places.cells.obs.drop(columns=list(kinds), errors="ignore"))
        if donor is not None:
            logg.warning(
                f"Cells of one donor are alike. If .obs[{donor!r}] are donors, set up with sample_key={donor!r}: without it, classifiers are "
                "chosen and tested on cells of the donors that they were trained on, which is easier than new donors."
            )

    @checked
    def task(self, name: str | None = None) -> CellTask:
        """The task with this name, or the only one.

        Raises
        ------
        ValueError
            If there is no such task, or there are several and none is named.
        """
        names = [task.name for task in self.tasks]
        if name is None and len(names) == 1:
            return self.tasks[0]
        if name not in names:
            msg = f"task={name!r}: name one of {names}."
            raise ValueError(msg)
        return self.tasks[names.index(name)]

    @checked
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
        return self._samples()

    @checked
    def predict(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        soft: bool = False,
        task: str | None = None,
        calibrated: bool = True,
        **engine_kwargs: Any,
    ) -> np.ndarray | pd.DataFrame:
        """Predict labels of labelled or unlabelled cells.

        Parameters
        ----------
        adata
            Tokenized data. Defaults to the data of this model.
        indices
            Cells, as numbers or as a mask. Defaults to all.
        soft
            Return probabilities of classes. Continuous labels have none.
        task
            Column to predict, if the model learned several.
        calibrated
            Divide the scores of classes by the temperature that fits the validation cells best (Guo 2017). The probability of a class then
            matches its accuracy; the predicted classes do not change.
        **engine_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.classify`. Default to the settings.

        Returns
        -------
        Classes, object (n_cells,), None for cells without tokens; or continuous labels, float64 (n_cells,), NaN for such cells;
        or, if `soft`, probabilities, DataFrame (n_cells, n_classes). In the order of `indices`.

        Raises
        ------
        ValueError
            If the model is not trained, there are several tasks and none is named, or the task has no probabilities.

        Examples
        --------
        `model` is a trained :class:`CellClassifier`.

        >>> sg.pp.tokenize(adata, model.vocabulary)
        >>> adata.obs["disease_predicted"] = model.predict(adata)
        >>> model.predict(adata, soft=True).columns.tolist()
        ['dcm', 'nf']
        """
        self.check_trained()
        target = self.task(task)
        if soft and target.kind == "continuous":
            msg = f"{target.name!r} is continuous and has no probabilities: leave out soft=True."
            raise ValueError(msg)
        tokens = self._read_tokens(adata, indices)
        answer = self._answer(self._classify(tokens, **engine_kwargs).scores, target, calibrated=calibrated)
        if target.kind == "continuous":
            return answer
        if soft:
            return pd.DataFrame(answer, columns=list(target.classes), index=self._names(adata, indices))
        scored = ~np.isnan(answer[:, 0])
        classes = np.full(len(answer), None, dtype=object)
        classes[scored] = np.array(target.classes, dtype=object)[answer[scored].argmax(1)]
        return classes

    @checked
    def answer(self, tokens: np.ndarray, *, task: str | None = None, **engine_kwargs: Any) -> CellAnswer:
        """Predict from tokens, which need not be registered, and compare the cells with the training cells.

        Parameters
        ----------
        tokens
            Of this model's vocabulary, uint16 (n_cells, L), right-padded with 0.
        task, **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        Calibrated probabilities or continuous labels, and how far the cells are from the training cells.

        Raises
        ------
        ValueError
            If a cell has more tokens than the model has positions.
        """
        target, read = self.task(task), self._classify(tokens, **engine_kwargs)
        answer = self._answer(read.scores, target)
        return CellAnswer(answer, *novelty_of(self.reference_.get(target.name), read.states, answer))

    @checked
    def scores(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        task: str | None = None,
        **engine_kwargs: Any,
    ) -> np.ndarray:
        """Scores of cells before they become probabilities: logits, or standardised values.

        Parameters
        ----------
        adata, indices, task, **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        float32 (n_cells, outputs of the task); NaN for cells without tokens.
        """
        target, tokens = self.task(task), self._read_tokens(adata, indices)
        return self._outputs(self._classify(tokens, **engine_kwargs).scores, target)

    def _classify(self, tokens: np.ndarray, **engine_kwargs: Any) -> engine.CellScores:
        self.check_tokens(tokens)
        return engine.classify(self.module.network, tokens, **engine_options(**engine_kwargs))

    def _outputs(self, scores: np.ndarray, target: CellTask) -> np.ndarray:
        first = sum(each.n_outputs for each in self.tasks[: self.tasks.index(target)])
        return scores[:, first : first + target.n_outputs]

    def _answer(self, scores: np.ndarray, target: CellTask, *, calibrated: bool = True) -> np.ndarray:
        temperature = self.temperature_.get(target.name, 1.0) if calibrated else 1.0
        return target.answer(self._outputs(scores, target) / temperature)

    def _latent(
        self, tokens: np.ndarray, pooling: engine.Pooling | None, emb_layer: int | None, **kwargs: Any
    ) -> np.ndarray:
        if pooling is None and emb_layer is None:  # the states that the head reads
            return self._classify(tokens, **kwargs).states
        return super()._latent(tokens, pooling, emb_layer, **kwargs)
