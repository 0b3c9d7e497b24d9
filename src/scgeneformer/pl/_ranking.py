"""A ranking as its plots need it: tested genes, their direction, and the words for both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys, get

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# What a test compares a gene's effect with.
REFERENCE = {
    "vs_null": "the null",
    "random_genes": "matched genes",
    "interaction": "the sum",
    "permuted_labels": "permuted labels",
    "aggregate": "0",
    "sets": "random sets",
}


@dataclass(frozen=True)
class Ranking:
    """Tested genes, or sets of genes, for one end state.

    Parameters
    ----------
    frame
        Rows of :func:`~scgeneformer.get.shifts` that were tested.
    rank
        ``.uns[key]["rank"]``.
    run
        ``.uns[key]["params"]``.
    max_fdr
        False discovery rate up to which a gene is significant.
    separation
        ``.uns[key]["separation"]`` of these cells; empty if it is not known.
    screen
        ``.uns[key]["screen"]``, agreement of estimates with exact values; None for exact shifts.
    as_contrast
        Whether the effects to show are shifts towards the target less those towards the source, which a test of the states is about.
    """

    frame: pd.DataFrame
    rank: dict[str, Any]
    run: dict[str, Any]
    max_fdr: float
    separation: dict[str, Any] = field(default_factory=dict)
    screen: pd.DataFrame | None = None
    as_contrast: bool = False

    @property
    def caption(self) -> str:
        """What a reader must know about the states and the ranking as a whole, one line each; empty if nothing is."""
        texts = []
        if "embedding" in self.separation:
            beside = f", by expression {self.separation['expression']:.2f}" if "expression" in self.separation else ""
            texts.append(f"separation of states: AUROC {self.separation['embedding']:.2f}{beside}")
        agreement = self.rank.get("agreement", {})
        agreement = agreement.get(_keys.slot_name(self.group), {}) if self.group is not None else agreement
        if "explained" in agreement and not self.of_sets:
            texts.append(f"expression and rank explain {agreement['explained']:.0%} of the ranking")
        if "untrained" in agreement and not self.of_sets:
            texts.append(f"Spearman with an untrained encoder {agreement['untrained']:.2f}")
        if self.screen is not None:
            row = self.screen.iloc[0]
            ends = f"{row['spearman_low']:.2f} to {row['spearman_high']:.2f}"
            texts.append(f"estimates: Spearman with exact values {row['spearman']:.2f} ({ends})")
        return "\n".join(texts)

    @property
    def names(self) -> np.ndarray:
        """Label of each gene or set, a gene's symbol where there are symbols; (n,)."""
        return self.frame["symbol"].to_numpy() if "symbol" in self.frame else self.ids

    @property
    def ids(self) -> np.ndarray:
        """Name of each gene in ``var_names``, or of each set; (n,)."""
        return self.frame["set" if self.of_sets else "names"].to_numpy()

    @property
    def of_sets(self) -> bool:
        """Whether sets of genes were ranked."""
        return "set" in self.frame

    @property
    def state(self) -> str | None:
        """End state of the effects, None without goal states."""
        return str(self.frame["state"].iloc[0]) if "state" in self.frame else None

    @property
    def group(self) -> str | None:
        """Group of cells, None where they were not perturbed within groups."""
        return str(self.frame["group"].iloc[0]) if "group" in self.frame else None

    @property
    def effect(self) -> np.ndarray:
        """Effect of each gene; float64 (n,)."""
        return self.frame["contrast" if self.as_contrast else "effect"].to_numpy()

    @property
    def strength(self) -> np.ndarray:
        """What genes are chosen by, signed: the score of the test, which large effects in few cells do not have, or else the effect."""
        return self.frame["scores"].to_numpy() if "scores" in self.frame else self.effect

    @property
    def over_donors(self) -> bool:
        """Whether what was tested, and has the interval, is a mean over donors."""
        return "n_donors" in self.frame

    @property
    def against_others(self) -> bool:
        """Whether effects are differences to other genes, or of sets to random sets."""
        of_random_sets = self.of_sets and "plain_effect" in self.frame
        return bool(self.rank.get("centered")) or of_random_sets or (self.over_donors and self._test == "donors")

    @property
    def signed(self) -> bool:
        """Whether effects lie on both sides of a meaningful 0."""
        return self.two_sided or self.against_others

    @property
    def two_sided(self) -> bool:
        """Whether genes below what they were compared with are worth naming: not those of less effect than others."""
        return self.state is not None or self._test == "interaction"

    @property
    def _test(self) -> str:
        return "sets" if self.of_sets else self.rank.get("test", "rank_sum")

    @property
    def intervals(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper ends of the 95 % confidence intervals, or None."""
        low, high = (f"{'contrast' if self.as_contrast else 'effect'}_{end}" for end in ("low", "high"))
        if low not in self.frame or high not in self.frame:
            return None
        return self.frame[low].to_numpy(), self.frame[high].to_numpy()

    @property
    def tests_states(self) -> bool:
        """Whether scores and p-values are those of the contrast of the target and the source."""
        return self._test == "states" and self.state == str(self.run.get("target"))

    @property
    def direction(self) -> np.ndarray:
        """1 and -1 for genes significantly above and below what they were compared with, 0 for the rest; (n,)."""
        if "impact" in self.frame:
            return (self.frame["impact"] == 1).to_numpy().astype(int)
        if "pvals_adj" in self.frame:
            significant = self.frame["pvals_adj"].to_numpy() <= self.max_fdr
            return np.where(significant, np.sign(self.frame["scores"].to_numpy()), 0).astype(int)
        if self.signed and self._test == "aggregate" and (ends := self.intervals) is not None:
            low, high = ends
            return (low > 0).astype(int) - (high < 0).astype(int)
        return np.zeros(len(self.frame), dtype=int)

    def legend(self, *, counts: bool) -> dict[int, str]:
        """Name of each direction that occurs, with the number of its genes if `counts`."""
        if "impact" in self.frame:
            names = {1: "impact", 0: "no impact"}
        elif self.tests_states:
            rest = f"FDR > {self.max_fdr:g}"
            names = {1: f"towards {self.state}", -1: f"towards {self.run['source']}", 0: rest}
        else:
            reference = REFERENCE.get(self._test, "other genes")
            rest = f"FDR > {self.max_fdr:g}" if "pvals_adj" in self.frame else "rest" if self.signed else "tested"
            names = {1: f"above {reference}", -1: f"below {reference}", 0: rest}
        direction = self.direction
        number = {d: int(np.sum(direction == d)) for d in names}
        return {d: f"{text} ({number[d]:,})" if counts else text for d, text in names.items() if number[d]}

    def quantity(self) -> tuple[str, str]:
        """What the effect is, and its measure."""
        what, measure = words(self.run, self.state)
        if self.as_contrast:
            what = f"{what} minus that towards {self.run['source']}"
        if self._test == "interaction":
            what = f"{what} beyond the sum of singles"
        elif self.against_others:
            what = f"{what} beyond {'random sets' if self.of_sets else 'other genes'}"
        return f"{what}, over donors" if self.over_donors else what, measure

    def on_state(self, data: AnnData, key: str, state: str) -> Ranking:
        """The same genes, in the same order, with their effects on another end state."""
        frame = get.shifts(data, key=key, state=state, group=self.group, sets=self.of_sets)
        name = "set" if self.of_sets else "names"
        return replace(self, frame=frame.set_index(name).loc[self.ids].reset_index(), as_contrast=False)


def read_ranking(
    data: AnnData,
    *,
    key: str,
    state: str | None,
    max_fdr: float,
    group: str | None = None,
    all_groups: bool = False,
    sets: bool | None = None,
    gene_symbols: str | None = None,
) -> Ranking:
    """Tested genes or sets of a ranking, of one `group` or `all_groups` where there are some; an error if there are none."""
    frame = get.shifts(data, key=key, state=state, group=group, sets=sets, gene_symbols=gene_symbols)
    rank, run = data.uns[key]["rank"], data.uns[key]["params"]
    if group is None and not all_groups and "group" in frame:
        msg = f"The ranking of {key!r} is by group. Name one: group={' or '.join(repr(str(name)) for name in rank['groups'])}."
        raise ValueError(msg)
    called = next((column for column in ("pvals", "impact") if column in frame), None)
    tested = frame[called].notna() if called else frame["n_cells"] >= rank.get("min_cells", 1)
    if not tested.any():
        what = f"gene in .varm[{key!r}]" if "names" in frame else f"set in .uns[{key!r}]['sets']"
        msg = f"No {what} was tested. Run `sg.tl.rank_shifts(adata, min_cells=...)` with a lower value."
        raise ValueError(msg)
    separation = data.uns[key].get("separation", {})
    separation = separation if group is None else separation.get(_keys.slot_name(group), {})
    return Ranking(frame[tested].reset_index(drop=True), rank, run, max_fdr, separation, data.uns[key].get("screen"))


def words(run: dict[str, Any], state: str | None, *, mean: bool = True, centered: bool = False) -> tuple[str, str]:
    """Name and measure of an effect: of the shift towards `state`, or without goal states of the effect as such."""
    what = f"shift towards {state}" if state is not None else "effect"
    what = f"mean {what}" if mean else what
    if run.get("anchor") is not None:
        what = f"{what} with {run['anchor']}"
    what = f"{what} beyond other genes" if centered else what
    return what, "Δ cosine similarity" if state is not None else "1 − cosine similarity"


def check_state(run: dict[str, Any], key: str, state: str | None) -> str | None:
    """Return `state`, the target if None (None without goal states), after checking that shifts to it were measured."""
    states = _keys.end_states(run)
    if state is not None and state not in states:
        msg = f"state={state!r} is not an end state of {key!r}, which has {states or 'no goal states'}."
        raise ValueError(msg)
    return state or next(iter(states), None)


def slot_of_state(run: dict[str, Any], key: str, state: str | None) -> str:
    """Name of the slot `key` for `state`: itself for the target and without goal states."""
    return key if state is None or state == str(run.get("target")) else _keys.state_layer(key, state)
