"""What a cell's representation does when its genes are perturbed: exactly, one forward pass for each perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from scgeneformer.engine._batching import Batch, for_each_batch, row_lengths, to_device
from scgeneformer.engine._device import default_token_budget, on_device, resolve_device, resolve_precision
from scgeneformer.engine._embed import check_pooling, embed_rows, layers_to_run, pool
from scgeneformer.engine._finite import check_finite

from ._edits import edit, edited_values

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm.auto import tqdm

    from scgeneformer.nn import Backbone

    from ._directions import Directions
    from ._edits import Edited
    from ._effects import GeneEffects
    from ._enumerate import Edits, Perturbation


def measure(
    encoder: Backbone,
    edits: Edits,
    perturbation: Perturbation,
    *,
    pooling: str,
    n_special: int,
    states: np.ndarray | None = None,
    linear: bool = False,
    effects: GeneEffects | None = None,
    directions: Directions | None = None,
    emb_layer: int = -1,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    bar: tqdm | None = None,
) -> np.ndarray:
    """Perturb cells and compare each with itself before.

    Edits of many cells run in one stream of batches; rows are edited on the device.

    Parameters
    ----------
    encoder, pooling, n_special, emb_layer, device, precision, token_budget
        As for `embed`.
    edits, perturbation
        The P edits, and the perturbation they are of.
    states
        float (S, H): positions of states in the same embedding (same encoder, layer and pooling). None compares each
        cell with its own original only.
    linear
        `states` are weights of linear readouts of the embedding instead.
    effects
        Gets the cosine of every gene that is not perturbed, before and after.
    directions
        Gets the movement of every cell; with `states` only.
    bar
        A progress bar to move on.

    Returns
    -------
    float64 (P, S) with states: how much the cosine to each state grows (positive is towards it), or each linear readout.
    float64 (P, 1) without: the cosine similarity of perturbed and original (1 is no effect), of the first states for
    ``"cls"``, of the last ones for ``"eos"``, and the mean over the genes that are not perturbed of each gene's own cosine for ``"mean"``, as the official
    tool does; NaN where there are none.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite states.
    """
    check_pooling(pooling, encoder.config)
    place = resolve_device(device)
    budget = token_budget or default_token_budget(place)
    n_layers = layers_to_run(encoder, emb_layer)
    tokens, rows = edits.tokens, edits.rows
    lengths = row_lengths(tokens)
    by_gene = states is None and pooling == "mean"
    first_only = slice(0, 1) if pooling == "cls" and effects is None else None
    values = np.empty((len(edits), 1 if states is None else len(states)))
    with on_device(encoder, place, resolve_precision(precision, place)) as network:
        genes = None
        if by_gene or effects is not None:
            genes = _GeneComparison(network, tokens, lengths, n_layers, n_special)
        if not by_gene:
            used, of = np.unique(edits.of, return_inverse=True)
            before, *_ = embed_rows(
                network,
                edits.originals[used],
                pooling=pooling,
                n_special=n_special,
                emb_layer=emb_layer,
                device=str(place),
                precision=_name(network),
                token_budget=budget,
            )
            before = before.astype(np.float64)

        def step(batch: np.ndarray) -> None:
            row = rows[batch]
            original = to_device(tokens[row], lengths[row], place)  # (B, L)
            targets = torch.from_numpy(edits.targets[batch]).to(place)
            edited = edit(
                original.tokens,
                targets,
                perturbation.kind,
                n_special=n_special,
                quartiles=perturbation.quartiles,
                ranks=perturbation.ranks,
            )
            width = edited.tokens.shape[1]
            there = None if int(edited.lengths.min()) == width else edited.tokens > 0
            length = original.tokens.shape[1]
            inputs = {
                name: edited_values(values, edited, targets, perturbation.kind, perturbation.factor)
                for name, values in original.inputs.items()
            }
            if perturbation.positions == "kept" and not inputs:  # genes with values have no order
                inputs = {"ranks": edited.source.clamp(max=length - 1)}
            hidden = Batch(edited.tokens, there, inputs).states(network, n_layers=n_layers, positions=first_only)
            if not by_gene:
                after = pool(hidden, edited.tokens, pooling, n_special).cpu().double().numpy()
                check_finite(after)
                values[batch] = _compare(before[of[batch]], after, states, linear=linear)
                if directions is not None:
                    moved = _unit(after) - _unit(before[of[batch]])
                    directions.add(edits.what[batch], edits.cells[batch], directions.project(moved))
            if genes is None:
                return
            cosines = genes(hidden, edited, length, row)  # (B, L'), NaN elsewhere
            if by_gene:
                values[batch, 0] = torch.nanmean(cosines.cpu().double(), 1)
            if effects is not None:
                measured, at = torch.nonzero(~cosines.isnan(), as_tuple=True)
                affected = edited.tokens[measured, at].cpu().numpy()
                found = cosines[measured, at].cpu().double().numpy()
                effects.add(edits.what[batch][measured.cpu().numpy()], affected, found)

        most = lengths[rows] + (edits.targets.shape[1] if perturbation.kind == "overexpress" else 0)
        for_each_batch(most, budget, step, bar=bar)
    return values


def _name(network: torch.nn.Module) -> str:
    return str(next(network.parameters()).dtype).removeprefix("torch.")


def _compare(before: np.ndarray, after: np.ndarray, states: np.ndarray | None, *, linear: bool) -> np.ndarray:
    """Cosines of whole cells, in float64, since changes of a cosine can be as small as float32's rounding, or readouts; (B, S or 1)."""
    if states is None:
        return cosine(before, after)[:, None]
    if linear:
        return (after - before) @ np.asarray(states, dtype=np.float64).T
    goal = np.asarray(states, dtype=np.float64)
    return cosine(after[:, None], goal) - cosine(before[:, None], goal)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of vectors along the last axis."""
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


class _GeneComparison:
    """Cosine between the state of each gene that is not perturbed before and after.

    Original states are whole (L, H) matrices, so they are computed when a batch first needs them and kept only while it may
    need them again: batches come cell by cell, so these are few.
    """

    def __init__(
        self, network: Backbone, tokens: np.ndarray, lengths: np.ndarray, n_layers: int, n_special: int
    ) -> None:
        self.network, self.tokens, self.lengths = network, tokens, lengths
        self.n_layers, self.n_special = n_layers, n_special
        self.kept: dict[int, Tensor] = {}

    def originals(self, rows: np.ndarray, place: torch.device) -> Tensor:
        """States of each perturbation's original row, (B, L, H), and zero after its end."""
        needed, of = np.unique(rows, return_inverse=True)
        self.kept = {row: self.kept[row] for row in needed if row in self.kept}
        for row in needed:
            if row not in self.kept:
                batch = to_device(self.tokens[[row]], self.lengths[[row]], place)
                self.kept[row] = batch.states(self.network, n_layers=self.n_layers)[0]  # (L, H)
        stacked = torch.nn.utils.rnn.pad_sequence([self.kept[row] for row in needed], batch_first=True)
        return stacked[torch.from_numpy(of).to(place)]

    def __call__(self, hidden: Tensor, edited: Edited, length: int, rows: np.ndarray) -> Tensor:
        """(B, L'), NaN at special tokens, perturbed genes and padding; `length` is L of the rows before the edit."""
        before = self.originals(rows, hidden.device)  # (B, L, H)
        at = edited.source.clamp(max=length - 1)
        before = before.gather(1, at[..., None].expand(-1, -1, before.shape[-1]))  # (B, L', H)
        cosine = F.cosine_similarity(before.float(), hidden.float(), dim=-1)  # (B, L')
        background = (edited.tokens >= self.n_special) & (edited.source < length)
        check_finite(cosine[background].cpu().numpy())
        return torch.where(background, cosine, torch.nan)
