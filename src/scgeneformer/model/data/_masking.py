"""Masking of genes (BERT): which positions are masked, and by what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from scgeneformer.tokens import Vocabulary

Rule = Literal["protected", "geneformer"]
RULES: tuple[Rule, ...] = ("protected", "geneformer")
FIXED_EPOCH = 2**32 - 1  # the epoch of masks that never change, as in validation

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def _hash(keys: np.ndarray, stream: int) -> np.ndarray:
    """splitmix64 (Steele et al. 2014): 64 well-mixed bits for every uint64 key, different ones for every `stream`."""
    with np.errstate(over="ignore"):
        x = keys + _ODD * np.uint64(stream + 1)
        for shift, factor in _MIX:
            x = (x ^ (x >> shift)) * factor
        return x ^ (x >> np.uint64(31))


def _uniform(keys: np.ndarray, stream: int) -> np.ndarray:
    """Uniform numbers in [0, 1), as float64 with 53 random bits."""
    return (_hash(keys, stream) >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class Masking:
    """BERT's masking of 15 % of the positions: 80 % become ``<mask>``, 10 % a random token, 10 % stay.

    What is drawn at a position depends on the seed, the epoch, the number of the cell and the position alone: a mask is the same in
    whatever batch, process or resumed run the cell is seen.

    Attributes
    ----------
    rule
        ``"protected"``: special tokens are never hidden, nor put in the place of a gene.
        ``"geneformer"``: the official rule (`DataCollatorForLanguageModeling` over Geneformer's pre-collator): only ``<pad>`` and
        ``<mask>`` are spared, so ``<cls>`` and ``<eos>`` are hidden too, and random tokens come from the whole vocabulary.
    probability
        Share of the positions that are hidden.
    seed
        Of all draws.
    spared
        bool (vocabulary,): tokens that are never hidden.
    candidates
        Tokens that may stand in for a gene.
    mask_id
        Token that hides.
    """

    rule: Rule
    probability: float
    seed: int
    spared: np.ndarray
    candidates: np.ndarray
    mask_id: int

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, *, rule: Rule = "protected", probability: float = 0.15, seed: int = 0
    ) -> Masking:
        """Masking over the tokens of `vocabulary`."""
        if rule not in RULES:
            msg = f"masking={rule!r} is not one of {RULES}."
            raise ValueError(msg)
        if not 0 < probability < 1:
            msg = f"mask_probability={probability!r} must lie between 0 and 1."
            raise ValueError(msg)
        spared = np.zeros(len(vocabulary), dtype=bool)
        spared[[vocabulary.pad_id, vocabulary.mask_id]] = True
        if rule == "protected":
            spared[np.asarray(vocabulary.special_ids, dtype=np.int64)] = True
        candidates = np.flatnonzero(~spared) if rule == "protected" else np.arange(len(vocabulary))
        return cls(rule, probability, seed, spared, candidates, vocabulary.mask_id)

    def __call__(self, tokens: np.ndarray, cells: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Mask positions of some cells.

        Parameters
        ----------
        tokens
            Integers of shape (B, L), right-padded.
        cells
            Number of each cell in the data set, shape (B,).
        epoch
            Number of the pass over the data.

        Returns
        -------
        inputs
            int64 (B, L): tokens with genes masked.
        where
            bool (B, L): the positions to predict; ``tokens[where]`` are the targets.
        """
        start = _hash(np.array([self.seed % 2**32], dtype=np.uint64), epoch)
        cell_keys = _hash(np.asarray(cells, dtype=np.uint64) ^ start, 0)
        keys = _hash(cell_keys[:, None] + np.arange(tokens.shape[1], dtype=np.uint64), 1)  # (B, L)
        where = (_uniform(keys, 2) < self.probability) & ~self.spared[tokens]
        inputs, chosen = tokens.astype(np.int64), keys[where]
        kind = _uniform(chosen, 3)
        other = self.candidates[(_uniform(chosen, 4) * len(self.candidates)).astype(np.int64)]
        answers = inputs[where]
        inputs[where] = np.where(kind < 0.8, self.mask_id, np.where(kind < 0.9, other, answers))
        return inputs, where

    def targets(self, rows: np.ndarray, tokens: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Masked ``tokens`` int64 (B, L), positions to predict ``where`` bool (B, L), and their ``targets`` int64 (M,)."""
        inputs, where = self(tokens, rows, epoch)
        return {"tokens": inputs, "where": where, "targets": tokens[where].astype(np.int64)}
