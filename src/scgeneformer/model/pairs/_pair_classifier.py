"""Classifier of pairs of genes, learned from a table of pairs and vectors of their genes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import _keys, hub
from scgeneformer._arguments import checked
from scgeneformer.tokens import read_tokens, token_ids

from ._cross_validation import PairCrossValidation, Plan, cross_validate, with_negatives
from ._features import gene_vectors, read_expression
from ._learning import TUNED, Learner, check_kinds, check_options
from ._methods import baselines
from ._negatives import kinds_of, negatives_of_all, occurring
from ._pair_encoder import PairEncoder
from ._pairs import Pairs, gene_families, pair_tokens, pairs_in_cells, read_pairs
from ._predictions import prediction_table, with_vectors
from ._saving import read_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from typing import Self

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.model.recipes._selection import Selection
    from scgeneformer.tokens import Vocabulary

    from ._methods import Predictor


class PairClassifier:
    """Classifier of gene pairs, such as partners in a complex, transcription factors and their targets, or activation and repression.

    Features are computed from the vectors of the two genes in a frozen or a fine-tuned encoder.

    Parameters
    ----------
    adata
        Tokenized cells for ``"contextual"`` features and for the baselines of detection and co-expression; None for neither.
    pairs
        One row per pair: ``source`` and ``target``, genes by Ensembl id, symbol or alias, and ``label`` if there are two or more classes.
        Without ``label`` all pairs are positives, and negatives are drawn at random. Repeated pairs count once.
    pretrained
        Model, in any form that :func:`scgeneformer.hub.load` accepts.
    features
        Vectors of genes: ``"token"``, their rows in the token table of the encoder; or ``"contextual"``, their states in `adata`, as from
        :func:`scgeneformer.tl.embed` with ``genes=True``.
    directed
        Whether source and target have different roles. Features of vectors a and b are then ``[a, b, a * b]``, else
        ``[a + b, |a - b|, a * b]``, the same in either order.
    classifier
        ``"logistic"``: :func:`scgeneformer.evaluation.fit_logistic`. ``"boosting"``: scikit-learn's ``HistGradientBoostingClassifier``.
        ``"fine-tuned"``, which requires ``features="contextual"``: a linear layer on the states of both genes in the same cell, trained together with
        the encoder; the scores of a pair are averaged over the cells in which both genes occur.
    family
        Gene families that splits keep together, since paralogues are similar: ``"prefix"``, genes whose symbols begin with the same letters, up to
        the first character that is not a letter (KRT1 and KRT18, HLA-A and HLA-B), which also joins some unrelated genes; a mapping from
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
        If `pairs` lacks a column, pairs a gene with itself, has genes that are not in the vocabulary or in no cell (unless
        ``missing="drop"``), or has contradictory labels; or if there are no cells for contextual features.

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
        classifier: Literal["logistic", "boosting", "fine-tuned"] = "logistic",
        family: Literal["prefix"] | Mapping[str, Hashable] | None = "prefix",
        missing: Literal["error", "drop"] = "error",
        tokens_key: str = _keys.TOKENS,
        mod: str = "rna",
    ) -> None:
        check_kinds(features, classifier, has_cells=adata is not None)
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
                self._pairs = pairs_in_cells(
                    self._pairs, np.asarray(tokens), start.vocabulary, missing, together=classifier == TUNED
                )
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
        return self._pairs.table(self.vocabulary)

    @cached_property
    def _model(self) -> dict[str, Any]:
        """What results remember of this model."""
        names = {"model": self._start.name, "weights_sha256": self._start.sha256}
        names |= {"vocabulary": self.vocabulary.name, "vocabulary_hash": self.vocabulary.hash}
        return names | {"features": self._features, "directed": self._directed, "classifier": self._classifier}

    @cached_property
    def _vectors(self) -> np.ndarray:
        return gene_vectors(self._features, self._start, self._cells, self._tokens_key)

    @property
    def selected(self) -> Selection | None:
        """What the last training of a fine-tuned encoder kept, the ``"probe"`` or the run, and why; None for other classifiers."""
        return self._predict.selected if isinstance(self._predict, PairEncoder) else None

    @checked
    def train(
        self, *, negatives: Literal["degree", "uniform"] | None = None, rng: int = 0, **train_kwargs: Any
    ) -> None:
        """Fit the classifier to all pairs.

        An encoder is fine-tuned as by :meth:`GeneClassifier.train` with recipe ``"auto"``, from a linear probe on mean features of pairs. A quarter of
        the genes is held out with their families, and the model is trained on pairs without them. The run is kept if it predicts pairs of two
        held-out genes better than the probe by more than the standard error (:attr:`selected`). Otherwise, or with fewer than 50 of these pairs or
        10 of each of two classes, the model is the probe, fitted to all pairs. Pairs that share no cell are not learned.

        Parameters
        ----------
        negatives
            As in :meth:`cross_validate`. Defaults to ``"degree"`` if the pairs have no labels.
        rng
            Seed.
        **train_kwargs
            For ``classifier="fine-tuned"`` only: `freeze`, as in :class:`GeneClassifier`; `max_cells`, the maximum number of cells to train on, drawn at
            random; ``recipe="probe"`` for no run; `max_epochs` and further options of :meth:`GeneClassifier.train`.

        Raises
        ------
        TypeError
            If an option is unknown, or does not apply to this classifier.
        ValueError
            If no negatives can be drawn, the pairs have labels and `negatives` is given, or the pairs of a class share no cell.

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
        check_options(self._classifier, self._start, train_kwargs)
        kind = kinds_of(negatives, labelled=self._pairs.labelled)[0]
        tokens, codes = self._pairs.tokens, self._pairs.codes
        if not self._pairs.labelled:
            drawn = negatives_of_all(kind, tokens, n_genes=len(self.vocabulary), directed=self._directed, rng=rng)
            tokens, codes = with_negatives(tokens, drawn)
        self._predict = self._learner().learn(tokens, codes, rng, **train_kwargs)
        self._trained = (tokens, codes, rng)

    def _learner(self) -> Learner:
        cells = self._read_cells() if self._classifier == TUNED else None
        kinds = self._classifier, self.classes, self._directed
        return Learner(*kinds, self._vectors, self._families, self._start, cells)

    def _read_cells(self) -> np.ndarray:
        return np.asarray(read_tokens(self._cells, self._tokens_key, self.vocabulary, model=self._model["model"]))

    @checked
    def predict(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """Predict new or known pairs of genes.

        Parameters
        ----------
        pairs
            Table with ``source`` and ``target``.

        Returns
        -------
        The two columns with the same index; ``n_trained``, the number of the two genes that are in a training pair, which shows which
        split of :meth:`cross_validate` applies; and ``score``, from 0 to 1, or the probability of each class and ``predicted``. NaN for genes
        without a vector and, with a fine-tuned encoder, for pairs that share no cell. A ``score`` assumes one negative per
        positive and is not the probability that the genes interact: among all pairs of genes, true ones are a thousand times rarer.

        Raises
        ------
        ValueError
            If the model is not trained, columns are missing, a pair has the same gene twice, or no pair has vectors. If only some lack
            them, a warning names the genes.

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
        usable = with_vectors(pairs, tokens, self._vectors)
        proba = np.full((len(pairs), len(self.classes)), np.nan)
        proba[usable] = self._predict(tokens[usable])
        trained = np.append(occurring(self._trained[0], len(self.vocabulary)), False)  # the last is for -1
        return prediction_table(pairs, usable, proba, trained[tokens].sum(axis=1), self._pairs)

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
        **train_kwargs: Any,
    ) -> PairCrossValidation:
        """Score the classifier and baselines on held-out pairs. This model is not changed.

        Report the first combination of split and negatives: unseen genes, against negatives whose genes have the same numbers of
        partners. The others show how much of a score is due to seen genes and to their numbers of partners.

        Parameters
        ----------
        n_folds
            Number of folds. If both genes are unseen, a fold tests about one in ``n_folds ** 2`` pairs, and all folds together one in
            `n_folds`.
        n_repeats
            Number of times that folds are drawn; scores get a standard deviation over repeats.
        splits
            ``"both_unseen"``: neither gene of a tested pair, nor a gene of their families, is in a training pair. ``"one_unseen"``: one gene is in a
            training pair and the other, for directed pairs the source, is not. ``"random"``: pairs are assigned at random, and nearly all genes are seen.
        negatives
            ``"degree"``: the positives with exchanged partners, so that every gene has, as far as possible, the same number of negatives and positives.
            ``"uniform"``: random pairs of the genes. A positive is never a negative, and negatives of unseen genes have unseen genes only.
            Defaults to both if the pairs have no labels.
        max_pairs
            Maximum number of pairs, without negatives, to train on in a fold, drawn at random. Degrees count all pairs.
        rng
            Seed of the first repeat, from which the other seeds follow.
        **train_kwargs
            For :meth:`train` in each fold, with ``classifier="fine-tuned"`` only.

        Returns
        -------
        Scores of the baselines and the model. The baselines: ``degree``, the number of partners of the genes among training pairs;
        ``family``, whether the two are in the same family; ``detection``, the fraction of cells that express each gene;
        ``co-expression``, the absolute correlation of the two across cells; ``random vectors``, the classifier of the model on random numbers for each gene, which can only memorise genes; ``cosine``, the similarity of their vectors in the
        model. Baselines other than classifiers are converted to probabilities by logistic regression. For a fine-tuned encoder there is also the
        ``probe`` that it starts from, fitted to all training pairs; ``params["kept"]`` has what each fold kept, and pairs that share no cell get the
        class frequencies as probabilities.

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
        check_options(self._classifier, self._start, train_kwargs)
        chosen: Any = (splits,) if isinstance(splits, str) else tuple(splits)
        plan = Plan(n_folds, n_repeats, chosen, kinds_of(negatives, labelled=self._pairs.labelled), max_pairs, rng)
        folds = plan.folds(self._pairs, self._families, directed=self._directed)
        expression = read_expression(self._cells, self._tokens_key, self.vocabulary)
        options: dict[str, Any] = {"directed": self._directed}
        kind: Any = "logistic" if self._classifier == TUNED else self._classifier
        by_name, left_out = baselines(self._vectors, self._families, expression, kind, **options)
        kept: list[str] = []  # by the folds
        by_name |= self._learner().methods(train_kwargs, kept)
        scores = cross_validate(self._pairs, folds, by_name, plan, n_genes=len(self.vocabulary), **options)
        return PairCrossValidation(scores, left_out, self._model | vars(plan) | ({"kept": kept} if kept else {}))

    @checked
    def save(self, dir_path: str | Path, *, overwrite: bool = False) -> None:
        """Save the pairs, the vectors of genes and what the model was trained on to a folder.

        Nothing in the folder is a pickle. A fine-tuned encoder is in it with its head. Other classifiers are not: :meth:`load` fits them again
        within seconds, from the same pairs, negatives and seed.

        Parameters
        ----------
        dir_path
            Folder.
        overwrite
            Replace a saved PairClassifier.

        Raises
        ------
        ValueError
            If the folder exists and `overwrite` is False, or it is not a saved PairClassifier.

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
        arrays = {"vectors": self._vectors, "families": self._families, "trained_pairs": tokens, "trained_codes": codes}
        arrays |= {"pairs": self._pairs.tokens, "codes": self._pairs.codes}
        state = {"model": self._model, "classes": list(self.classes), "trained": self._predict is not None, "rng": rng}
        state["tokens_key"] = self._tokens_key
        encoder = self._predict if isinstance(self._predict, PairEncoder) else None
        write_folder(Path(dir_path).expanduser(), state, arrays, self.vocabulary, encoder, overwrite=overwrite)

    @classmethod
    @checked
    def load(cls, dir_path: str | Path, adata: AnnData | MuData | None = None, *, mod: str = "rna") -> Self:
        """Load a model that was saved with :meth:`save`.

        Parameters
        ----------
        dir_path
            Folder.
        adata, mod
            Cells, tokenized under the same key. Without them a fine-tuned encoder cannot predict, and a cross-validation has no expression
            baselines.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If it is damaged, or of a newer format.
        """
        state, arrays, vocabulary, encoder = read_folder(Path(dir_path).expanduser())
        model = cls.__new__(cls)
        model._start, model._cells, model._tokens_key = None, None, state.get("tokens_key", _keys.TOKENS)
        model.vocabulary, model._model, model._vectors = vocabulary, state["model"], arrays["vectors"]
        model._features, model._directed = state["model"]["features"], state["model"]["directed"]
        model._classifier = state["model"]["classifier"]
        model._pairs = Pairs(arrays["pairs"], arrays["codes"], tuple(state["classes"]))
        model._families, model._predict = arrays["families"], encoder
        model._trained = (arrays["trained_pairs"], arrays["trained_codes"], state["rng"])
        if adata is not None:
            model._cells = _keys.as_adata(adata, mod)
            if encoder is not None:
                encoder.tokens = model._read_cells()
        if state["trained"] and encoder is None:
            model._predict = model._learner().learn(*model._trained)
        return model
