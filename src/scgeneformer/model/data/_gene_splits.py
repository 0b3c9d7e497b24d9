"""Which genes train, validate and test, and what each counts for in the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import evaluation

from ._gene_labels import tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer.tokens import Vocabulary

    from ._gene_labels import GeneClasses

SETS = ("train", "validation", "test")
COUNTED = ("occurrence", "gene")


def choose_genes(
    genes: GeneClasses,
    seen: np.ndarray,
    given: evaluation.Split | Mapping[str, Sequence[str]] | None,
    vocabulary: Vocabulary,
    *,
    rng: int,
    **sizes: float,
) -> evaluation.Split:
    """The split that is given, or a new one by classes; numbers of genes, those that occur in cells only.

    Parameters
    ----------
    genes
        The classified genes.
    seen
        bool (n_genes,), which occur in a cell. The others can neither be learned from nor tested.
    given
        Numbers of genes, or lists of genes by the name of their set.
    vocabulary
        To find them in.
    rng, **sizes
        As of :func:`scgeneformer.evaluation.split`.

    Raises
    ------
    ValueError
        If a set has genes without a class, or nothing is left to train on.
    """
    if given is None:
        labels = np.where(seen, genes.codes, -1)
        return evaluation.split(labels, classes=genes.names, rng=rng, **sizes)
    if isinstance(given, Mapping):
        given = _named_sets(genes, given, vocabulary)
    sets = {name: getattr(given, name) for name in SETS}
    beyond = [
        name for name, numbers in sets.items() if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(genes)
    ]
    if beyond:
        msg = f"split.{beyond[0]} has numbers that are none of 0 to {len(genes) - 1}, the rows of `model.genes`."
        raise ValueError(msg)
    chosen = evaluation.Split(**{name: numbers[seen[numbers]] for name, numbers in sets.items()})
    if len(np.unique(genes.codes[chosen.train])) < 2:
        msg = "The training genes of this split that occur in cells are not of two classes or more: there is nothing to tell apart."
        raise ValueError(msg)
    return chosen


def _named_sets(genes: GeneClasses, given: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> evaluation.Split:
    unknown = sorted(set(given) - set(SETS))
    if unknown:
        msg = f"split has sets {unknown}; it can have {SETS}."
        raise ValueError(msg)
    sets = {}
    for name in SETS:
        tokens = tokens_of(given.get(name, ()), vocabulary, f"split[{name!r}]")
        other = tokens[~np.isin(tokens, genes.tokens)]
        if len(other):
            msg = f"split[{name!r}] has {len(other)} genes without a class, such as {vocabulary.ids[other[0]]}. Leave them out."
            raise ValueError(msg)
        sets[name] = np.searchsorted(genes.tokens, tokens)
    return evaluation.Split(**sets)


def loss_weights(
    genes: GeneClasses,
    split: evaluation.Split,
    counts: np.ndarray,
    *,
    count_each: str,
    class_weights: Any,
) -> np.ndarray | None:
    """What an occurrence of each token counts for in the loss, float32 (V,), or None if all count alike.

    Means over the occurrences of training genes are 1, and so are those over the occurrences of validation genes.

    Parameters
    ----------
    genes, split
        The genes and their sets.
    counts
        int64 (V,), how often each token occurs in the cells.
    count_each
        ``"occurrence"``, or ``"gene"``: all occurrences of a gene together count as those of any other.
    class_weights
        None; a weight for each class; or ``"balanced"``: all training genes of a class together count as those of any other class.

    Raises
    ------
    ValueError
        If either is none of these.
    """
    if count_each not in COUNTED:
        msg = f"count_each={count_each!r} is not one of {COUNTED}."
        raise ValueError(msg)
    by_name = isinstance(class_weights, Mapping)
    if class_weights not in (None, "balanced") and not (by_name and set(class_weights) == set(genes.names)):
        msg = f"class_weights={class_weights!r} must be 'balanced' or give a weight to each of {list(genes.names)}."
        raise ValueError(msg)
    if by_name and not all(weight > 0 for weight in class_weights.values()):
        msg = f"class_weights={dict(class_weights)} must be above 0. Leave a class out of the data instead."
        raise ValueError(msg)
    if count_each == "occurrence" and class_weights is None:
        return None
    n = counts[genes.tokens].astype(np.float64)  # of each classified gene
    each = np.ones(len(genes)) if count_each == "occurrence" else 1 / np.maximum(n, 1)
    if by_name:
        each *= np.array([class_weights[name] for name in genes.names])[genes.codes]
    elif class_weights == "balanced":
        share = np.bincount(genes.codes[split.train], (each * n)[split.train], minlength=len(genes.names))
        each /= np.where(share > 0, share, 1.0)[genes.codes]
    weights = np.zeros(len(counts))
    for numbers in (split.train, split.validation):
        total = (each * n)[numbers].sum()
        weights[genes.tokens[numbers]] = each[numbers] * (n[numbers].sum() / total if total else 1.0)
    return weights.astype(np.float32)
