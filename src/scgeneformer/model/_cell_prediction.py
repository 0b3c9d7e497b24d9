"""What a classifier says of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from scgeneformer import engine

from ._representation import settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from .data._cell_labels import CellTask


class CellPredictionMixin:
    """Gives a classifier of cells its predictions."""

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
        """Predict labels of cells, labelled or not.

        Parameters
        ----------
        adata
            Tokenized data; None for those of this model.
        indices
            Cells, as numbers or as a mask; None for all.
        soft
            Return probabilities of classes. Continuous labels have none.
        task
            Which column, where several are learned.
        calibrated
            Divide the scores of categories by the temperature that fits the validation cells best (Guo 2017): probabilities then are as
            often right as they say, and predictions are the same.
        **engine_kwargs
            `device`, `precision`, `token_budget`, `progress` of :func:`scgeneformer.engine.classify`.

        Returns
        -------
        Classes, object (n_cells,), None for cells without tokens; or continuous labels, float64 (n_cells,), NaN for such cells;
        or if `soft` probabilities, DataFrame (n_cells, n_classes). In the order of `indices`.

        Raises
        ------
        ValueError
            If the task is not named where there are several, or has no probabilities.
        """
        asked = self.task(task)
        if soft and asked.kind == "continuous":
            msg = f"{asked.name!r} is continuous and has no probabilities: leave out soft=True."
            raise ValueError(msg)
        tokens = self._read_tokens(adata, indices)
        answer = self.answer(tokens, task=asked.name, calibrated=calibrated, **engine_kwargs)
        if asked.kind == "continuous":
            return answer
        if soft:
            return pd.DataFrame(answer, columns=list(asked.classes), index=self._names(adata, indices))
        there = ~np.isnan(answer[:, 0])
        found = np.full(len(answer), None, dtype=object)
        found[there] = np.array(asked.classes, dtype=object)[answer[there].argmax(1)]
        return found

    def answer(
        self, tokens: np.ndarray, *, task: str | None = None, calibrated: bool = True, **engine_kwargs: Any
    ) -> np.ndarray:
        """What :meth:`predict` says, of tokens that need not be registered.

        Parameters
        ----------
        tokens
            Of this model's vocabulary, uint16 (n_cells, L), right-padded with 0.
        task, calibrated, **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        Probabilities of classes, float64 (n_cells, n_classes), or continuous labels, float64 (n_cells,). NaN for cells without tokens.

        Raises
        ------
        ValueError
            If a cell has more tokens than the model has positions.
        """
        asked = self.task(task)
        scores = self._scores(tokens, asked, **engine_kwargs)
        if asked.kind == "continuous":
            return scores[:, 0].astype(np.float64) * asked.sd + asked.mean
        temperature = self.temperature_.get(asked.name, 1.0) if calibrated else 1.0
        return asked.log_proba(torch.from_numpy(scores / temperature).double()).exp().numpy()

    def scores(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        task: str | None = None,
        **engine_kwargs: Any,
    ) -> np.ndarray:
        """What the network says of cells before it becomes probabilities: logits, or standardised values.

        Parameters
        ----------
        adata, indices, task, **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        float32 (n_cells, outputs of the task); NaN for cells without tokens.
        """
        return self._scores(self._read_tokens(adata, indices), self.task(task), **engine_kwargs)

    def _scores(self, tokens: np.ndarray, asked: CellTask, **engine_kwargs: Any) -> np.ndarray:
        self._check_lengths(int(engine.row_lengths(tokens).max(initial=0)))
        before = sum(each.n_outputs for each in self.tasks[: self.tasks.index(asked)])
        found = engine.classify(self.module.network, tokens, **settled(engine_kwargs))
        return found[:, before : before + asked.n_outputs]

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        pooling: Literal["mean", "cls"] | None = None,
        emb_layer: int | None = None,
        **engine_kwargs: Any,
    ) -> np.ndarray:
        """Embed cells: by default as the classifier reads them, or in any way that :meth:`Geneformer.get_latent_representation` can.

        Parameters
        ----------
        adata, indices
            As in :meth:`predict`.
        pooling, emb_layer
            As of a :class:`Geneformer`; None and None for the state that the classifier reads, in the last layer.
        **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        float32 (n_cells, width), cells in the order of `indices`.
        """
        if pooling is not None or emb_layer is not None:
            return super().get_latent_representation(
                adata, indices, pooling=pooling, emb_layer=emb_layer, **engine_kwargs
            )
        tokens = self._read_tokens(adata, indices)
        return engine.classify(self.module.network, tokens, pooled=True, **settled(engine_kwargs))

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

    def _names(self, adata: AnnData | MuData | None, indices: Any) -> pd.Index:
        names = (self.adata if adata is None else adata).obs_names
        return names if indices is None else names[np.asarray(indices)]
