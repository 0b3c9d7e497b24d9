"""Registration of labelled counts or embeddings, and reading them from the training data or a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField, LayerField, ObsmField

from scgeneformer import _keys
from scgeneformer._arguments import checked
from scgeneformer._slots import check_alike, provenance
from scgeneformer.model._savable import SavableModel
from scgeneformer.model.data._gene_labels import few
from scgeneformer.model.data._setup import Places, check_setup_words, register

from ._data import aligned, check_labels, read_counts, read_labels, read_placed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData


class LabelledInput(SavableModel):
    """A model of labelled cells, given as counts or as an embedding."""

    embedding_: dict[str, Any]  # how that of the training data was made

    @classmethod
    @checked
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        labels_key: str,
        layer: str | None = None,
        use_rep: str | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register data with this model class.

        Parameters
        ----------
        adata
            AnnData with counts or an embedding.
        labels_key
            Column of ``.obs`` whose categories get an offset: data sets, donors or perturbations. Many labels with different offsets are needed to
            separate dimensions.
        layer
            Layer with counts. Defaults to ``.X``.
        use_rep
            Embedding in ``.obsm`` to model instead of counts, such as ``"X_geneformer"``.
        batch_key
            Column of ``.obs`` with technical batches, which the decoder reads. Defaults to none.

        Notes
        -----
        As scvi-tools does, this writes the numbers of labels and batches to ``.obs["_scvi_labels"]`` and ``.obs["_scvi_batch"]``.

        Raises
        ------
        KeyError
            If a slot is missing.
        ValueError
            If there are fewer than two labels, or labels with one cell; values are missing; counts are not counts; or both a layer and an embedding
            are given.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.tl.embed(adata)
        >>> sg.model.StateShift.setup_anndata(adata, labels_key="donor", use_rep="X_geneformer")
        >>> model = sg.model.StateShift(adata)
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup_method_args, kwargs)

    @classmethod
    @checked
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        labels_key: str,
        layer: str | None = None,
        use_rep: str | None = None,
        batch_key: str | None = None,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register a modality of a MuData, which has all slots and columns, with this model class.

        Parameters
        ----------
        mdata
            MuData whose cells are those of the modality, in the same order.
        labels_key, layer, use_rep, batch_key
            As in :meth:`setup_anndata`.
        modalities
            Modality that is modelled. Defaults to ``{"labels_key": "rna"}``.

        Raises
        ------
        KeyError, ValueError
            As in :meth:`setup_anndata`, or if the modality is missing or lacks cells of `mdata`.

        Examples
        --------
        >>> from mudata import MuData
        >>> mdata = MuData({"rna": adata})
        >>> sg.pp.tokenize(mdata, "default")
        >>> sg.tl.embed(mdata)
        >>> sg.model.StateShift.setup_mudata(mdata, labels_key="donor", use_rep="X_geneformer")
        >>> model = sg.model.StateShift(mdata)
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._set_up(mdata, setup_method_args, kwargs)

    @classmethod
    def _set_up(cls, data: AnnData | MuData, setup: dict[str, Any], words: dict[str, Any]) -> None:
        check_setup_words(cls, words)
        key, given = "labels_key", setup["setup_args"]
        labels_key, batch_key, layer, use_rep = (given[name] for name in (key, "batch_key", "layer", "use_rep"))
        if layer is not None and use_rep is not None:
            msg = f"layer={layer!r} and use_rep={use_rep!r} are both given. Model either counts or an embedding: leave one of them out."
            raise ValueError(msg)
        places = Places(data, [key], setup)
        if not data.obs_names.equals(places.cells.obs_names):
            mod = (given["modalities"] or {}).get(key, "rna")
            msg = (
                f"The modality {mod!r} has {places.cells.n_obs} of the {data.n_obs} cells of the MuData, or has them "
                f"in another order. Keep the cells that it has: `mdata = mdata[mdata[{mod!r}].obs_names].copy()`, or "
                f"set up the modality: `setup_anndata(mdata[{mod!r}], ...)`."
            )
            raise ValueError(msg)
        check_labels(read_labels(places.cells, labels_key, key), labels_key)
        fields = [places.field(key, CategoricalObsField, REGISTRY_KEYS.LABELS_KEY, labels_key)]
        if batch_key is not None:
            read_labels(places.cells, batch_key, "batch_key")
            fields.append(places.field(key, CategoricalObsField, REGISTRY_KEYS.BATCH_KEY, batch_key))
        if use_rep is None:
            read_counts(places.cells, layer)
            of_values: tuple[Any, ...] = LayerField, REGISTRY_KEYS.X_KEY, layer
        else:
            read_placed(places.cells, use_rep)
            of_values = ObsmField, REGISTRY_KEYS.X_KEY, use_rep
        fields.append(places.field(key, *of_values, correct_data_format=False))
        if "source_registry" in words:
            _check_same(places.cells, words["source_registry"]["field_registries"])
        register(cls, data, fields, setup, words)

    def _values(self, adata: AnnData, rows: np.ndarray) -> Any:
        """Counts of the genes of this model, CSR, or the embedding of cells, (n_rows, n_features)."""
        if self._use_rep is None:
            return aligned(read_counts(adata, self._layer)[rows], adata.var_names, self._features)
        values = read_placed(adata, self._use_rep)[rows]
        if values.shape[1] != len(self._features):
            msg = (
                f".obsm[{self._use_rep!r}] has {values.shape[1]} columns, but this model was trained on {len(self._features)}. "
                "Embed the query with the model that embedded the training data."
            )
            raise ValueError(msg)
        check_alike(provenance(adata, self._use_rep), self.embedding_, self._use_rep, "the training data")
        return values

    def _state(self, field: str) -> dict[str, Any]:
        """What was noted of a field when the data were set up."""
        return self.registry["field_registries"].get(field, {"state_registry": {}})["state_registry"]

    @property
    def _labels(self) -> np.ndarray:
        return self._state(REGISTRY_KEYS.LABELS_KEY)["categorical_mapping"]

    @property
    def _features(self) -> np.ndarray:
        return self._state(REGISTRY_KEYS.X_KEY)["column_names"]

    @property
    def _labels_key(self) -> str:
        return self.registry["setup_args"]["labels_key"]

    @property
    def _use_rep(self) -> str | None:
        return self.registry["setup_args"]["use_rep"]

    @property
    def _layer(self) -> str | None:
        return self.registry["setup_args"]["layer"]

    def _data(self, adata: AnnData | MuData | None) -> AnnData:
        """The cells of `adata`, or of the data of this model; of a MuData those of the modality that was set up."""
        if adata is None and self.adata is None:
            msg = "This model has no data: pass `adata`."
            raise ValueError(msg)
        where = self.registry["field_registries"][REGISTRY_KEYS.X_KEY]["data_registry"]
        return _keys.as_adata(self.adata if adata is None else adata, where.get("mod_key") or "rna")

    def _codes(self, adata: AnnData) -> np.ndarray:
        """Number of the label of each cell."""
        labels = read_labels(adata, self._labels_key, "labels_key")
        codes = pd.Index(self._labels).get_indexer(labels.to_numpy())
        if (codes < 0).any():
            unknown = pd.unique(labels[codes < 0].astype(str))
            msg = f"The model was not trained on these labels of .obs[{self._labels_key!r}]: {few(unknown)}. They have no offset: ask for kind='base', 'state' or 'type'."
            raise ValueError(msg)
        return codes


def _check_same(cells: AnnData, registered: dict[str, Any]) -> None:
    """Raise if a model that was set up with other genes or labels could not be trained further with `cells`."""
    for field in (REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.X_KEY):
        state = registered.get(field, {"state_registry": {}})["state_registry"]
        if "categorical_mapping" in state:
            key = state["original_key"]
            new = pd.unique(cells.obs[key][~cells.obs[key].isin(state["categorical_mapping"])].astype(str))
            if len(new):
                msg = f"The model was not set up with these values of .obs[{key!r}]: {few(new)}. Leave `adata` out, and pass it to `get_latent_representation`."
                raise ValueError(msg)
        elif "n_vars" in state and not np.array_equal(cells.var_names, state["column_names"]):
            msg = (
                "Genes in .var_names are not those that the model was set up with, in the same order. Leave `adata` "
                "out, and pass it to `get_latent_representation`, which aligns genes."
            )
            raise ValueError(msg)
