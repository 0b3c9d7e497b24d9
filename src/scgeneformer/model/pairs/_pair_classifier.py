"""Classifier of pairs of genes, learned from a table of pairs and vectors of their genes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer import _keys, hub
from scgeneformer._arguments import checked
from scgeneformer.model.data._gene_labels import few, most_probable
from scgeneformer.tokens import read_tokens, token_ids

from ._cross_validation import PairCrossValidation, Plan, cross_validate, with_negatives
from ._features import gene_vectors, pair_features, read_expression
from ._methods import COEXPRESSION, DETECTION, FAMILY, fit, methods
from ._negatives import NEGATIVES, negatives_of_all, occurring
from ._pairs import POSITIVE, SOURCE, TARGET, Pairs, gene_families, pair_tokens, pairs_in_cells, read_pairs
from ._saving import read_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from typing import Self

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from ._methods import Predictor


class PairClassifier:
    """Classifier of pairs of genes, such as partners in a complex, factors and their targets, or activation and repression.

    A logistic regression or gradient boosting of features made of the vectors of two genes; the encoder is not trained.

    Parameters
    ----------
    adata
        Tokenized cells, from which ``"contextual"`` features and the baselines of detection and co-expression come; None for neither.
    pairs
        One row for each pair: ``source`` and ``target``, genes by Ensembl id, symbol or alias, and ``label`` if there are two or more classes.
        Without it all pairs are positives, and negatives are drawn. Repeated pairs count once.
    pretrained
        What :func:`scgeneformer.hub.load` takes.
    features
        Vectors of genes: ``"token"``, their rows of the token table of the encoder; or ``"contextual"``, their states in `adata`, as of
        :func:`scgeneformer.tl.embed` with ``genes=True``.
    directed
        Whether the source differs from the target in its role. Features of vectors a and b are then ``[a, b, a * b]``, else
        ``[a + b, |a - b|, a * b]``, the same in either order.
    classifier
        ``"logistic"``: :func:`scgeneformer.evaluation.fit_logistic`. ``"boosting"``: scikit-learn's ``HistGradientBoostingClassifier``.
    family
        Genes that splits keep together, since paralogues resemble each other: ``"prefix"``, genes whose symbols begin with the same letters, up to
        the first character that is no letter (KRT1 and KRT18, HLA-A and HLA-B), which also joins some that are unrelated; a mapping from
        genes to families; or None.
    missing
        What to do with pairs of genes without a vector: raise an error, or leave them out with a warning.
    tokens_key
        Slot of the tokens in ``.obsm``.
    mod
        Modality of a MuData.

    Raises
    ------
    ValueError
        If `pairs` has not the columns, a gene twice in a row, genes that are not in the vocabulary or in no cell (unless
        ``missing="drop"``), or contradictory labels; or if there are no cells for contextual features.

    Examples
    --------
    >>> genes = list(adata.var_names)
    >>> pairs = pd.DataFrame({"source": genes[:20] * 2, "target": genes[20:] + genes[21:] + genes[20:21]})
    >>> model = sg.model.PairClassifier(None, pairs)
    >>> model.train()
    >>> new = pd.DataFrame({"source": ["STAT1", "STAT1"], "target": ["STAT2", "IRF9"]})
    >>> list(model.predict(new))
    ['source', 'target', 'n_trained', 'score']
    """

    @checked
    def __init__(
        self,
        adata: AnnData | MuData | None,
        pairs: pd.DataFrame,
        pretrained: Any = "default",
        *,
        features: Literal["token", "contextual"] = "token",
        directed: bool = False,
        classifier: Literal["logistic", "boosting"] = "logistic",
        family: Literal["prefix"] | Mapping[str, Hashable] | None = "prefix",
        missing: Literal["error", "drop"] = "error",
        tokens_key: str = _keys.TOKENS,
        mod: str = "rna",
    ) -> None:
        if features == "contextual" and adata is None:
            msg = 'features="contextual" needs tokenized cells. Give adata, or features="token".'
            raise ValueError(msg)
        start = hub.load(pretrained)
        self._directed, self._classifier, self._features = directed, classifier, features
        self._cells, self._tokens_key = None, tokens_key
        self._start: Any = start  # None of a model that was loaded
        self.vocabulary: Vocabulary = start.vocabulary
        self._pairs = read_pairs(pairs, start.vocabulary, directed=directed, missing=missing)
        if adata is not None:
            self._cells = _keys.as_adata(adata, mod)
            tokens = read_tokens(self._cells, tokens_key, start.vocabulary, model=start.name)
            token_ids(self._cells, tokens_key, start.vocabulary)  # raises now if the genes are not those of the tokens
            if features == "contextual":
                self._pairs = pairs_in_cells(self._pairs, np.asarray(tokens), start.vocabulary, missing)
        self._families = gene_families(family, start.vocabulary, self._pairs.tokens)
        self._predict: Predictor | None = None
        self._trained = (self._pairs.tokens[:0], self._pairs.codes[:0], 0)

    def __repr__(self) -> str:
        classes = f"classes {', '.join(self.classes)}" if self._pairs.labelled else "negatives drawn"
        kind = "directed" if self._directed else "symmetric"
        return f"PairClassifier of {len(self._pairs):,} {kind} pairs of genes ({classes}): {self._classifier} on {self._features} vectors, {self.vocabulary!r}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; ``negative`` and ``positive`` if the pairs have no labels."""
        return self._pairs.classes

    @property
    def pairs(self) -> pd.DataFrame:
        """The pairs, by Ensembl id, with their class as ``label``."""
        table = pd.DataFrame(self.vocabulary.ids[self._pairs.tokens], columns=[SOURCE, TARGET])
        return table.assign(label=pd.Categorical.from_codes(self._pairs.codes, list(self.classes)))

    @cached_property
    def _model(self) -> dict[str, Any]:
        """What results remember of this model."""
        return {
            "model": self._start.name,
            "weights_sha256": self._start.sha256,
            "vocabulary": self.vocabulary.name,
            "vocabulary_hash": self.vocabulary.hash,
            "features": self._features,
            "directed": self._directed,
            "classifier": self._classifier,
        }

    @cached_property
    def _vectors(self) -> np.ndarray:
        return gene_vectors(self._features, self._start, self._cells, self._tokens_key)

    @checked
    def train(self, *, negatives: Literal["degree", "uniform"] | None = None, rng: int = 0) -> None:
        """Fit the classifier to all pairs.

        Parameters
        ----------
        negatives
            As in :meth:`cross_validate`. Defaults to ``"degree"`` if the pairs have no labels.
        rng
            Seed.

        Raises
        ------
        ValueError
            If no negatives can be drawn, or the pairs have labels and `negatives` is given.

        Examples
        --------
        >>> genes = list(adata.var_names)
        >>> pairs = pd.DataFrame({"source": genes[:20] * 2, "target": genes[20:] + genes[21:] + genes[20:21]})
        >>> pairs["label"] = ["activation", "repression"] * 20
        >>> model = sg.model.PairClassifier(None, pairs, directed=True, classifier="boosting")
        >>> model.train()
        >>> list(model.predict(pairs.head(2)))
        ['source', 'target', 'n_trained', 'activation', 'repression', 'predicted']
        """
        kind = self._kinds(negatives)[0]
        tokens, codes = self._pairs.tokens, self._pairs.codes
        if not self._pairs.labelled:
            drawn = negatives_of_all(kind, tokens, n_genes=len(self.vocabulary), directed=self._directed, rng=rng)
            tokens, codes = with_negatives(tokens, drawn)
        self._fit(tokens, codes, rng)

    def _kinds(self, negatives: Any) -> tuple[Any, ...]:
        if negatives is not None and self._pairs.labelled:
            msg = f"negatives={negatives!r} has no meaning for pairs with labels, among which none are drawn. Leave it out."
            raise ValueError(msg)
        return NEGATIVES if negatives is None else (negatives,) if isinstance(negatives, str) else tuple(negatives)

    def _fit(self, tokens: np.ndarray, codes: np.ndarray, rng: int) -> None:
        features = pair_features(self._vectors, tokens, directed=self._directed)
        self._predict = fit(self._classifier, features, codes, len(self.classes), rng=rng)
        self._trained = (tokens, codes, rng)

    @checked
    def predict(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """Predict pairs of genes, new or not.

        Parameters
        ----------
        pairs
            Table with ``source`` and ``target``.

        Returns
        -------
        The two columns with the same index; ``n_trained``, how many of the two genes are in a pair that the model was trained on, which says which
        split of :meth:`cross_validate` to read; and ``score``, from 0 to 1, or the probability of each class and ``predicted``. NaN for genes
        without a vector. A ``score`` is relative to one negative for each positive and is no probability that the genes interact: among all
        pairs of genes true ones are a thousand times rarer.

        Raises
        ------
        ValueError
            If the model is not trained, columns are missing, a pair has the same gene twice, or no pair has vectors. If only some have
            none, a warning names the genes.

        Examples
        --------
        >>> genes = list(adata.var_names)
        >>> pairs = pd.DataFrame({"source": genes[:20] * 2, "target": genes[20:] + genes[21:] + genes[20:21]})
        >>> model = sg.model.PairClassifier(None, pairs.iloc[1:])
        >>> model.train(rng=1)
        >>> model.predict(pairs.head(1))["n_trained"].tolist()
        [2]
        """
        if self._predict is None:
            msg = "This PairClassifier is not trained. Run `model.train()` first."
            raise ValueError(msg)
        tokens = pair_tokens(pairs, self.vocabulary)
        has_vector = (tokens >= 0) & np.isfinite(self._vectors[tokens]).all(axis=2)
        usable = has_vector.all(axis=1)
        if not usable.all():
            names = pd.unique(pairs[[SOURCE, TARGET]].to_numpy().astype(str)[~has_vector])
            text = f"{len(names)} genes of pairs= have no vector in this model: {few(names)}."
            if not usable.any():
                msg = f"{text} No pair is left. Name human genes by Ensembl id or symbol."
                raise ValueError(msg)
            logg.warning(f"{text} Their {(~usable).sum()} pairs get no prediction.")
        proba = np.full((len(pairs), len(self.classes)), np.nan)
        proba[usable] = self._predict(pair_features(self._vectors, tokens[usable], directed=self._directed))
        trained = np.append(occurring(self._trained[0], len(self.vocabulary)), False)  # the last is for -1
        table = pairs[[SOURCE, TARGET]].assign(n_trained=trained[tokens].sum(axis=1))
        if not self._pairs.labelled:
            return table.assign(score=proba[:, self.classes.index(POSITIVE)])
        probabilities = dict(zip(self.classes, proba.T, strict=True))
        return table.assign(**probabilities, predicted=most_probable(proba, self.classes))

    @checked
    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        n_repeats: int = 3,
        splits: Sequence[Literal["both_unseen", "one_unseen", "random"]] = ("both_unseen", "one_unseen", "random"),
        negatives: Sequence[Literal["degree", "uniform"]] | None = None,
        max_pairs: int | None = None,
        rng: int = 0,
    ) -> PairCrossValidation:
        """Score the classifier on pairs that it was not trained on, beside baselines on the same pairs. This model is not changed.

        The first row of splits and negatives is the one to report: genes that were never seen, against pairs whose genes have as many
        partners. The others show how much of a score comes from genes that were seen, and from how many partners they have.

        Parameters
        ----------
        n_folds
            Number of folds. Where both genes are unseen, a fold tests about one pair in the square of it, and all folds together one in
            `n_folds`.
        n_repeats
            How often new folds are drawn, over which scores get a standard deviation.
        splits
            ``"both_unseen"``: neither gene of a tested pair, nor a gene of their families, is in a training pair. ``"one_unseen"``: one is, and one is not;
            of directed pairs the source is not. ``"random"``: pairs are dealt out, and nearly all genes are seen.
        negatives
            ``"degree"``: the positives with their partners exchanged, so that every gene is in as many negatives as positives, as nearly as possible.
            ``"uniform"``: random pairs of the genes. Never a positive; those of unseen genes only of unseen genes. Defaults to both if the
            pairs have no labels.
        max_pairs
            Maximum number of pairs, without negatives, that classifiers learn from in a fold, drawn at random. Degrees count all.
        rng
            Seed of the first repeat, from which those of the others follow.

        Returns
        -------
        Scores of the baselines and the model. The baselines: ``degree``, the number of partners of the genes among training pairs;
        ``family``, whether the two are of one family; ``detection``, the fraction of cells that express each gene; ``co-expression``, the absolute correlation of the two across cells; ``random vectors``, the
        classifier of the model on random numbers for each gene, which remembers genes and nothing else; ``cosine``, of the vectors of the
        model. A logistic regression turns each but the classifiers into probabilities.

        Raises
        ------
        ValueError
            If a class has fewer pairs than there are folds, pairs do not suffice for one of the splits, or they have labels and `negatives` is given.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> genes = list(adata.var_names)
        >>> pairs = pd.DataFrame({"source": genes[:20] * 2, "target": genes[20:] + genes[21:] + genes[20:21]})
        >>> model = sg.model.PairClassifier(adata, pairs, features="contextual", family=None)
        >>> cv = model.cross_validate(2, n_repeats=1, splits="random", negatives="degree")
        >>> cv.table.index.get_level_values("method").tolist()
        ['degree', 'detection', 'co-expression', 'random vectors', 'cosine', 'model']
        """
        chosen: Any = (splits,) if isinstance(splits, str) else tuple(splits)
        plan = Plan(n_folds, n_repeats, chosen, self._kinds(negatives), max_pairs, rng)
        folds = plan.folds(self._pairs, self._families, directed=self._directed)
        expression, reason = read_expression(self._cells, self._tokens_key, self.vocabulary)
        left_out = {} if expression is not None else dict.fromkeys((DETECTION, COEXPRESSION), reason)
        if len(np.unique(self._families)) == len(self._families):
            left_out[FAMILY] = "genes have no families"
        options: dict[str, Any] = {"directed": self._directed}
        by_name = methods(self._vectors, self._families, expression, self._classifier, **options)
        scores = cross_validate(self._pairs, folds, by_name, plan, n_genes=len(self.vocabulary), **options)
        return PairCrossValidation(scores, left_out, self._model | vars(plan))

    @checked
    def save(self, dir_path: str | Path, *, overwrite: bool = False) -> None:
        """Save the pairs, the vectors of genes and what the model was trained on to a folder.

        Nothing in the folder is a pickle. What was fitted is not in it either: :meth:`load` fits it again, which takes seconds, from the same
        pairs, negatives and seed.

        Parameters
        ----------
        dir_path
            Folder.
        overwrite
            Replace a saved PairClassifier.

        Raises
        ------
        ValueError
            If the folder exists and is not to be replaced, or is no saved PairClassifier.

        Examples
        --------
        >>> genes = list(adata.var_names)
        >>> pairs = pd.DataFrame({"source": genes[:20] * 2, "target": genes[20:] + genes[21:] + genes[20:21]})
        >>> model = sg.model.PairClassifier(None, pairs)
        >>> model.train()
        >>> model.save("pairs")
        >>> loaded = sg.model.PairClassifier.load("pairs")
        >>> loaded.predict(pairs).equals(model.predict(pairs))
        True
        """
        tokens, codes, rng = self._trained
        arrays = {
            "vectors": self._vectors,
            "families": self._families,
            "pairs": self._pairs.tokens,
            "codes": self._pairs.codes,
            "trained_pairs": tokens,
            "trained_codes": codes,
        }
        state = {"model": self._model, "classes": list(self.classes), "trained": self._predict is not None, "rng": rng}
        write_folder(Path(dir_path).expanduser(), state, arrays, self.vocabulary, overwrite=overwrite)

    @classmethod
    @checked
    def load(cls, dir_path: str | Path) -> Self:
        """Load a model that was saved with :meth:`save`, without cells: to predict, or to cross-validate without what needs expression.

        Parameters
        ----------
        dir_path
            Folder.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If it is damaged, or of a newer format.
        """
        state, arrays, vocabulary = read_folder(Path(dir_path).expanduser())
        model = cls.__new__(cls)
        model._start, model._cells, model._tokens_key = None, None, _keys.TOKENS
        model.vocabulary, model._model, model._vectors = vocabulary, state["model"], arrays["vectors"]
        model._features, model._directed, model._classifier = (
            state["model"][name] for name in ("features", "directed", "classifier")
        )
        model._pairs = Pairs(arrays["pairs"], arrays["codes"], tuple(state["classes"]))
        model._families, model._predict = arrays["families"], None
        model._trained = (arrays["trained_pairs"], arrays["trained_codes"], state["rng"])
        if state["trained"]:
            model._fit(*model._trained)
        return model
