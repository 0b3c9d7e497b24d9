"""``Reference``: labelled cells that others are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import stats
from scgeneformer._arguments import checked

from ._build import build
from ._query import query
from ._report import report
from ._saving import load, save

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from numpy.random import Generator


@dataclass(frozen=True, eq=False)
class Reference:
    """Labelled cells with a representation, to label query cells and to find their most similar cells.

    Made by :meth:`from_adata` or :meth:`load`. A query needs the reference and the model of its embedding, not the original atlas.

    Attributes
    ----------
    points
        Representation of the cells, float32 of shape (n_cells, d).
    cells
        Table of the cells, indexed by name: labels (categorical), donors if any, and further columns.
    labels
        Column of `cells` with the labels.
    use_rep
        Slot of the representation in ``.obsm``, also in queries.
    embedding
        How it was computed: ``model``, ``weights_sha256``, ``vocabulary_hash``, ``pooling`` and ``emb_layer``, as far as known.
    n_neighbors
        Number of voting neighbours.
    metric
        Distance between representations.
    exact
        Whether queries are compared with every cell, instead of searching an index.
    donor
        Column of `cells` with donors; None if cells are held out one by one.
    n_held_out
        Number of held-out cells, which are last and are not searched; see :meth:`from_adata`.
    seed
        Seed of the index and of the choice of held-out cells.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.tl.embed(adata)
    >>> reference = sg.Reference.from_adata(adata[::2], "disease", obs=["cell_type"])
    >>> reference.save("reference")
    >>> query = adata[1::2].copy()
    >>> sg.Reference.load("reference").query(query)
    >>> query.obs["disease_transferred"].cat.categories.tolist()
    ['dcm', 'nf']
    """

    points: np.ndarray = field(repr=False)
    cells: pd.DataFrame = field(repr=False)
    labels: str
    use_rep: str
    embedding: dict[str, Any]
    n_neighbors: int
    metric: Literal["euclidean", "cosine"]
    exact: bool
    donor: str | None
    n_held_out: int
    seed: int

    @classmethod
    @checked
    def from_adata(
        cls,
        adata: AnnData | MuData,
        labels: str,
        *,
        use_rep: str = keys.embedding_key(keys.GENEFORMER),
        n_neighbors: int = 15,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        exact: bool | None = None,
        donor: str | None = None,
        obs: Sequence[str] = (),
        rng: int | Generator | None = 0,
        mod: str = "rna",
    ) -> Reference:
        """Make a reference from labelled cells.

        This only checks and copies the data. The index and the distances within the reference are computed when first needed by
        :meth:`query`, :meth:`report` or :meth:`save`.

        Novelty is judged against the distances of each reference cell to the other cells. With more than 50,000 cells, a random tenth, at most 20,000
        cells, is held out for this purpose. Held-out cells are not searched and do not vote: an index finds the neighbours of indexed cells better
        than those of new cells, which would then appear too distant.

        Parameters
        ----------
        adata
            Cells with labels and a representation. Those without a label, or with NaN in their representation, are left out.
        labels
            Column of ``.obs`` with labels; for MuData, also of the MuData itself or of another modality (``"prot:gate"``).
        use_rep
            Slot of the representation in ``.obsm``.
        n_neighbors
            Number of neighbours, or all cells if there are fewer.
        metric
            Distance between representations.
        exact
            Compare with every cell, instead of searching an index that misses a few neighbours. By default exact up to 50,000 cells.
        donor
            Column with the donor of each cell, in the same places as `labels`. Distances within the reference are then measured to cells of
            other donors, since a new donor has no cells in the reference; otherwise differences between donors would appear as novelty.
        obs
            Further columns to keep for :func:`scgeneformer.get.neighbors`, in the same places as `labels`. Columns that are neither numeric nor
            categorical are kept as strings.
        rng
            Seed or generator for the index and the held-out cells.
        mod
            Modality of a MuData.

        Raises
        ------
        KeyError
            If the representation or a column is missing.
        ValueError
            If no cell is labelled, a label has a single cell, cells have no donor, or all cells have the same donor.

        Examples
        --------
        >>> sg.pp.tokenize(adata)
        >>> sg.tl.embed(adata)
        >>> reference = sg.Reference.from_adata(adata, "cell_type", donor="donor")
        >>> reference.points.shape, list(reference.cells)
        ((32, 128), ['cell_type', 'donor'])
        """
        fields = build(
            adata,
            labels,
            name="adata",
            use_rep=use_rep,
            n_neighbors=n_neighbors,
            metric=metric,
            exact=exact,
            donor=donor,
            obs=obs,
            rng=rng,
            mod=mod,
        )
        return cls(**fields)

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Reference:
        """Load a reference that was saved with :meth:`save`. Nothing is unpickled, and checksums are verified.

        Distances within the reference are read from the folder. An index, which only references with more than 50,000 cells have, is rebuilt by the
        first query, with the same seed. Representations stay on disk until they are used.

        Parameters
        ----------
        folder
            Folder written by :meth:`save`.

        Raises
        ------
        FileNotFoundError
            If there is no reference.
        ValueError
            If it is damaged, altered, or of a newer format.

        Examples
        --------
        >>> sg.pp.tokenize(adata)
        >>> sg.tl.embed(adata)
        >>> sg.Reference.from_adata(adata, "disease").save("reference")
        >>> sg.Reference.load("reference").n_neighbors
        15
        """
        values, left_out = load(Path(folder).expanduser())
        reference = cls(**values)
        reference.__dict__["left_out"] = left_out
        return reference

    @checked
    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the reference to a folder: ``reference.json``, arrays in ``.npy`` and the table of cells in ``.h5ad``.

        Distances within the reference are computed first, if necessary.

        Parameters
        ----------
        folder
            Folder, created if it does not exist.
        overwrite
            Replace an existing reference.

        Raises
        ------
        ValueError
            If there is a reference already and `overwrite` is False.
        OSError
            If the folder cannot be written.

        Examples
        --------
        >>> from pathlib import Path
        >>> sg.pp.tokenize(adata)
        >>> sg.tl.embed(adata)
        >>> sg.Reference.from_adata(adata, "disease").save("reference")
        >>> sorted(path.name for path in Path("reference").iterdir())
        ['cells.h5ad', 'distances.npy', 'neighbors.npy', 'points.npy', 'reference.json']
        """
        save(self, Path(folder).expanduser(), overwrite=overwrite)

    @checked
    def query(
        self,
        adata: AnnData | MuData,
        *,
        weights: Literal["distance", "uniform", "gaussian"] = "distance",
        unknown: float | None = None,
        majority_by: str | None = None,
        key_added: str | None = None,
        mod: str = "rna",
        copy: bool = False,
    ) -> AnnData | MuData | None:
        """Label cells by their nearest neighbours in the reference. :func:`scgeneformer.tl.transfer` documents all parameters and results.

        Parameters
        ----------
        adata
            Cells to label, embedded in the same way as the reference.
        weights
            Weights of the votes of the neighbours.
        unknown
            Cells with a novelty below this value get the label ``"unknown"``.
        majority_by
            Column of ``.obs`` with clusters, each of which gets one label.
        key_added
            Column of ``.obs`` for the labels; by default the name of the labels with ``_transferred``.
        mod
            Modality of a MuData.
        copy
            Return a copy instead of writing to `adata`.

        Examples
        --------
        >>> sg.pp.tokenize(adata)
        >>> sg.tl.embed(adata)
        >>> query, reference = adata[:16].copy(), sg.Reference.from_adata(adata[16:], "disease")
        >>> reference.query(query, majority_by="cell_type")
        >>> query.obs["disease_transferred"].groupby(query.obs["cell_type"], observed=True).nunique().tolist()
        [1, 1]
        """
        return query(
            self,
            adata,
            weights=weights,
            unknown=unknown,
            majority_by=majority_by,
            key_added=key_added,
            mod=mod,
            copy=copy,
        )

    @checked
    def report(
        self,
        *,
        weights: Literal["distance", "uniform", "gaussian"] = "distance",
        max_cells: int = 5000,
        n_bootstrap: int = 200,
        rng: int | Generator | None = 0,
    ) -> dict[str, pd.DataFrame]:
        """Evaluate the reference on itself: held-out cells are labelled by the other cells, and cells of a held-out label should appear novel.

        Cells are held out by donor if the reference has donors, otherwise one by one, which says nothing about other donors.
        95 % intervals are from a bootstrap over donors if there are at least three, otherwise over cells.

        Parameters
        ----------
        weights
            Weights of the votes, as in :meth:`query`.
        max_cells
            Maximum number of evaluated cells, drawn at random. For ``"labels"``, these cells are also the whole reference.
        n_bootstrap
            Number of bootstrap samples.
        rng
            Seed or generator for the choice of cells, the bootstrap and the folds.

        Returns
        -------
        Two DataFrames.

        ``"overall"``
            ``value``, ``low``, ``high``, ``n_cells`` and ``n_donors`` for the ``accuracy`` of the labels of held-out cells; for ``most_frequent``, the
            accuracy of always predicting the most frequent label; for the ``calibration_error`` of the share of the votes, in 15 bins; and for
            ``calibration_error_isotonic``, the same after isotonic regression fitted on the four fifths of donors (or cells) without the cell.
        ``"labels"``
            For each label the number ``n_cells`` of evaluated cells, their ``accuracy``, and ``novelty_auroc``, ``novelty_auroc_low`` and
            ``novelty_auroc_high``: the AUROC of 1 - novelty for its cells against all others when the reference lacks the label; 0.5 is chance.
            NaN if that leaves a single donor, or there are no cells.

        Raises
        ------
        ValueError
            If there are fewer than two cells to evaluate.

        Examples
        --------
        >>> sg.pp.tokenize(adata)
        >>> sg.tl.embed(adata)
        >>> tables = sg.Reference.from_adata(adata, "disease", donor="donor").report()
        >>> tables["overall"].index.tolist()
        ['accuracy', 'most_frequent', 'calibration_error', 'calibration_error_isotonic']
        >>> tables["labels"].columns.tolist()
        ['n_cells', 'accuracy', 'novelty_auroc', 'novelty_auroc_low', 'novelty_auroc_high']
        """
        return report(self, weights=weights, max_cells=max_cells, n_bootstrap=n_bootstrap, rng=rng)

    @property
    def categories(self) -> pd.Index:
        """The labels."""
        return self.cells[self.labels].cat.categories

    @property
    def codes(self) -> np.ndarray:
        """Position of the label of each cell in `categories`, int64 of shape (n_cells,)."""
        return self.cells[self.labels].cat.codes.to_numpy(dtype=np.int64)

    @property
    def donors(self) -> np.ndarray | None:
        """Number of the donor of each cell, int64 of shape (n_cells,); None without donors."""
        return None if self.donor is None else self.cells[self.donor].factorize()[0].astype(np.int64)

    @property
    def standard(self) -> slice:
        """Cells whose distances novelty is judged against: the held-out cells or, without any, all cells."""
        return slice(len(self.points) - self.n_held_out if self.n_held_out else 0, None)

    @cached_property
    def index(self) -> stats.NeighborIndex:
        """Index of the nearest cells, built on first use."""
        rng = np.random.default_rng(self.seed)
        points = self.points[: len(self.points) - self.n_held_out]
        return stats.NeighborIndex(points, self.n_neighbors, metric=self.metric, exact=self.exact, rng=rng)

    @cached_property
    def left_out(self) -> stats.Neighbors:
        """Nearest neighbours of the cells of the `standard`, without the cell itself and its donor."""
        donors, n_searched = self.donors, len(self.points) - self.n_held_out
        if donors is None:
            if self.n_held_out:
                return self.index.nearest(self.points[n_searched:], self.n_neighbors)
            return self.index.left_out(min(self.n_neighbors, n_searched - 1))
        searched = donors[:n_searched]
        k = min(self.n_neighbors, n_searched - int(np.bincount(searched).max()))
        return self.index.nearest_elsewhere(self.points[self.standard], donors[self.standard], searched, k)
