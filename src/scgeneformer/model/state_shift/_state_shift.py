"""Latent model of cell states with a sparse offset for each data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.model._utils import get_max_epochs_heuristic
from scvi.model.base import UnsupervisedTrainingMixin

from scgeneformer import stats
from scgeneformer._arguments import checked
from scgeneformer._settings import settings
from scgeneformer._slots import provenance
from scgeneformer.model.data._gene_labels import few
from scgeneformer.model.data._splits import draw_cells
from scgeneformer.model.training._random import generators_restored, seed_generators
from scgeneformer.model.training._train import device_of

from ._data import read_labels, read_placed
from ._labelled_input import LabelledInput
from ._module import StateShiftModule

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

_WARMUP = 0.9  # share of the epochs, since gates that close early choose their dimension at random


class StateShift(UnsupervisedTrainingMixin, LabelledInput):
    """Latent model in which each data set shifts cells along a few dimensions (after scShift, Dong et al. 2023). Experimental.

    A cell is the sum of a base representation, trained to be independent of the data set, and a sparse offset of its data set. Dimensions
    in which some data set has an offset are called *state* dimensions, the others *type* dimensions. The base representation of a new
    cell can be split in this way without training or a label. See :doc:`/state_shift` for benchmarks.

    Parameters
    ----------
    adata
        Data registered by :meth:`setup_anndata` or :meth:`setup_mudata`.
    n_latent, n_hidden, n_layers
        Size of the representation and of the hidden layers, and number of hidden layers of encoder and decoder.
    dropout
        Dropout of the encoder.
    control
        A label whose offset is 0. Defaults to none.
    l0_weight
        Penalty for each dimension, after the first, in which a label has an offset.
    prior_weight
        Weight of the divergence of the base representation from its prior of variance 1/4.
    independence_weight
        Weight of the dependence of the base representation on labels.
    corruption
        Probability that a gene is permuted across the cells of a training batch. Not used for embeddings.
    rng
        Seed of the initial weights.
    registry
        For :meth:`load`.

    Notes
    -----
    The loss of a cell with label l is ``-log p(x) + w (prior_weight KL + l0_weight L0 + independence_weight C)``, where w rises from 0 to 1 in
    training. The gate of l in dimension k has mean m and standard deviation s: its offset is a draw from them, moved towards 0 by 0.1 and 0 beyond.
    L0 is the sum over k of ``Phi((|m| - 0.1) / s)`` minus twice the largest term. Differences from scShift:

    - The offsets are a table, not the output of a network that reads the label.
    - The gate is divided by its standard deviation, not by its variance, as in stochastic gates.
    - C is the squared mean of the base representation in each label, averaged over cells and without bias, instead of a kernel of width d,
      which at that width compares hardly more than means.
    - Counts are negative binomial without zero inflation; the total of a cell is given.
    - The encoder does not read the batch, so a query needs none; layers have layer normalisation, not batch normalisation.
    - The offset of `control` is 0.
    - Training batches are drawn independently of labels.
    - The input may be an embedding: standardised with means and standard deviations that are saved with the model, decoded to a normal
      distribution with a standard deviation for each dimension, and not corrupted.

    Offsets reflect states only if data sets have the same cell types: see :meth:`shift_composition`.

    Examples
    --------
    >>> sg.model.StateShift.setup_anndata(adata, labels_key="donor")
    >>> model = sg.model.StateShift(adata, n_latent=4)
    >>> model.train(max_epochs=2)
    >>> model.get_latent_representation().shape
    (32, 4)
    """

    module: StateShiftModule

    @checked
    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        *,
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.1,
        control: Hashable | None = None,
        l0_weight: float = 3.0,
        prior_weight: float = 1.0,
        independence_weight: float = 100.0,
        corruption: float = 0.25,
        rng: int = 0,
        registry: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(adata, registry)
        labels, batches = list(self._labels), self._state(REGISTRY_KEYS.BATCH_KEY).get("categorical_mapping", ())
        if control is not None and control not in labels:
            msg = f"control={control!r} is not a label of .obs[{self._labels_key!r}], which has {few(labels)}. Name one of them."
            raise ValueError(msg)
        with generators_restored(torch.device("cpu")):
            seed_generators(torch.device("cpu"), rng)
            self.module = StateShiftModule(
                len(self._features),
                len(labels),
                len(batches),
                counts=self._use_rep is None,
                control=None if control is None else labels.index(control),
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                dropout=dropout,
                l0_weight=l0_weight,
                prior_weight=prior_weight,
                independence_weight=independence_weight,
                corruption=corruption,
            )
        if adata is not None and self._use_rep is not None:
            cells = self._data(adata)
            self.embedding_ = provenance(cells, self._use_rep)
            embedding = read_placed(cells, self._use_rep)
            sd = embedding.std(axis=0)
            self.module.center.copy_(torch.from_numpy(embedding.mean(axis=0)))
            self.module.scale.copy_(torch.from_numpy(np.where(sd > 0, sd, 1)))
        what = f"{len(self._features)} {'genes' if self._use_rep is None else 'dimensions'}"
        self._model_summary_string = f"StateShift: {what}, {len(labels)} labels, {n_latent} latent dimensions"
        self.init_params_ = self._get_init_params(locals())

    @checked
    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        train_size: float = 0.9,
        validation_size: float | None = None,
        accelerator: str = "auto",
        devices: int | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        rng: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Number of passes over the training cells. Defaults to 400, fewer with more than 20,000 cells.
        batch_size
            Number of cells per step.
        learning_rate, weight_decay
            Options of Adam.
        train_size, validation_size
            Fractions of the cells. By default nine tenths are for training and the rest for validation.
        accelerator, devices
            As in scvi-tools.
        plan_kwargs
            Further options of :class:`scvi.train.TrainingPlan`. By default the terms of the loss are warmed up over nine tenths of the epochs.
        rng
            Seed of the split, the order of cells, dropout and noise.
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If the model has no data.
        FloatingPointError
            If the loss became infinite or NaN.

        Examples
        --------
        >>> sg.model.StateShift.setup_anndata(adata, labels_key="donor")
        >>> model = sg.model.StateShift(adata)
        >>> model.train(max_epochs=2)
        >>> list(model.history["l0_train"].index)
        [0, 1]
        """
        if self.adata is None:
            msg = "This model has no data. Pass `adata` to `StateShift.load`, or make a new model of registered data."
            raise ValueError(msg)
        n_epochs = get_max_epochs_heuristic(self.adata.n_obs) if max_epochs is None else max_epochs
        sets = draw_cells(
            self.adata_manager,
            self.adata.n_obs,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=True,
            rng=rng,
        )
        given = dict(plan_kwargs or {})
        warmup = None if "n_steps_kl_warmup" in given else max(round(_WARMUP * n_epochs), 1)
        plan = {"n_epochs_kl_warmup": warmup, "lr": learning_rate, "weight_decay": weight_decay} | given
        device = device_of(accelerator)
        self.module.train()
        with generators_restored(device):
            seed_generators(device, rng)
            super().train(
                n_epochs,
                accelerator=accelerator,
                devices=devices,
                batch_size=batch_size,
                datasplitter_kwargs={"external_indexing": list(sets.values())},
                plan_kwargs=plan,
                **{"enable_progress_bar": settings.progress} | trainer_kwargs,
            )

    @checked
    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        kind: Literal["base", "state", "type", "shift", "all"] = "base",
        batch_size: int = 1024,
    ) -> np.ndarray:
        """Represent training cells or new cells. New data are neither registered nor changed.

        Parameters
        ----------
        adata
            Cells with the same slot of counts or embedding. Genes are matched by ``.var_names``: genes missing from a query count as 0, other genes are
            ignored. Defaults to the data of this model.
        indices
            Cells, as numbers or as a mask. Defaults to all.
        kind
            ``"base"``: the base representation. ``"state"``, ``"type"``: its dimensions with an offset for some label, and its other dimensions.
            ``"shift"``: the offset of the label of each cell. ``"all"``: their sum, base + shift. ``"shift"`` and ``"all"`` require labels that the model was
            trained on.
        batch_size
            Number of cells encoded at once.

        Returns
        -------
        float32 (n_cells, n_latent), or fewer columns for ``"state"`` and ``"type"``, of which there may be none.

        Raises
        ------
        KeyError
            If a slot is missing.
        ValueError
            If the model is not trained, there are no genes in common, the embedding has another width or NaN or was made by another model, counts are not counts, or
            labels are unknown.

        Examples
        --------
        >>> sg.model.StateShift.setup_anndata(adata, labels_key="donor")
        >>> model = sg.model.StateShift(adata, n_latent=4)
        >>> model.train(max_epochs=2)
        >>> query = adata[:5, ::-2].copy()  # half of the genes
        >>> del query.obs["donor"]
        >>> model.get_latent_representation(query).shape
        (5, 4)
        """
        self._check_trained()
        cells = self._data(adata)
        rows = np.arange(cells.n_obs) if indices is None else np.arange(cells.n_obs)[np.asarray(indices)]
        offsets = self.module.offsets()[0].cpu().numpy()
        if kind == "shift":
            return offsets[self._codes(cells)[rows]]
        if kind == "all":
            shift = offsets[self._codes(cells)[rows]]
            return self._base(self._values(cells, rows), batch_size) + shift
        base = self._base(self._values(cells, rows), batch_size)
        is_state = (offsets != 0).any(axis=0)
        return base if kind == "base" else base[:, is_state if kind == "state" else ~is_state]

    def _base(self, values: Any, batch_size: int) -> np.ndarray:
        self.module.eval()
        bases = []
        for start in range(0, max(values.shape[0], 1), batch_size):
            batch = values[start : start + batch_size]
            dense = batch.toarray() if sparse.issparse(batch) else batch
            with torch.inference_mode():
                bases.append(self.module.base(torch.from_numpy(dense.astype(np.float32))).cpu().numpy())
        return np.concatenate(bases)

    @checked
    def state_dimensions(self) -> pd.DataFrame:
        """The offset of each label in each dimension.

        Returns
        -------
        DataFrame with one row per label and dimension: ``label``, ``dimension``, ``offset``, which is 0 if the gate is closed, and
        ``p_open``, the probability that it is open in training. Dimensions in which all offsets are 0 are the type dimensions.

        Raises
        ------
        ValueError
            If the model is not trained.

        Examples
        --------
        >>> sg.model.StateShift.setup_anndata(adata, labels_key="donor")
        >>> model = sg.model.StateShift(adata, n_latent=4)
        >>> model.train(max_epochs=2)
        >>> table = model.state_dimensions()
        >>> table.pivot(index="label", columns="dimension", values="offset").shape
        (8, 4)
        """
        self._check_trained()
        offsets, opened = (values.cpu().numpy() for values in self.module.offsets())
        n_labels, n_latent = offsets.shape
        return pd.DataFrame(
            {
                "label": np.repeat(self._labels, n_latent),
                "dimension": np.tile(np.arange(n_latent), n_labels),
                "offset": offsets.ravel(),
                "p_open": opened.ravel(),
            }
        )

    @checked
    def shift_composition(self, key: str, adata: AnnData | MuData | None = None) -> pd.DataFrame:
        """Correlate offsets with the composition of labels, such as cell types. A correlated offset may reflect cell types, not a state.

        Parameters
        ----------
        key
            Column of ``.obs`` with categories.
        adata
            Cells with labels that the model was trained on. Defaults to the data of this model.

        Returns
        -------
        DataFrame with one row per state dimension and category: ``dimension``, ``category``, ``correlation`` (Pearson's) over labels
        of the offset with the share of the category among the cells of the label, its ``p_value`` and ``fdr`` (Benjamini-Hochberg), and
        ``n_labels``. Categories with the same share in all labels are left out. With few labels nothing can be told: a high p-value is no proof of
        independence.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If the model is not trained, values are missing, or labels are unknown.

        Examples
        --------
        >>> sg.model.StateShift.setup_anndata(adata, labels_key="donor")
        >>> model = sg.model.StateShift(adata, n_latent=4)
        >>> model.train(max_epochs=2)
        >>> list(model.shift_composition("disease"))
        ['dimension', 'category', 'correlation', 'p_value', 'fdr', 'n_labels']
        """
        from scipy.stats import pearsonr

        self._check_trained()
        cells = self._data(adata)
        categories = read_labels(cells, key, "key").astype("category").cat.remove_unused_categories()
        codes = self._codes(cells)
        shares = pd.crosstab(codes, categories.to_numpy(), normalize="index")
        offsets = self.module.offsets()[0].cpu().numpy()[shares.index]
        rows = [
            (k, name, *pearsonr(offsets[:, k], shares[name]))
            for k in np.flatnonzero(np.ptp(offsets, axis=0))
            for name in shares
            if np.ptp(shares[name]) > 0
        ]
        table = pd.DataFrame(rows, columns=["dimension", "category", "correlation", "p_value"])
        return table.assign(fdr=stats.benjamini_hochberg(table["p_value"].to_numpy(float)), n_labels=len(shares))

    def _check_trained(self) -> None:
        if not self.is_trained_:
            msg = "This StateShift is not trained. Run `model.train()` first."
            raise ValueError(msg)
