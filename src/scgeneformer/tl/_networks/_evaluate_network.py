"""``tl.evaluate_network``: networks of genes against known edges, beside predictors without the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer import evaluation
from scgeneformer._arguments import checked
from scgeneformer.tl._model_inputs import model_inputs
from scgeneformer.tl._perturbation._states import groups_of

from . import _baselines as baselines_of
from ._truth import find_universe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.evaluation import CandidatePairs
    from scgeneformer.hub import Pretrained
    from scgeneformer.model import Geneformer
    from scgeneformer.tl._model_inputs import ModelInputs

ROWS = {
    "coexpression": "|co-expression|",
    "trees": "tree ensemble",
    "token": "token cosine",
    "degree": "degree, other half",
    "detection": "detection",
    "random": "random",
}
OF_EXPRESSION = ("coexpression", "trees", "detection")


@checked
def evaluate_network(
    adata: AnnData | MuData,
    truth: pd.DataFrame,
    model: str | Path | Pretrained | Geneformer | None = None,
    *,
    key: str | Sequence[str] = keys.NETWORK,
    group: str | None = None,
    tfs: Sequence[str] | None = None,
    directed: bool = True,
    baselines: bool | Sequence[Literal["coexpression", "trees", "token", "degree", "detection", "random"]] = True,
    max_targets: int = 200,
    n_bootstrap: int = 200,
    n_permutations: int = 100,
    gene_symbols: str | None = None,
    key_added: str = keys.NETWORK_EVALUATION,
    rng: int | np.random.Generator | None = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Compare networks with known edges, and with simple baselines on the same pairs and cells.

    Published results depend more on the pairs that are compared than on the method. Here the pairs are stated: all pairs of a source and a target that
    have an edge in every network named by `key`. Known edges of genes outside the networks do not count as missed.

    Parameters
    ----------
    adata
        Annotated data with networks from :func:`network`, and the counts that were tokenized.
    truth
        Known edges, in columns ``source`` and ``target``, by ``var_names`` or symbols. All other pairs count as no edge, although some may be
        unknown edges.
    model
        Model of the token embeddings, which must be that of the first network. Defaults to the model that the tokens were made for.
    key
        Slots of one or several networks.
    group
        Group of cells, if there is a network for each.
    tfs
        Candidate sources. Defaults to the sources of `truth`, which are known to have targets: fewer pairs, and a higher base rate.
    directed
        False, for protein interactions, uses unordered pairs of genes, the mean of both directions of a network, and only genes with
        an edge in `truth`.
    baselines
        Baselines to compute: all, none or those named. ``"coexpression"``, the absolute Pearson correlation of log1p of counts per 10,000; ``"trees"``, for each target the
        importances of the sources in an ensemble of randomised trees (scikit-learn's ``ExtraTreesRegressor``, 100 trees, as GENIE3) that predicts its
        expression; ``"token"``, the cosine of token embeddings; ``"degree"``, the numbers of known edges of both genes in a random half
        of the pairs, scored on the other half; ``"detection"``, the product of the fractions of cells that express the genes; ``"random"``.
    max_targets
        Maximum number of targets for the trees, chosen at random. If there are more, each network has a further row for the pairs with these targets.
    n_bootstrap
        Number of bootstrap samples of sources for the intervals; 0 for none.
    n_permutations
        Number of random networks in which every gene keeps its degree in `truth`, for p.
    gene_symbols
        Column of ``.var`` with symbols. Defaults to that of :func:`~scgeneformer.get.shifts`.
    key_added
        Name of the results in ``.uns``.
    rng
        Seed or generator.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Writes ``.uns[key_added]`` with

    ``"metrics"``
        DataFrame, one row for each network and baseline, columns as in :func:`scgeneformer.evaluation.score_pairs`.
        :func:`scgeneformer.get.evaluation` with ``key="network_evaluation"`` returns it.
    ``"params"``
        ``n_sources``, ``n_targets`` (for unordered pairs, both are the number of genes) and ``n_pairs`` of the universe, the number ``n_edges`` of edges among the pairs, and ``base_rate``; the number ``n_truth`` of edges in `truth`, and
        ``n_truth_in_var`` of edges between genes of ``.var``; ``self_edges`` (``"left out"``); and the arguments.

    Raises
    ------
    KeyError
        If there is no such network, or `truth` has no columns ``source`` and ``target``.
    ValueError
        If a network is empty, no edge of `truth` is between genes of the data or networks, the model differs from that of the network, there are no counts,
        or a slot holds something other than an earlier result.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.network(adata, score="contextual")
    >>> truth = pd.DataFrame({"source": ["STAT1", "STAT1", "STAT2"], "target": ["IRF9", "STAT2", "IRF9"]})
    >>> sg.tl.evaluate_network(adata, truth, baselines=["coexpression", "token"], n_bootstrap=20, n_permutations=20)
    >>> table = sg.get.evaluation(adata, key="network_evaluation")
    >>> table[["n_pairs", "n_edges"]].values.tolist()  # two sources with 39 targets each
    [[78, 3], [78, 3], [78, 3]]
    """
    data = adata.copy() if copy else adata
    cells = keys.as_adata(data, mod)
    slots.check_free(cells, "tl.evaluate_network", key_added, [f"uns/{key_added}"])
    networks = list(dict.fromkeys([key] if isinstance(key, str) else key))
    if not networks:
        msg = "`key` names no network. Name the slots of networks, such as key='network'."
        raise ValueError(msg)
    matrices = {name: slots.read_network(cells, name, group)[1] for name in networks}
    universe = find_universe(
        cells, truth, list(matrices.values()), tfs=tfs, directed=directed, gene_symbols=gene_symbols
    )
    wanted = list(ROWS) if baselines is True else [] if baselines is False else list(np.atleast_1d(baselines))
    run = keys.params(cells, networks[0], cure="sg.tl.network(adata)")
    inputs = _model_of(cells, run, model) if "token" in wanted else None
    expression = np.empty((0, len(universe.columns)), dtype=np.float32)
    if set(wanted) & set(OF_EXPRESSION):
        rows = _cells_of(data, networks[0], run, group, mod)
        expression = baselines_of.expression_of(cells, rows, universe.columns, tokens_key=run["tokens_key"])
    pairs, random = universe.pairs, np.random.default_rng(rng)
    start = logg.info(
        f"evaluating {', '.join(networks)} on {len(pairs.is_edge)} pairs, {pairs.is_edge.sum()} of them edges of the truth"
    )
    of_networks = {name: universe.scores_of(matrix) for name, matrix in matrices.items()}
    beside: dict[str, np.ndarray] = {}
    if "coexpression" in wanted:
        beside[ROWS["coexpression"]] = baselines_of.coexpression(expression, pairs)
    if "trees" in wanted:
        beside |= _trees(expression, pairs, of_networks, max_targets, random)
    if inputs is not None:
        beside[ROWS["token"]] = baselines_of.token_cosine(inputs, pairs, universe.columns)
    if "degree" in wanted:
        beside[ROWS["degree"]] = evaluation.degree_of_other_half(pairs, rng=random)
    if "detection" in wanted:
        beside[ROWS["detection"]] = baselines_of.detection(expression, pairs)
    if "random" in wanted:
        beside[ROWS["random"]] = random.random(len(pairs.is_edge))
    metrics = evaluation.score_pairs(
        pairs, of_networks | beside, n_bootstrap=n_bootstrap, n_permutations=n_permutations, rng=random
    )
    slots.write(
        cells,
        "tl.evaluate_network",
        key_added,
        {},
        networks=networks,
        scores=[str(keys.params(cells, name, cure="")["score"]) for name in networks],
        group=group,
        directed=directed,
        n_sources=len(pairs.genes()),
        n_targets=len(np.unique(pairs.target) if directed else pairs.genes()),
        n_pairs=len(pairs.is_edge),
        n_edges=int(pairs.is_edge.sum()),
        base_rate=pairs.base_rate,
        n_truth=universe.n_truth,
        n_truth_in_var=universe.n_named,
        self_edges="left out",
        sources="of `truth`" if tfs is None else "of `tfs`",
        max_targets=max_targets,
        n_bootstrap=n_bootstrap,
        n_permutations=n_permutations,
    )
    cells.uns[key_added]["metrics"] = metrics
    logg.info(metrics.to_string(float_format="{:.3f}".format))
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, scores of networks (adata.uns)")
    return data if copy else None


