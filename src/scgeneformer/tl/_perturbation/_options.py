"""Options that `tl.perturb`, `tl.perturb_sets` and `tl.screen` share, and their documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from scgeneformer.engine import Pooling
    from scgeneformer.engine.perturb import Kind, Positions
    from scgeneformer.nn._backbone import Ability

    from ._states import Centroids


MOVES = ("inhibit", "activate")


@dataclass(frozen=True)
class PerturbOptions:
    """What a caller asked for, except what is perturbed; see the public functions. States are named by `named_states`."""

    kind: Kind
    quartiles: int
    ranks: int | None
    groupby: str | None
    source: Any
    target: Any
    others: Sequence[Any] | str
    within: str | None
    centroids: Centroids
    max_state_cells: int | None
    cells: Any
    max_cells: int | None
    missing: str
    pooling: Pooling | None
    emb_layer: int | None
    checkpoint: str | Path | None
    tokens_key: str
    key_added: str
    rng: int | np.random.Generator | None
    outputs: str | Sequence[str] | None = None
    positions: Positions = "renumbered"
    effects: bool = False
    decompose: bool = False
    directions: bool = False
    n_axes: int = 0  # along which movements are kept, besides the states; 0 for whole movements
    compat: str | None = None
    n_reference: int = 0
    n_random: int = 0
    untrained: bool = False
    factor: float | None = None
    allow_poor: bool = False

    @property
    def other_states(self) -> list[str]:
        """`others` as a list."""
        return [self.others] if isinstance(self.others, str) else list(self.others)

    @property
    def inserts(self) -> bool:
        """Whether genes may be inserted that a cell does not express."""
        return self.kind == "overexpress"

    def with_directions(self, *, asked: bool | None) -> PerturbOptions:
        """The same with movements if they are asked for; by default if they are of use."""
        return replace(self, directions=self.between_states if asked is None else asked)

    @property
    def needs(self) -> dict[Ability, str]:
        """Abilities that the model must have, and what asks for them."""
        of_ranks = {"kind": self.kind in MOVES, "positions": self.positions == "kept", "compat": self.official}
        asked = [f"{name}={getattr(self, name)!r}" for name, is_asked in of_ranks.items() if is_asked]
        needs: dict[Ability, str] = {"ranks of genes": ", ".join(asked)} if asked else {}
        return needs | ({"values of genes": f"kind={self.kind!r}"} if self.kind == "scale" else {})

    @property
    def official(self) -> bool:
        """Whether to follow the official tool where it differs."""
        return self.compat == "official"

    @property
    def between_states(self) -> bool:
        """Whether shifts are between two states whose centroids are computed, so that their difference can be tested."""
        named = self.source is not None and self.target is not None
        return named and isinstance(self.centroids, str) and self.outputs is None and not self.official

    @property
    def beside_untrained(self) -> bool:
        """Whether shifts stand beside those by an untrained encoder, which is asked for single genes between two states."""
        return self.untrained and self.source is not None and self.target is not None and not self.official

    def centroids_of(self, group: str | None) -> Centroids:
        """How the centroids of a group are made, or given ones; empty where they are given, but not of this group."""
        if group is None or not isinstance(self.centroids, Mapping) or self.outputs is not None:
            return self.centroids
        return self.centroids.get(group, {})

    def check(self) -> None:
        """Raise for values that contradict each other."""
        kept = self.positions == "kept"
        stated = ("groupby", "source", "target", "pooling", "emb_layer", "compat")
        beside = [name for name in stated if getattr(self, name) is not None]
        beside += [name for name in ("others", "decompose", "directions") if getattr(self, name)]
        beside += ["centroids"] if self.centroids != "mean" else []
        wrong = [
            (
                self.outputs is not None and bool(beside),
                f"outputs={self.outputs!r} measures what a classifier predicts, in the embedding that it reads: leave out {beside}. Choose cells by "
                "`cells`.",
            ),
            (
                self.outputs is not None and len(self.outputs) == 0,
                "`outputs` names no label of the classifier.",
            ),
            (
                self.ranks is not None and (self.kind not in MOVES or self.quartiles != 1),
                f"ranks={self.ranks!r} moves genes that are inhibited or activated, in place of `quartiles`: leave out "
                f"one of the two, or use kind='inhibit' or 'activate' in place of {self.kind!r}.",
            ),
            (
                (self.factor is None) == (self.kind == "scale"),
                f"kind={self.kind!r} with factor={self.factor!r}: a factor, such as 0.5, is what kind='scale' multiplies counts by. Pass both, or neither.",
            ),
            (
                kept and self.kind != "delete",
                f"positions='kept' is for kind='delete'; kind={self.kind!r} is a change of positions. Leave out `positions`.",
            ),
            (
                kept and self.official,
                "positions='kept' does not exist in the official tool. Leave out `compat`, or `positions`.",
            ),
            (
                self.decompose and (kept or self.kind != "delete"),
                "decompose=True is for ordinary deletions: use kind='delete' and leave out `positions`.",
            ),
            (
                self.decompose and self.target is None,
                "decompose=True splits a shift towards a state into parts: name a `target`.",
            ),
            (
                self.directions and (self.source is None or self.target is None or isinstance(self.centroids, Mapping)),
                "directions=True is for tests of two states: name `source` and `target`, and leave out given `centroids`.",
            ),
            (
                self.n_random == 1,
                "n_random=1 has no spread to compare with: use 0, or at least 2.",
            ),
        ]
        for is_wrong, msg in wrong:
            if is_wrong:
                raise ValueError(msg)

    def as_params(self) -> dict[str, Any]:
        """What `uns` keeps of them."""
        return {
            "kind": self.kind,
            "quartiles": self.quartiles if self.kind in MOVES and self.ranks is None else None,
            "ranks": self.ranks,
            "factor": self.factor,
            "positions": self.positions if self.positions == "kept" else None,
            "decompose": self.decompose or None,
            "directions": self.directions or None,
            "n_axes": self.n_axes or None,
            "groupby": self.groupby,
            "source": self.source,
            "target": self.target,
            "others": self.other_states,
            "within": self.within,
            "outputs": self.outputs,
            "centroids": None
            if self.target is None
            else self.centroids
            if isinstance(self.centroids, str)
            else "given",
            "max_state_cells": self.max_state_cells,
            "max_cells": self.max_cells,
            "compat": self.compat,
            "n_reference": self.n_reference or None,
            "n_random": self.n_random or None,
            "untrained": self.beside_untrained or None,
            "allow_poor": self.allow_poor or None,
        }


DOCS = {
    "adata_model": """
        adata
            Cells tokenized by :func:`~scgeneformer.pp.tokenize`.
        model
            Name of a model, path of a checkpoint (also of a fine-tuned classifier), or a trained model. Defaults to the model that the
            tokens were made for. Name it if several models share its vocabulary.
        """,
    "kind": """
        kind
            ``"delete"`` removes a gene from the ranking of a cell, ``"overexpress"`` moves it to the top. ``"inhibit"`` and ``"activate"``
            move it down or up by `quartiles` of the ranking, to the middle of that quartile, at most to the bottom or top.
        quartiles
            See `kind`.
        ranks
            Move inhibited or activated genes by this number of ranks, at most to the bottom or top, instead of by quartiles. After a short move the cell
            is still similar to the training cells of the model; after overexpression to the top it is not.
        positions
            Positions of the other genes after ``"delete"``. ``"renumbered"``: the genes after the deleted one move up by one, as in the ordinary, official
            deletion. ``"kept"``: positions do not change. The other genes can then no longer attend to the deleted gene, it leaves the mean, and
            nothing else changes.
        """,
    "factor": """
        factor
            Factor by which ``kind="scale"`` multiplies the count of a gene, without changing other values: below 1 for a knock-down, such as 0.5, above 1
            for overexpression. Only for models that read values (CellFM). These have no ranking: ``"overexpress"`` gives a gene the highest value of
            the cell, and genes cannot be inhibited or activated.
        """,
    "states": """
        groupby
            Column of `obs` with the states of cells; in a MuData also a column of another modality, such as ``"prot:gate"``, or of the MuData
            itself. The same holds for `within` and `cells`.
        source
            State of the cells to perturb. Defaults to all cells. States are values of the column `groupby`, text or not; missing values
            are not a state.
        """,
    "centroids": """
        others
            Further states towards which shifts are measured, in the same pass.
        within
            Column of `obs` with groups of cells, such as cell types. Centroids are computed for each group, and each cell is perturbed towards
            the target of its own group, as in separate calls. Groups without cells in one of the states are left out with a warning.
        centroids
            Centroid of a state: the ``"mean"`` or (coordinate-wise) ``"median"`` of the embeddings of its cells, or given embeddings by state,
            from the same model, layer and pooling; by group and state with `within`. States with given centroids need no cells.
        max_state_cells
            Maximum number of cells, chosen at random, for the centroid of a state.
        cells
            Cells to perturb: a condition on `obs` such as ``"n_genes > 500 and batch == 'a'"``, a boolean for each cell, or names.
        max_cells
            Maximum number of cells to perturb, chosen at random; with `within`, in each group.
        """,
    "outputs": """
        outputs
            Labels of the classifier `model` (a :class:`~scgeneformer.model.CellClassifier` with a linear head): measure how its predictions
            change, instead of states. For a number, such as the level of a protein, in its units; for two classes, the log odds of the second. First check
            how well the classifier predicts the labels (``cross_validate``); if it cannot predict them, the changes are meaningless.
        """,
    "reference": """
        n_reference
            If genes are listed: number of random genes that are also perturbed in each cell, 0 for none. They show the effect of
            perturbing any gene, and :func:`~scgeneformer.tl.rank_shifts` compares with them. Not with
            ``compat="official"``.
        """,
    "untrained": """
        untrained
            With `source` and `target`: also estimate the shifts by an encoder of the same architecture with random weights, in at most 20 of the cells
            (of each group), by the screen, or exactly for models without one; not with ``compat="official"``. :func:`~scgeneformer.tl.rank_shifts` reports how well the ranking agrees
            with these shifts. At least two cells of the target are needed, even if centroids are given; otherwise the estimates are left out.
        """,
    "untrained_slot": """
    `.layers["shift__untrained"]`, `.layers["shift__reference__untrained"]`
        If `untrained`: estimates of shifts towards the target by an untrained encoder, in some of the cells; the second for random genes perturbed
        with listed ones.
        """,
    "missing": """
        missing
            ``"ignore"`` leaves out genes that are not in the vocabulary, with a warning; ``"error"`` raises.
        """,
    "embedding": """
        pooling
            Representation of a cell: the ``"mean"`` of its genes, the ``"cls"`` token (of a BERT encoder) or the ``"eos"`` token (of a decoder).
            The default depends on the model, as in :func:`~scgeneformer.tl.embed`.
        emb_layer
            Hidden layer: 0 is the last, -1 the second to last. The default depends on the model.
        """,
    "checkpoint": """
        checkpoint
            Folder for finished parts of the run. The same call resumes from them and gives the same values. A call with other data, model or
            options raises an error, as does a second process that computes the same parts at the same time. Parts have checksums: damaged parts are
            computed again. With an active Dask client its workers compute the parts, and this process writes them.
        """,
    "rest": """
        tokens_key
            Slot of the tokens in `obsm`.
        key_added
            Name of the results.
        rng
            Seed or generator, for `max_cells`, `max_state_cells`, and random genes or sets. A seed starts again for
            each group.
        mod
            Modality to use of a MuData.
        copy
            Return a copy instead of writing to `adata`.
        """,
    "raises": """
        KeyError
            If there are no tokens, no column `groupby` or `within`, or no cells of the given names.
        ValueError
            If a gene is not in the vocabulary or in no cell, a state has too few cells, options contradict each other, `checkpoint` holds
            parts of another run, or a slot holds something other than an earlier result of this function.
        BlockingIOError
            If another process computes the same parts in `checkpoint`.
        """,
}
