"""Edits of ranked cells, as index arithmetic on batches of token rows.

Every edit takes the perturbed genes out of the ranking and, unless it deletes them, puts them back at other places. What remains keeps its
order. Special tokens are never perturbed: <cls> stays first and <eos> last.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["delete", "overexpress", "inhibit", "activate", "scale"]
KINDS: tuple[Kind, ...] = ("delete", "overexpress", "inhibit", "activate")  # of ranked genes
Positions = Literal["renumbered", "kept"]
POSITIONS: tuple[Positions, ...] = ("renumbered", "kept")
_NOWHERE = 2**31 - 1


class Edited(NamedTuple):
    """Edited rows.

    Attributes
    ----------
    tokens
        int64 (B, L'), right-padded with 0.
    source
        int64 (B, L'): from which position of the original row each token came; L or more for tokens that were put in or scaled, and for padding.
    lengths
        int64 (B,).
    """

    tokens: Tensor
    source: Tensor
    lengths: Tensor


def edit(
    tokens: Tensor, targets: Tensor, kind: Kind, *, n_special: int, quartiles: int = 1, ranks: int | None = None
) -> Edited:
    """Perturb the genes `targets` of each row together.

    Parameters
    ----------
    tokens
        int64 (B, L), right-padded with 0. Every row holds a gene, and either all begin with <cls> or none does.
    targets
        int64 (B, K), 0 for none, else distinct. Genes that are not in a row come in by ``"overexpress"`` only.
    kind
        ``"delete"`` takes genes out. ``"overexpress"`` puts them before all others, in the order of `targets`. ``"inhibit"`` and ``"activate"``
        move them down or up by quartiles or by ranks, see `new_rank`. ``"scale"`` leaves all where they are: it is for genes with values.
    n_special
        Token ids below this one are special.
    quartiles, ranks
        Quartiles to move by; or, if given, ranks.

    Notes
    -----
    Genes that are moved together each get as many of the other genes before them as the rule says, or all of them; those that come to stand
    at one place are in the order of `targets`.
    """
    length = tokens.shape[1]
    same = (tokens[:, :, None] == targets[:, None, :]) & (targets > 0)[:, None, :]  # (B, L, K)
    if kind == "scale":
        place = torch.arange(length, device=tokens.device)
        return Edited(tokens, torch.where(same.any(2) | (tokens == 0), length, place), (tokens > 0).sum(1))
    kept = (tokens > 0) & ~same.any(2)
    first = int(tokens[0, 0] < n_special)  # <cls> comes before all genes
    if kind == "delete":
        places = torch.full_like(targets, _NOWHERE)
    elif kind == "overexpress":
        places = torch.where(targets > 0, first, _NOWHERE)
    else:
        rank = same.int().argmax(1) - first  # (B, K)
        n_genes = (tokens >= n_special).sum(1, keepdim=True)
        n_others = (kept & (tokens >= n_special)).sum(1, keepdim=True)  # <eos> stays after all genes
        goal = new_rank(rank, n_genes, kind, quartiles, ranks).minimum(n_others)
        places = torch.where(same.any(1), first + goal, _NOWHERE)
    # What is kept has odd keys 1, 3, 5, ...; a gene to be placed after p kept tokens has the key 2 p.
    keys = torch.cat([torch.where(kept, 2 * kept.cumsum(1) - 1, _NOWHERE), places.clamp(max=_NOWHERE // 2) * 2], 1)
    there = keys < _NOWHERE - 1
    lengths = there.sum(1)
    source = keys.argsort(dim=1, stable=True)[:, : int(lengths.max())]
    edited = torch.cat([tokens, targets], 1).gather(1, source)
    inside = torch.arange(source.shape[1], device=tokens.device) < lengths[:, None]
    return Edited(torch.where(inside, edited, 0), torch.where(inside, source, length), lengths)


def new_rank(rank: Tensor, n_genes: Tensor, kind: Kind, quartiles: int, ranks: int | None = None) -> Tensor:
    """Where a gene of rank `rank` (0 is the highest) among `n_genes` comes to stand.

    ``"overexpress"`` is the top. ``"activate"`` goes to the middle of the quartile `quartiles` higher, or to the top where there is none;
    ``"inhibit"`` to the middle of the quartile `quartiles` lower, or to the bottom. (Described, but refused, by the official tool.) If
    `ranks` are given, they go up or down by that number, or to the top or bottom.
    """
    if kind == "overexpress":
        return torch.zeros_like(rank)
    if ranks is not None:
        return (rank + (ranks if kind == "inhibit" else -ranks)).clamp(min=0).minimum(n_genes - 1)
    quartile = 4 * rank // n_genes + (quartiles if kind == "inhibit" else -quartiles)
    middle = (2 * quartile + 1) * n_genes // 8
    return torch.where(quartile < 0, 0, torch.where(quartile > 3, n_genes - 1, middle))


def edited_values(values: Tensor, edited: Edited, targets: Tensor, kind: Kind, factor: float) -> Tensor:
    """Values of edited rows, float (B, L'), from those of the rows before, log1p of counts (B, L).

    Genes that are not perturbed keep theirs. A gene that is overexpressed gets the highest of the cell, and of one that is scaled, the count is
    multiplied by `factor`.
    """
    if kind == "scale":
        scaled = (edited.source >= values.shape[1]) & (edited.tokens > 0)
        return torch.where(scaled, torch.log1p(values.expm1() * factor), values)
    highest = values[:, 1:].amax(1, keepdim=True)  # after <cls>, whose value is the depth
    after = torch.cat([values, highest.expand(-1, targets.shape[1])], 1).gather(1, edited.source)
    return torch.where(edited.tokens > 0, after, 0)
