"""An encoder that is fine-tuned to classify pairs of genes by the states of both in the same cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.special import softmax

from scgeneformer import engine, evaluation, nn
from scgeneformer._files import write_tensors
from scgeneformer._settings import engine_options
from scgeneformer.model._classifier import Backbone, limit_training
from scgeneformer.model.objectives._pairs import PairClassifierModule, PairLabels
from scgeneformer.model.recipes._pairs import TrainingPairs
from scgeneformer.model.recipes._portfolio import train_portfolio
from scgeneformer.model.recipes._probe import fit_probe
from scgeneformer.model.recipes._recipe import resolve_recipe
from scgeneformer.model.recipes._selection import PROBE, Selection
from scgeneformer.model.training._options import train_options

from ._splits import pair_folds

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self, Unpack

    import pandas as pd

    from scgeneformer.model.training._options import TrainOptions
    from scgeneformer.tokens import Vocabulary

_HELD_OUT = 4  # folds of genes, one of which selects
_PAIRS_AT_ONCE = 50_000
_HEAD, _TRAINING = "head.safetensors", "training.json"


class PairEncoder:
    """An encoder with a linear head for pairs in cells, as the training runner takes it.

    Parameters
    ----------
    network
        The encoder and its head.
    vocabulary
        Of the encoder.
    classes
        Names of the classes.
    tokens
        Of the cells that pairs are read from, (n_cells, L); None until there are any.

    Attributes
    ----------
    temperature
        What scores are divided by.
    selected
        What the last training kept.
    """

    trainer: Any
    selected: Selection

    def __init__(
        self, network: nn.PairClassifier, vocabulary: Vocabulary, classes: tuple[str, ...], tokens: np.ndarray | None
    ) -> None:
        self.module = PairClassifierModule(network).eval()
        self.vocabulary, self.classes, self.tokens = vocabulary, classes, tokens
        self.history_: dict[str, pd.DataFrame] | None = {}
        self.is_trained_ = False
        self.temperature = 1.0

    @classmethod
    def of(
        cls,
        pretrained: Any,
        classes: tuple[str, ...],
        tokens: np.ndarray | None,
        *,
        directed: bool,
        freeze: int | Literal["all"] = 0,
    ) -> Self:
        """A copy of a pretrained encoder with a new head; `freeze` as of `limit_training`."""
        start = Backbone.of(pretrained, None, None, dropout=None, attention_dropout=0.0)
        with torch.random.fork_rng(devices=[]):  # of the head, which the probe replaces
            network = nn.PairClassifier(start.config, len(classes), directed=directed)
        start.fill(network.encoder)
        limit_training(network, freeze=freeze, lora=None, quantize=None)
        model = cls(network, pretrained.vocabulary, classes, tokens)
        model.module.frozen = freeze == "all"
        return model

    @property
    def encoder(self) -> nn.Backbone:
        """The encoder."""
        return self.module.network.encoder

    def to_device(self, device: str | int | torch.device) -> None:
        """Move the network, for the runner."""
        self.module.to(device)

    @train_options(learning_rate=None, warmup=None, keep_best="auto")
    def train(
        self,
        pairs: np.ndarray,
        codes: np.ndarray,
        families: np.ndarray,
        *,
        recipe: Literal["auto", "probe"] = "auto",
        max_epochs: int | None = None,
        max_cells: int | None = None,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Fit a probe, fine-tune from there, and keep what predicts pairs of unseen genes better.

        Parameters
        ----------
        pairs, codes
            int64 (n, 2), tokens of genes, and their classes, (n,). Pairs that share no cell are passed over.
        families
            Of the genes of the vocabulary, (V,).
        recipe
            ``"probe"``: fit the head to all pairs, and nothing else.
        max_epochs, max_cells
            As of :meth:`PairClassifier.train`.
        {options}
        **trainer_kwargs
            Options of Lightning's trainer.

        Raises
        ------
        ValueError
            If the pairs of a class share no cell, or an option has no meaning.
        {raises}
        """
        resolve_recipe(self, recipe, max_epochs, options)
        rng = options["rng"]
        tokens = self._chosen_cells(pairs, max_cells, rng)
        _, n_cells = engine.count_pairs(tokens, pairs, len(self.vocabulary))
        pairs, codes = pairs[n_cells > 0], codes[n_cells > 0]
        few = [name for code, name in enumerate(self.classes) if np.sum(codes == code) < 2]
        if few:
            msg = (
                f"Fewer than two pairs of the classes {few} have both genes in one cell, so no encoder can learn them. Give more "
                'cells, cells with more tokens (max_length= of `sg.pp.tokenize`), more pairs, or classifier="logistic".'
            )
            raise ValueError(msg)
        everything = evaluation.Split(np.arange(len(pairs)), np.arange(0), np.arange(0))
        directed = self.module.network.directed
        split = everything if recipe == PROBE else held_out(pairs, codes, families, directed=directed, rng=rng)
        rows, _ = engine.count_pairs(tokens, pairs[split.train], len(self.vocabulary))
        objective = PairLabels(pairs[split.train], codes[split.train], len(self.vocabulary))
        labels, lengths = codes[:, None].astype(np.float32), engine.row_lengths(tokens)
        items = TrainingPairs(self, tokens, lengths, labels, split, objective, pairs, np.flatnonzero(rows))
        self.selected = train_portfolio(items, recipe, max_epochs, options)
        self.temperature = 1.0
        if self.selected.kept != PROBE:
            scores = items.scores(split.validation)
            self.temperature = evaluation.temperature(scores, codes[split.validation])
        elif len(split.validation):  # the probe learns from all, too
            states = items.states(everything.train)
            probe = fit_probe(items.tasks, states, labels, groups=None, class_weights={}, rng=rng)
            probe.put_into(self.module.network)

    def _chosen_cells(self, pairs: np.ndarray, max_cells: int | None, rng: int) -> np.ndarray:
        """Tokens of the cells with both genes of a pair, no more than `max_cells`."""
        cells = self._cells()
        rows = np.flatnonzero(engine.count_pairs(cells, pairs, len(self.vocabulary))[0])
        if max_cells is not None and max_cells < len(rows):
            rows = np.sort(np.random.default_rng(rng).choice(rows, max_cells, replace=False))
        return cells[rows]

    def _cells(self) -> np.ndarray:
        if self.tokens is None:
            msg = "A fine-tuned encoder reads pairs in cells, but this model was loaded without any. Pass them: `PairClassifier.load(folder, adata)`."
            raise ValueError(msg)
        return self.tokens

    def features(self, tokens: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Mean features of pairs in these cells, float32 (n, F), NaN for those that share no cell."""
        options: dict[str, Any] = engine_options()
        return engine.pair_features(self.module.network, tokens, pairs, **options).features.astype(np.float32)

    def scores_of(self, features: np.ndarray) -> np.ndarray:
        """Scores of pairs with these features, (n, C)."""
        network = self.module.network
        with torch.no_grad():
            return network.scores(torch.from_numpy(features).to(network.classifier.weight)).float().cpu().numpy()

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        """Probabilities of the classes of pairs, int64 (n, 2), by their mean scores over cells, (n, C); NaN for those that share no cell."""
        parts = np.split(pairs, range(_PAIRS_AT_ONCE, len(pairs), _PAIRS_AT_ONCE))
        scores = np.concatenate([self.scores_of(self.features(self._cells(), part)) for part in parts])
        return softmax(scores.astype(np.float64) / self.temperature, axis=1)

    def write(self, folder: Path) -> None:
        """Write the encoder to a new folder in the layout of Hugging Face, and the head beside it."""
        network = self.module.network
        nn.save_checkpoint(folder, network.encoder)
        head = {name: part for name, part in network.state_dict().items() if not name.startswith("encoder.")}
        write_tensors(folder / _HEAD, head)
        text = json.dumps({"temperature": self.temperature, "selected": self.selected.state})
        (folder / _TRAINING).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, vocabulary: Vocabulary, classes: tuple[str, ...], *, directed: bool) -> Self:
        """What `write` wrote, without cells.

        Raises
        ------
        ValueError
            If the head is incomplete.
        """
        encoder = nn.load_backbone(folder)
        with torch.random.fork_rng(devices=[]):  # of weights that are replaced
            network = nn.PairClassifier(encoder.config, len(classes), directed=directed)
        missing = network.load_state_dict(load_file(folder / _HEAD), strict=False).missing_keys
        if lost := [name for name in missing if not name.startswith("encoder.")]:
            msg = f"{folder / _HEAD} lacks {', '.join(lost)}, and was not written by `model.save`, or is damaged. Save the model again."
            raise ValueError(msg)
        network.encoder = encoder
        model, training = cls(network, vocabulary, classes, None), json.loads((folder / _TRAINING).read_bytes())
        model.temperature, model.is_trained_ = training["temperature"], True
        model.selected = Selection.restored(training["selected"], {})
        return model


def held_out(
    pairs: np.ndarray, codes: np.ndarray, families: np.ndarray, *, directed: bool, rng: int
) -> evaluation.Split:
    """Pairs to learn from, and pairs whose genes are in none of these, to select by; all to learn from if there are too few."""
    rows = np.arange(len(pairs))
    try:
        fold = pair_folds(pairs, codes, families, _HELD_OUT, "both_unseen", directed=directed, rng=rng)[0]
    except ValueError:
        return evaluation.Split(rows, rows[:0], rows[:0])
    return evaluation.Split(fold.train, fold.test, rows[:0])
