"""Tokens of time: numbers of steps, and what begins and ends a question. A decoder grows by them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer import nn

if TYPE_CHECKING:
    from scgeneformer.tokens import Vocabulary

MOST_STEPS = 10_000


@dataclass(frozen=True)
class TimeTokens:
    """Tokens after those of genes: numbers in ascending order, ``<boq>``, ``<eoq>``, as in the dictionary published with MaxToki.

    Attributes
    ----------
    first
        Token of the lowest number; as many tokens a cell can have.
    low, high
        Lowest and highest number of steps.
    """

    first: int
    low: int
    high: int

    @property
    def n_numbers(self) -> int:
        """How many numbers there are; their tokens follow each other."""
        return self.high - self.low + 1

    @property
    def boq(self) -> int:
        """Token that begins a question."""
        return self.first + self.n_numbers

    @property
    def eoq(self) -> int:
        """Token that ends a question."""
        return self.boq + 1

    def __len__(self) -> int:
        return self.eoq + 1

    @property
    def values(self) -> np.ndarray:
        """The numbers, float32 (n_numbers,)."""
        return np.arange(self.low, self.high + 1, dtype=np.float32)

    def of(self, steps: int) -> int:
        """The token of a number of steps.

        Raises
        ------
        ValueError
            If it has none.
        """
        if not self.low <= steps <= self.high:
            msg = f"An interval of {steps} steps has no token in this model, which was set up with {self.low} to {self.high} steps."
            raise ValueError(msg)
        return self.first + int(steps) - self.low

    def dictionary(self, vocabulary: Vocabulary) -> dict[str, int]:
        """All tokens by name, as MaxToki has them."""
        names = ["<bos>" if name == "<cls>" else name for name in vocabulary.ids.tolist()]
        names += [*map(str, range(self.low, self.high + 1)), "<boq>", "<eoq>"]
        return {name: token for token, name in enumerate(names)}


def grown_config(config: nn.LlamaConfig, n_tokens: int, max_length: int) -> nn.LlamaConfig:
    """`config` with more tokens, and positions for trajectories: where these are longer than its rows, low frequencies rotate slower."""
    scaling = config.rope_scaling
    if max_length > config.max_length:
        original = config.max_length if scaling is None else scaling.original_length
        bands = {} if scaling is None else {"low": scaling.low, "high": scaling.high}
        scaling = nn.RopeScaling(factor=max(max_length / original, 1.0), original_length=original, **bands)
    longest = max(max_length, config.max_length)
    return replace(config, vocab_size=n_tokens, max_length=longest, rope_scaling=scaling)


def grown(network: nn.NextGeneModel, config: nn.LlamaConfig) -> nn.NextGeneModel:
    """A copy of `network` in the shape of `config`, with new rows of the table of tokens and of the matrix of scores."""
    new = nn.NextGeneModel(config)
    with torch.no_grad():
        state = new.state_dict()
        for name, value in network.state_dict().items():
            state[name][: len(value)] = value
        new.load_state_dict(state)
    return new.eval()
