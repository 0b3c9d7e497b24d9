"""Decoder trained on trajectories of cells: elapsed time and next cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from scgeneformer import evaluation, hub, nn
from scgeneformer._arguments import checked
from scgeneformer.evaluation._linear import LEAST_ITEMS
from scgeneformer.model.data._cell_labels import CellTask
from scgeneformer.model.data._fields import registered_tokens
from scgeneformer.model.data._rows import TokenRows
from scgeneformer.model.data._splits import SETS, Sizes, choose_split
from scgeneformer.model.training._options import train_options
from scgeneformer.model.training._random import generators_restored, seed_generators
from scgeneformer.model.training._train import loader_options, run_training

from ._baselines import report
from ._grammar import has_genes, longest_trajectory
from ._objective import Trajectories, TrajectoryModule, TrajectoryTasks
from ._questions import TrajectoryQuestions
from ._tokens import TimeTokens, grown, grown_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.model.training._options import TrainOptions
    from scgeneformer.tokens import Vocabulary

DICTIONARY = "token_dictionary.json"
_EPOCHS, _MOST_POSITIONS = 10, 16_384
_SHORTEST = 4  # tokens of a first cell that was cut


class TrajectoryModel(TrajectoryQuestions):
    """Decoder trained on trajectories of cells to predict elapsed time and later cells, as in the second stage of MaxToki. Experimental.

    A trajectory is three or four cells of one group at different times, with the time from each to the next. The model predicts the time
    between the last two cells, or the cell after a given time. See :ref:`elapsed-time` for when not to trust the predictions.

    Parameters
    ----------
    adata
        Tokenized cells with times, registered by :meth:`setup_anndata`.
    pretrained
        Decoder of the first stage, in any form that :func:`scgeneformer.hub.load` takes. It is copied, and tokens are added: numbers of
        steps, and the begin and end of a question.
    n_cells
        Minimum and maximum number of cells of a trajectory.
    max_length
        Maximum number of tokens of a trajectory; longer trajectories are cut at the end of their first cell. Defaults to what the cells of `adata`
        need, at most 16,384. Positions beyond those of the first stage use slower rotations, as in Llama 3.
    rng
        Seed of the vectors of new tokens.
    config, vocabulary, registry
        For :meth:`load`.

    Notes
    -----
    The grammar of trajectories, the two tasks and the scaling of positions are those of MaxToki's second stage; the code is not, and no
    weights of that stage are published. Differences:

    - The expected number of steps and the true one are divided by the same number, so that all numbers count: by the standard deviation of intervals
      between times that are uniform over those of the data.
    - All tokens of an answer that is a cell are learned, the first two included.
    - Losses are averaged over trajectories, with equal weights.
    - The scaling of positions is saved with the model, and so are the numbers of its tokens, in ``token_dictionary.json``.

    Examples
    --------
    A small decoder with random weights, in place of a published one:

    >>> config = sg.nn.LlamaConfig(13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024)
    >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
    >>> sg.pp.tokenize(adata, decoder)
    >>> adata.obs["day"] = np.arange(32) % 3
    >>> sg.model.TrajectoryModel.setup_anndata(adata, "day", sample_key="donor")
    >>> model = sg.model.TrajectoryModel(adata, decoder)
    >>> model.train(max_epochs=1)
    >>> model.predict().columns.tolist()
    ['time', 'sd', 'most common interval', 'ridge regression', 'nearest time to it']
    """

    @checked
    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        pretrained: Any = "MaxToki-217M",
        *,
        n_cells: tuple[int, int] = (3, 4),
        max_length: int | None = None,
        rng: int = 0,
        config: Mapping[str, Any] | None = None,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        registry: dict[str, Any] | None = None,
    ) -> None:
        if not 2 <= n_cells[0] <= n_cells[1]:
            msg = f"n_cells={n_cells} must be two numbers of at least 2, the second not below the first."
            raise ValueError(msg)
        start = None
        if config is None:
            start = _first_stage(hub.load(pretrained))
            vocabulary = start.vocabulary
        if adata is None and registry is None:
            msg = "Pass tokenized `adata` with times, registered by `TrajectoryModel.setup_anndata`."
            raise ValueError(msg)
        vocabulary = self._init_data(adata, registry, vocabulary)
        if not self.vocabulary.has_cls:
            msg = f"Vocabulary {self.vocabulary.name!r} has no <cls> and <eos>, which begin and end the cells of a trajectory. Use a model of V2 tokens, such as 'MaxToki-217M'."
            raise ValueError(msg)
        n_steps = self._times["n_steps"]
        self._tokens = TimeTokens(len(self.vocabulary), -n_steps, n_steps)
        self._n_cells = (int(n_cells[0]), int(n_cells[1]))
        if start is not None:
            first = start.next_gene_model()
            if max_length is None:
                longest = int(registered_tokens(self.adata_manager, self.vocabulary)[1].max(initial=0))
                max_length = min(longest_trajectory(longest, n_cells[1]), _MOST_POSITIONS)
            shape = grown_config(first.encoder.config, len(self._tokens), max_length)
            self._timed_cells(self._n_cells[0] - 1)  # raises now if there are too few times
            with generators_restored(torch.device("cpu")):
                seed_generators(torch.device("cpu"), rng)
                network = grown(first, shape)
        else:
            shape = nn.LlamaConfig.from_hf(dict(config or {}))
            network = nn.NextGeneModel(shape).eval()
        self._max_length = int(max_length or shape.max_length)
        self.module = TrajectoryModule(network, self._tokens).eval()
        self.split_ = self.scores_ = self.cells_ = self._regression = None
        self.tasks_: list[str] = []
        self._model_summary_string = (
            f"TrajectoryModel of times in .obs[{self._time_key!r}]: steps of {self.time_step:g} from {-n_steps} to {n_steps}, trajectories of "
            f"{n_cells[0]} to {n_cells[1]} cells and at most {self._max_length:,} tokens, {shape.n_layers} layers, width {shape.width}, {self.vocabulary!r}"
        )
        pretrained, config = None, shape.to_hf()  # saved models hold their weights themselves
        self.init_params_ = self._get_init_params(locals())

    @train_options(learning_rate=1e-4, keep_best="validation_loss")
    def train(
        self,
        max_epochs: int | None = None,
        *,
        split: evaluation.Split | str | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        test_size: float = 0.1,
        p_time: float = 0.5,
        penalty: float = 10.0,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Train on trajectories of the training cells, or continue training on the same cells.

        In each epoch every training cell is the last of one trajectory, whose other cells are drawn at random from the training cells of its group.
        Trajectories of validation and test cells also begin with training cells, or with cells of their own group if the whole group is
        held out. At the end :attr:`scores` are computed.

        Parameters
        ----------
        max_epochs
            Maximum number of epochs. If neither this nor `max_steps` is given, 10.
        split
            Cells for training, validation and testing: a :class:`scgeneformer.evaluation.Split`, or the name of a column of ``.obs`` with
            ``"train"``, ``"validation"``, ``"test"`` or NaN. By default drawn at random, by sample if the data were set up with samples; further
            calls reuse it.
        train_size, validation_size, test_size
            Fractions of the cells in each set.
        p_time
            Probability that the task of a trajectory is the elapsed time, and not the next cell.
        penalty
            Weight of the probability of tokens other than numbers when the elapsed time is predicted.
        {options}
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`, and thus of the trainer of Lightning.

        Notes
        -----
        Nothing is written to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``validation_loss``, and for the
        validation trajectories ``validation_time_loss``, ``validation_cell_loss`` and ``validation_mae``, in the units of the times. `batch_size`
        counts trajectories, and `token_budget` the tokens of the longest ones that there can be.

        Raises
        ------
        ValueError
            If there are no data, too few times or samples, or trajectories are too long to be cut to the `max_length` of the model.
        {raises}

        Examples
        --------
        `decoder` is one as in the example of the class.

        >>> config = sg.nn.LlamaConfig(
        ...     13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024
        ... )
        >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
        >>> sg.pp.tokenize(adata, decoder)
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day", sample_key="donor")
        >>> model = sg.model.TrajectoryModel(adata, decoder)
        >>> model.train(max_epochs=1, p_time=1.0, train_size=0.5, validation_size=0.25, test_size=0.25)
        >>> model.scores.index.tolist()
        ['model', 'most common interval', 'ridge regression', 'nearest time to it']
        """
        tokens, lengths = self._training_tokens()
        need = longest_trajectory(int(lengths.max()), self._n_cells[1]) - int(lengths.max()) + _SHORTEST
        if need > self._max_length:
            msg = (
                f"Trajectories of {self._n_cells[1]} cells of up to {lengths.max():,} tokens cannot be cut to max_length={self._max_length:,} of this "
                f"model. Make one with max_length={need} or more, or with fewer cells by n_cells=, or run `sg.pp.tokenize(adata, model, max_length=...)`."
            )
            raise ValueError(msg)
        chosen = self.split if split is None and self.cells_ == self._names_hash() else None
        if chosen is None:
            sizes: Sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
            chosen = self._draw_split(lengths, split, options["rng"], sizes)
        pools, n_times = self._pools(chosen, lengths), self._n_cells[0] - 1
        sets = {name: getattr(chosen, name)[has_genes(lengths[getattr(chosen, name)])] for name in SETS}
        usable = {name: pools[name != "train"].with_times(rows, n_times) for name, rows in sets.items()}
        if len(usable["train"]) < LEAST_ITEMS:
            msg = (
                f"{len(usable['train'])} training cells have other training cells of {n_times} times in their group, "
                f"and {LEAST_ITEMS} are needed. Use cells of more times, or a larger train_size=."
            )
            raise ValueError(msg)
        drawn: dict[str, Any] = {
            "n_cells": self._n_cells,
            "max_length": self._max_length,
            "p_time": p_time,
            "seed": options["rng"],
        }
        train, validation = (Trajectories(pool, tokens, lengths, self._tokens, **drawn) for pool in pools)
        loader = loader_options(options)
        longest = min(longest_trajectory(int(lengths.max()), self._n_cells[1]), self._max_length)
        loader["batch_size"] = loader["batch_size"] or max(1, loader["token_budget"] // longest)
        objective = TrajectoryTasks(train, validation, evaluation.Split(**usable), self.time_step)
        self.module.penalty, self.scores_, self._regression = penalty, None, None
        self.split_, self.cells_ = {name: getattr(chosen, name) for name in SETS}, self._names_hash()
        tasks = {"elapsed time": p_time > 0, "next cell": p_time < 1}
        self.tasks_ = [name for name, trained in tasks.items() if trained or name in self.tasks_]
        datamodule = TokenRows(tokens, lengths, sets=usable, targets=objective.targets, **loader)
        if max_epochs is None:
            max_epochs = _EPOCHS if options["max_steps"] is None else -1
        run_training(self, objective, datamodule, max_epochs=max_epochs, options=options)
        if len(usable["test"]) and "elapsed time" in self.tasks_:
            self.scores_ = self.evaluate()
            report(self.scores_)

    def _draw_split(
        self, lengths: np.ndarray, given: evaluation.Split | str | None, rng: int, sizes: Sizes
    ) -> evaluation.Split:
        task = CellTask(self._time_key, "continuous")
        labels = np.where(has_genes(lengths), self._steps(self._cells()), np.nan)[:, None]
        return choose_split(
            self._cells(), [task], labels, given, samples=self._samples(), balance=None, rng=rng, **sizes
        )

    @checked
    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that :func:`scgeneformer.hub.load` and Hugging Face's ``LlamaForCausalLM`` load, with the names of all tokens.

        Parameters
        ----------
        folder
            Folder for ``config.json``, ``model.safetensors``, ``vocabulary.json.gz`` and ``token_dictionary.json``, created if it does not exist.
        dtype
            Precision of the weights in the file.

        Examples
        --------
        >>> config = sg.nn.LlamaConfig(
        ...     13156, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=8, max_length=1024
        ... )
        >>> decoder = sg.hub.Pretrained("random", sg.hub.vocabulary("default"), model=sg.nn.NextGeneModel(config))
        >>> sg.pp.tokenize(adata, decoder)
        >>> adata.obs["day"] = np.arange(32) % 3
        >>> sg.model.TrajectoryModel.setup_anndata(adata, "day")
        >>> sg.model.TrajectoryModel(adata, decoder).export("second_stage")
        >>> sg.tl.embed(adata, "second_stage")
        """
        self._export(folder, self.module.network, dtype)
        dictionary = self._tokens.dictionary(self.vocabulary)
        (Path(folder) / DICTIONARY).write_text(json.dumps(dictionary) + "\n", encoding="utf-8")


def _first_stage(pretrained: hub.Pretrained) -> hub.Pretrained:
    """The decoder to start from.

    Raises
    ------
    ValueError
        If it is not a decoder, or has further tokens already.
    """
    pretrained.encoder.check_offers("completion of cells", "TrajectoryModel")
    n_tokens, n_known = pretrained.encoder.config.vocab_size, len(pretrained.vocabulary)
    if n_tokens != n_known:
        msg = (
            f"{pretrained.name!r} has {n_tokens - n_known:,} tokens beyond its vocabulary, as after a second stage, whose numbers may mean something else here. Start from a decoder of the first stage, "
            "or load a saved TrajectoryModel with `sg.model.TrajectoryModel.load(folder, adata)`."
        )
        raise ValueError(msg)
    return pretrained