def _trees(
    expression: np.ndarray,
    pairs: CandidatePairs,
    of_networks: dict[str, np.ndarray],
    max_targets: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Importances, (n,), for some targets; if not for all, also the scores of networks of the pairs with these."""
    targets = np.unique(pairs.target)
    drawn = targets if len(targets) <= max_targets else rng.choice(targets, max_targets, replace=False)
    scores = baselines_of.trees(expression, pairs, np.sort(drawn), rng)
    rows = {ROWS["trees"]: scores}
    if np.isnan(scores).any():
        rows |= {f"{name}, targets of trees": np.where(np.isnan(scores), np.nan, x) for name, x in of_networks.items()}
    return rows


def _cells_of(data: AnnData | MuData, key: str, run: dict[str, Any], group: str | None, mod: str) -> np.ndarray:
    """Indices of the cells that a network was made of; all cells, if it is of none."""
    cells = keys.as_adata(data, mod)
    members = groups_of(data, run.get("groupby"), mod)[group]
    column = keys.cells_key(key)
    if run["score"] == "token":
        return members
    if column not in cells.obs:
        msg = f"No column {column!r} in .obs, which selects the cells of the network. Run `sg.tl.network(adata)` again."
        raise KeyError(msg)
    return members[cells.obs[column].to_numpy(dtype=bool)[members]]


def _model_of(cells: AnnData, run: dict[str, Any], model: Any) -> ModelInputs:
    """The model that a network was made by, whose token embeddings are compared.

    Raises
    ------
    ValueError
        If it is another one.
    """
    inputs = model_inputs(cells, model, tokens_key=run["tokens_key"], pooling=None, emb_layer=None)
    if inputs.pretrained.sha256 != run["weights_sha256"]:
        msg = (
            f"Model {inputs.pretrained.name!r} has other weights than the model {run['model']!r} of the network. Pass "
            "that one as `model`, or leave 'token' out of `baselines`."
        )
        raise ValueError(msg)
    return inputs
