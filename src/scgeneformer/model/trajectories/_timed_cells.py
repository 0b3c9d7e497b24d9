"""Registration of tokenized cells with times, and reading them from the training data or a query."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys
from scgeneformer._arguments import checked
from scgeneformer.model._base import TransformerModel
from scgeneformer.model.data._fields import SAMPLE_FIELD, TOKENS_FIELD, ColumnField, TokensField
from scgeneformer.model.data._gene_labels import few
from scgeneformer.model.data._setup import Places, register

from ._draw import TimedCells
from ._queries import Queries
from ._times import TimeField, check_groups, read_groups, read_times, to_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

TIME_FIELD, GROUP_PREFIX = "time", "group_"


class TimedCellsModel(TransformerModel):
    """A model that reads tokens of cells, and their times and groups."""

    @classmethod
    @checked
    def setup_anndata(
        cls,
        adata: AnnData,
        time_key: str,
        *,
        time_step: float = 1.0,
        group_keys: str | Sequence[str] = (),
        sample_key: str | None = None,
        tokens_key: str = _keys.TOKENS,
        **kwargs: Any,
    ) -> None:
        """Register tokenized cells of several times with this model class.

        Parameters
        ----------
        adata
            AnnData with tokens of :func:`scgeneformer.pp.tokenize`, of a vocabulary with ``<cls>`` and ``<eos>``.
        time_key
            Column of ``.obs`` with times: numbers in any unit, such as days, or ages in years.
        time_step
            Length of a step in that unit. Times are rounded to whole steps, and every number of steps between two cells is a token.
        group_keys
            Columns of ``.obs`` in which all cells of a trajectory agree, such as cell type, sex or donor. Without the donor, trajectories
            are those of a population.
        sample_key
            Column of ``.obs`` with samples, such as donors: no sample is in two sets of a split.
        tokens_key
            Slot of the tokens in ``.obsm``.

        Raises
        ------
        KeyError
            If there are no tokens, or no such column.
        TypeError
            If times are not numbers.
        ValueError
            If times or groups are missing, or all times are within one step or too many steps apart.

        Examples
        --------
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day", group_keys="cell_type", sample_key="donor")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup_method_args, kwargs)

    @classmethod
    @checked
    def setup_mudata(
        cls,
        mdata: MuData,
        time_key: str,
        *,
        time_step: float = 1.0,
        group_keys: str | Sequence[str] = (),
        sample_key: str | None = None,
        tokens_key: str = _keys.TOKENS,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the tokenized modality of a MuData, whose ``.obs`` has all columns, with this model class.

        Parameters
        ----------
        mdata
            MuData with tokens in one of its modalities.
        time_key, time_step, group_keys, sample_key, tokens_key
            As in :meth:`setup_anndata`.
        modalities
            Modality of the tokens. Defaults to ``{"tokens_key": "rna"}``.

        Examples
        --------
        >>> from mudata import MuData
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> mdata = MuData({"rna": adata})
        >>> sg.pp.tokenize(mdata, "default")
        >>> sg.model.TrajectoryModel.setup_mudata(mdata, "day", sample_key="donor")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(mdata, setup_method_args, kwargs)

    @classmethod
    def _set_up(cls, data: AnnData | MuData, setup: dict[str, Any], words: dict[str, Any]) -> None:
        key = "tokens_key"  # whose modality has all columns
        places, given = Places(data, [key], setup), setup["setup_args"]
        groups, samples = _listed(given["group_keys"]), _listed(given["sample_key"] or ())
        _check_columns(places.cells, [given["time_key"], *groups, *samples])
        read_groups([places.cells.obs[name] for name in groups], places.cells.n_obs)
        fields = [
            places.field(key, TokensField, TOKENS_FIELD, given["tokens_key"]),
            places.field(key, TimeField, TIME_FIELD, given["time_key"], given["time_step"]),
        ]
        fields += [places.field(key, ColumnField, GROUP_PREFIX + name, name) for name in groups]
        fields += [places.field(key, ColumnField, SAMPLE_FIELD, name) for name in samples]
        register(cls, data, fields, setup, words)

    @property
    def time_step(self) -> float:
        """Length of a step in the unit of the times."""
        return float(self.registry["setup_args"]["time_step"])

    @property
    def _time_key(self) -> str:
        return self.registry["setup_args"]["time_key"]

    @property
    def _tokens_key(self) -> str:
        return self.registry["setup_args"]["tokens_key"]

    @property
    def _group_keys(self) -> list[str]:
        return _listed(self.registry["setup_args"]["group_keys"])

    @property
    def _times(self) -> dict[str, Any]:
        """First time and number of steps of the data that the model was set up with."""
        return self.registry["field_registries"][TIME_FIELD]["state_registry"]

    def _time(self, steps: np.ndarray) -> np.ndarray:
        """Times of numbers of steps."""
        return self._times["first"] + self.time_step * steps

    def _steps(self, adata: AnnData) -> np.ndarray:
        """Times of cells as steps, int64 (n_obs,)."""
        _check_columns(adata, [self._time_key])
        times, n_steps = read_times(adata.obs[self._time_key]), self._times["n_steps"]
        steps = to_steps(times, self._times["first"], self.time_step)
        if (steps < 0).any() or (steps > n_steps).any():
            first, last = self._time(np.array([0, n_steps]))
            msg = (
                f".obs[{self._time_key!r}] has times from {times.min():g} to {times.max():g}, but this model was set "
                f"up with {first:g} to {last:g}. Make a new model of all cells."
            )
            raise ValueError(msg)
        return steps

    def _names_hash(self) -> str:
        """Hash of the names of the cells of this model."""
        return hashlib.sha256("\n".join(map(str, self._cells().obs_names)).encode()).hexdigest()

    def _group_names(self, adata: AnnData) -> pd.Series:
        _check_columns(adata, self._group_keys)
        return read_groups([adata.obs[name] for name in self._group_keys], adata.n_obs)

    def _data_of(self, adata: AnnData | MuData | None) -> AnnData:
        """The cells with tokens of `adata`, or of the data of this model."""
        mod = self.adata_manager.data_registry[TOKENS_FIELD].get("mod_key")
        return self._cells() if adata is None else adata if mod is None else _keys.as_adata(adata, mod)

    def _timed_cells(self, n_times: int) -> TimedCells:
        """Times and groups of the data of this model, each group with cells of at least `n_times` times."""
        steps, names = self._steps(self._cells()), self._group_names(self._cells())
        check_groups(steps, names, n_times, self._group_keys, self._time_key)
        return TimedCells(steps, pd.factorize(names, sort=True)[0])

    def _query_groups(self, adata: AnnData) -> np.ndarray:
        """Groups of cells by the numbers that those of the data of this model have, int64 (n_obs,)."""
        known = np.unique(self._group_names(self._cells()).to_numpy(dtype=str))
        names = self._group_names(adata).to_numpy(dtype=str)
        groups = pd.Index(known).get_indexer(names)
        if (groups < 0).any():
            unknown = pd.unique(names[groups < 0])
            msg = (
                f"The data of this model have no cells of these groups of .obs[{self._group_keys}]: {few(unknown)}. Cells of a group are "
                "compared with others of it at known times: leave them out, or make a model of data that have such cells."
            )
            raise ValueError(msg)
        return groups

    def _queries(self, adata: AnnData | MuData | None, indices: Any) -> Queries:
        """Cells that questions are asked about; those with the names of cells of this model are taken for these."""
        data, names = self._data_of(adata), self._cells().obs_names
        keys = np.arange(data.n_obs) if indices is None else np.arange(data.n_obs)[np.asarray(indices)]
        rows = names.get_indexer(data.obs_names) if names.is_unique else np.full(data.n_obs, -1)
        matrix = self._read_tokens(adata, keys)
        return Queries(matrix, self._query_groups(data)[keys], rows[keys], keys)


def _check_columns(adata: AnnData, names: Sequence[str]) -> None:
    for name in names:
        if name not in adata.obs:
            msg = f"No column {name!r} in .obs, which has {list(adata.obs)}. Add it, or set up the data with another column."
            raise KeyError(msg)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
