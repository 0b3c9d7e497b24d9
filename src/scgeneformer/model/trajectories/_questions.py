"""Questions to a decoder that was trained on trajectories: elapsed time and next cells, beside baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scgeneformer import _keys, engine, evaluation
from scgeneformer import _log as logg
from scgeneformer._arguments import checked
from scgeneformer._settings import engine_options
from scgeneformer.tokens import vocabulary_column

from ._baselines import COMMON, MODEL, NEAREST, RIDGE, TimeRegression, most_common, report, score_elapsed
from ._draw import Pool
from ._grammar import has_genes
from ._next_cells import NextCells
from ._objective import Trajectories
from ._queries import draw_next, tell_elapsed
from ._timed_cells import TimedCellsModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

    from ._objective import TrajectoryModule
    from ._tokens import TimeTokens


class TrajectoryQuestions(TimedCellsModel):
    """What a model of trajectories is asked after training."""

    module: TrajectoryModule
    split_: dict[str, np.ndarray] | None
    scores_: pd.DataFrame | None
    tasks_: list[str]
    cells_: str | None  # hash of the names of those that `split_` is of
    _regression: tuple[int, TimeRegression] | None
    _tokens: TimeTokens
    _n_cells: tuple[int, int]
    _max_length: int

    @property
    def split(self) -> evaluation.Split:
        """Cells that train, validate and test.

        Raises
        ------
        AttributeError
            Before training.
        """
        if self.split_ is None:
            msg = "This model has not been trained, and so has no split. Call `train` first."
            raise AttributeError(msg)
        return evaluation.Split(**self.split_)

    def _pools(self, split: evaluation.Split, lengths: np.ndarray) -> tuple[Pool, Pool]:
        """The training cells, and these with cells of the groups that are held out as a whole."""
        cells = self._timed_cells(self._n_cells[0] - 1)
        train = split.train[has_genes(lengths[split.train])]
        rest = np.concatenate([split.validation, split.test])
        pool = Pool.of(cells, train)
        return pool, pool.joined_with(Pool.of(cells, rest[has_genes(lengths[rest])]))

    def _trajectories(self, task: Literal["elapsed time", "next cell"]) -> Trajectories:
        """What contexts of questions are drawn from.

        Raises
        ------
        ValueError
            If the model is not trained for this task, or has no data.
        """
        if not self.is_trained_ or task not in self.tasks_:
            reason = (
                f"was trained for {self.tasks_[0]} only. Train it with p_time= between 0 and 1"
                if self.is_trained_ and self.tasks_
                else "has the weights of its first stage only, the next gene within one cell. Run `model.train()` on cells of several times"
            )
            msg = f"This decoder {reason}: its predictions of {task} would be random."
            raise ValueError(msg)
        tokens, lengths = self._training_tokens()
        if self._names_hash() != self.cells_:
            msg = (
                "The data of this model are not the cells that it was trained on, in their order, from which contexts are drawn. Load it with "
                "them, `TrajectoryModel.load(folder, adata)`, and pass other cells to `predict` or `next_cell`."
            )
            raise ValueError(msg)
        pool = self._pools(self.split, lengths)[1]
        return Trajectories(pool, tokens, lengths, self._tokens, self._n_cells, self._max_length, p_time=1.0, seed=0)

    def _baselines(self, trajectories: Trajectories) -> tuple[int, TimeRegression]:
        """The most common interval, in steps, and a regression of steps on ranks, both of the training cells."""
        if self._regression is None:
            train = self.split.train
            rows = trajectories.pool.with_times(
                train[has_genes(trajectories.lengths[train])], trajectories.n_cells[0] - 1
            )
            matrix, steps = trajectories.matrix[rows], trajectories.pool.cells.steps[rows]
            fitted = TimeRegression.fit(matrix, steps, len(self.vocabulary), self.vocabulary.n_special)
            self._regression = most_common(trajectories.intervals(rows)), fitted
        return self._regression

    @property
    def scores(self) -> pd.DataFrame:
        """How well the model and its baselines predict the elapsed time of held-out cells, as :meth:`evaluate` gives it after training.

        Raises
        ------
        AttributeError
            Before training, or if no test cells were held out.
        """
        if self.scores_ is None:
            msg = "There are no scores: the model is not trained, or was trained with test_size=0. Call `train` first."
            raise AttributeError(msg)
        return self.scores_

    @checked
    def predict(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        n_contexts: int = 8,
        rng: int = 0,
        **engine_kwargs: Any,
    ) -> pd.DataFrame:
        """Predict the time of cells: that of the last cell of a context, and the time elapsed since.

        Contexts are drawn from the training cells of the group of a cell. The error on held-out cells is logged beside
        those of baselines. A warning says what speaks against the predictions: that the model did no better than a
        baseline, predicts nearly the same for all cells, or was not tested.

        Parameters
        ----------
        adata
            Tokenized cells with the columns of groups, if the model was set up with such; their times are not read. Cells of the same name as one
            of the training data are not compared with that. Defaults to the data of this model.
        indices
            Cells, as numbers or as a mask. Defaults to all.
        n_contexts
            Number of contexts per cell.
        rng
            Seed of their draws.
        **engine_kwargs
            `device`, `precision`, `token_budget`, `progress`. Default to the settings.

        Returns
        -------
        DataFrame indexed by cell: ``time``, the mean over contexts, in the unit of the data; ``sd``, the standard
        deviation over contexts; and the predictions of baselines: ``most common interval`` after the last cells of the
        same contexts; ``ridge regression`` of time on the ranks of genes; and the ``nearest time to it`` among those of
        the training cells. NaN for cells without genes, or of groups with too few times.

        Raises
        ------
        KeyError
            If a column is missing.
        ValueError
            If the model is not trained or has no data, or cells are of another vocabulary or of groups that its data lack.

        Examples
        --------
        >>> config = sg.nn.LlamaConfig(
        ...     13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024
        ... )
        >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
        >>> sg.pp.tokenize(adata, decoder)
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day")
        >>> model = sg.model.TrajectoryModel(adata, decoder)
        >>> model.train(max_epochs=1)
        >>> adata.obs["predicted_day"] = model.predict()["time"]
        """
        trajectories, queries = self._trajectories("elapsed time"), self._queries(adata, indices)
        told, last = tell_elapsed(
            self.module.network, trajectories, queries, n_contexts, rng, **engine_options(**engine_kwargs)
        )
        common, regression = self._baselines(trajectories)
        times = self._time(last + told)
        ridge = np.where(np.isnan(times[:, 0]), np.nan, regression(queries.matrix))
        answers = {
            "time": times.mean(axis=1),
            "sd": times.std(axis=1),
            COMMON: self._time(last + common).mean(axis=1),
            RIDGE: self._time(ridge),
            NEAREST: self._time(np.where(np.isnan(ridge), np.nan, regression.nearest(ridge))),
        }
        report(self.scores_)
        return pd.DataFrame(answers, index=self._data_of(adata).obs_names[queries.keys])

    @checked
    def evaluate(
        self, *, max_queries: int = 300, n_contexts: int = 4, rng: int = 0, **engine_kwargs: Any
    ) -> pd.DataFrame:
        """Score elapsed times of test cells, which were not trained on, beside baselines.

        Parameters
        ----------
        max_queries
            Maximum number of test cells, drawn at random.
        n_contexts, rng, **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        A row for each method: ``mae``, the mean absolute error of the time elapsed since the last cell of a context, in the unit of the data, over
        cells and contexts; its 95 % interval, ``low`` and ``high``, over samples if there are three or more, or else over cells;
        ``sd``, the standard deviation of the elapsed times that it tells, ``sd_time``, that of the times of cells, means over contexts; ``sd_true``
        and ``sd_true_time``, those of the true ones; ``n_queries``.

        Raises
        ------
        ValueError
            If the model is not trained or has no data, or there are no test cells.

        Examples
        --------
        >>> config = sg.nn.LlamaConfig(
        ...     13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024
        ... )
        >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
        >>> sg.pp.tokenize(adata, decoder)
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day", sample_key="donor")
        >>> model = sg.model.TrajectoryModel(adata, decoder)
        >>> model.train(max_epochs=1)
        >>> model.evaluate(n_contexts=2).columns.tolist()
        ['mae', 'low', 'high', 'sd', 'sd_time', 'sd_true', 'sd_true_time', 'n_queries']
        """
        trajectories = self._trajectories("elapsed time")
        queries = self._queries(None, self._test_cells(max_queries, rng))
        told, last = tell_elapsed(
            self.module.network, trajectories, queries, n_contexts, rng, **engine_options(**engine_kwargs)
        )
        answered = ~np.isnan(told[:, 0])
        if not answered.any():
            msg = "No test cell has a context: its group has too few times among the training cells. Hold out other cells by split=."
            raise ValueError(msg)
        told, last, rows = told[answered], last[answered], queries.rows[answered]
        common, regression = self._baselines(trajectories)
        ridge = regression(queries.matrix[answered])
        elapsed = {MODEL: told, COMMON: np.full_like(told, common)}
        elapsed |= {RIDGE: ridge[:, None] - last, NEAREST: regression.nearest(ridge)[:, None] - last}
        step, samples = self.time_step, self._samples()
        units = rows if samples is None else samples[rows]
        elapsed = {name: step * values for name, values in elapsed.items()}
        return score_elapsed(step * trajectories.pool.cells.steps[rows], step * last, elapsed, units)

    def _test_cells(self, most: int, rng: int) -> np.ndarray:
        """Test cells in random order, `most` at most."""
        if not len(self.split.test):
            msg = "No cells were held out for a test. Train a new model with test_size= above 0."
            raise ValueError(msg)
        return np.random.default_rng(rng).permutation(self.split.test)[:most]

    @checked
    def next_cell(
        self,
        elapsed: float,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        top_k: int | None = None,
        max_length: int | None = None,
        rng: int = 0,
        **engine_kwargs: Any,
    ) -> AnnData:
        """Draw, for each of some cells, a cell a given time later, gene by gene; no gene twice.

        Each cell is the last of its context, whose other cells are drawn from the training cells of its group. The answer is a sample of what
        the model expects, not a later state of this very cell; see :meth:`evaluate_next_cell` for what it is worth.

        Parameters
        ----------
        elapsed
            Time from each cell to the next, in the unit of the data, rounded to whole steps; below 0 for earlier cells.
        adata
            Tokenized cells with times, and groups if the model was set up with such. Defaults to the data of this model.
        indices
            Cells, as numbers or as a mask. Defaults to all.
        top_k
            Number of genes of highest probability to draw from; 1 always takes the first. Defaults to all.
        max_length
            Maximum number of tokens of a cell. Defaults to that of the longest cell of the data of this model.
        rng
            Seed of contexts and draws.
        **engine_kwargs
            As in :meth:`predict`.

        Returns
        -------
        AnnData with a row for each cell, without expression: tokens in ``.obsm``, which :func:`scgeneformer.tl.embed` reads, and the time in
        ``.obs``. A row without tokens where a cell has no genes, or its group too few times.

        Raises
        ------
        KeyError
            If a column is missing.
        ValueError
            If the model is not trained or has no data, the interval is longer than those it was set up with, or a trajectory does not fit.

        Examples
        --------
        >>> config = sg.nn.LlamaConfig(
        ...     13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024
        ... )
        >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
        >>> sg.pp.tokenize(adata, decoder)
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day")
        >>> model = sg.model.TrajectoryModel(adata, decoder)
        >>> model.train(max_epochs=1)
        >>> later = model.next_cell(1, indices=[0, 1], max_length=10)
        >>> later.obs["day"].tolist(), later.obsm["geneformer_tokens"].shape
        ([1.0, 2.0], (2, 10))
        """
        trajectories, queries = self._trajectories("next cell"), self._queries(adata, indices)
        data = self._data_of(adata)
        steps = self._steps(data)[queries.keys]
        n_steps = int(np.rint(elapsed / self.time_step))
        self._tokens.of(n_steps)  # raises now if the model has no such number
        n_beyond = int(((steps + n_steps < 0) | (steps + n_steps > self._times["n_steps"])).sum())
        if n_beyond:
            logg.warning(
                f"{n_beyond} of {len(steps)} cells are to be drawn for times at which the data of this model have no cells."
            )
        *_, bos_id, eos_id = self.vocabulary.special_ids.tolist()
        matrix = draw_next(
            self.module.network,
            trajectories,
            queries,
            steps,
            n_steps,
            bos_id=bos_id,
            eos_id=eos_id,
            n_special=self.vocabulary.n_special,
            max_length=int(trajectories.lengths.max()) if max_length is None else max_length,
            top_k=top_k,
            seed=rng,
            **engine_options(**engine_kwargs),
        )
        key = self._tokens_key
        obs = pd.DataFrame({self._time_key: self._time(steps + n_steps)}, index=data.obs_names[queries.keys])
        obs[_keys.lengths_key(key)] = engine.row_lengths(matrix).astype(np.int32)
        obs[_keys.vocabulary_key(key)] = vocabulary_column(self.vocabulary, len(obs))
        return AnnData(obs=obs, obsm={key: matrix})

    @checked
    def evaluate_next_cell(
        self, elapsed: float, *, max_queries: int = 100, top_k: int | None = None, rng: int = 0, **engine_kwargs: Any
    ) -> pd.DataFrame:
        """Compare cells of :meth:`next_cell` with test cells of the time that they are drawn for, in the embedding of this model, beside baselines.

        Parameters
        ----------
        elapsed, top_k, rng, **engine_kwargs
            As in :meth:`next_cell`.
        max_queries
            Maximum number of test cells to start from, drawn at random.

        Returns
        -------
        A row for each method: mean ``distance`` to the mean of the test cells of the target time in the same group, and its interval as in
        :meth:`evaluate`. Methods: ``model``; ``copy``, the cell that it starts from; ``another cell``, a training cell of the target time and
        group, as near as a cell can be expected to be; ``mean``, the mean of these, which is not a cell.

        Raises
        ------
        ValueError
            As :meth:`next_cell`, or if there are no test cells so far apart in time.

        Examples
        --------
        >>> config = sg.nn.LlamaConfig(
        ...     13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024
        ... )
        >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
        >>> sg.pp.tokenize(adata, decoder)
        >>> adata.obs["day"] = np.arange(32) % 2
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day")
        >>> model = sg.model.TrajectoryModel(adata, decoder)
        >>> model.train(max_epochs=1, train_size=0.5, validation_size=0.25, test_size=0.25)
        >>> model.evaluate_next_cell(1).index.tolist()
        ['model', 'copy', 'another cell', 'mean']
        """
        cells = self._trajectories("next cell").pool.cells
        n_steps, samples = int(np.rint(elapsed / self.time_step)), self._samples()
        pairs = NextCells.between(
            cells, self.split.train, self._test_cells(len(cells.steps), rng), n_steps, max_queries, rng
        )
        drawn = self.next_cell(elapsed, indices=pairs.starts, top_k=top_k, rng=rng, **engine_kwargs)
        generated = self._latent(drawn.obsm[self._tokens_key], None, None, **engine_kwargs)
        embedding = np.full((len(cells.steps), generated.shape[1]), np.nan)
        embedding[pairs.rows] = self._latent(self._read_tokens(None, pairs.rows), None, None, **engine_kwargs)
        return pairs.scored(generated, embedding, np.arange(len(embedding)) if samples is None else samples)
