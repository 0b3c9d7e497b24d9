"""Vocabulary of a model: its tokens, their genes, and the medians by which counts are divided."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._arguments import check, checked

from . import _store
from ._corpus import corpus_medians
from ._names import CLS, EOS, MASK, PAD, SPECIAL_TOKENS, normalise
from ._official import read_official

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

# 65,535 in the low 16 bits of a sorting key marks an empty place, and tokens are stored as uint16
MOST_TOKENS = 65_535


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """Gene vocabulary of a model: token ids, medians, special tokens.

    Two vocabularies are equal if they tokenize all cells alike, that is, if `ids`, `medians`, `max_length` and `values` are equal.

    Attributes
    ----------
    name
        ``"V1"``, ``"V2"`` or any other name.
    ids
        Shape (n_tokens,): Ensembl id of each token, or name of the special token. Special tokens come first.
    medians
        Shape (n_tokens,), float64: median of each gene's non-zero counts per 10,000 over the corpus; nan for special tokens.
    max_length
        Maximum number of tokens per cell, special tokens included.
    aliases
        Id of each symbol, alias and retired id, in upper case.
    symbols
        Shape (n_tokens,): symbol of each gene for display, ``""`` if it has none; ``None`` if no gene has one.
    values
        Whether its models read how much of a gene there is (CellFM), and not only in which order genes come. Then all medians are 1, and
        ``<cls>`` is the third and last special token.

    Examples
    --------
    >>> vocabulary = sg.hub.vocabulary("default")
    >>> vocabulary.n_special
    4
    >>> vocabulary.ids[vocabulary.tokens_of(["STAT1", "IRF9"])].tolist()
    ['ENSG00000115415', 'ENSG00000213928']

    A vocabulary of one's own data:

    >>> own = sg.Vocabulary.from_adata(adata, name="hearts", max_length=512)
    >>> len(own)
    44
    """

    name: str
    ids: np.ndarray
    medians: np.ndarray
    max_length: int
    aliases: Mapping[str, str] = field(default_factory=dict)
    symbols: np.ndarray | None = None
    values: bool = False

    def __post_init__(self) -> None:
        ids = np.array(self.ids, dtype=np.str_)
        medians = np.array(self.medians, dtype=np.float64)
        symbols = None if self.symbols is None else np.array(self.symbols, dtype=np.str_)
        special = np.isin(ids, SPECIAL_TOKENS)
        n_special = int(special.sum())
        if ids.ndim != 1 or medians.shape != ids.shape or (symbols is not None and symbols.shape != ids.shape):
            msg = "ids, medians and symbols of a vocabulary must be one-dimensional and of the same length."
            raise ValueError(msg)
        if not 2 < len(ids) <= MOST_TOKENS or len(np.unique(ids)) != len(ids):
            msg = f"A vocabulary needs distinct ids and at most {MOST_TOKENS:,} of them; got {len(ids):,}."
            raise ValueError(msg)
        if tuple(ids[:2]) != (PAD, MASK) or not special[:n_special].all() or (n_special == 3) != self.values:
            rest = f"continue with {CLS!r} alone" if self.values else f"may continue with both {CLS!r} and {EOS!r}"
            msg = f"ids must start with {PAD!r}, {MASK!r} and {rest}; got {ids[:4].tolist()}."
            raise ValueError(msg)
        if not (np.isfinite(medians[n_special:]) & (medians[n_special:] > 0)).all():
            without_median = ids[n_special:][~(medians[n_special:] > 0)]
            msg = f"Every gene needs a positive median; {len(without_median)} have none, such as {without_median[:3].tolist()}."
            raise ValueError(msg)
        if self.values and (medians[n_special:] != 1).any():
            msg = (
                "The medians of a vocabulary with values must be 1: its models read counts that are not divided by "
                "medians."
            )
            raise ValueError(msg)
        check("max_length", "int", self.max_length)
        if not n_special < self.max_length <= MOST_TOKENS:
            msg = f"max_length={self.max_length} must be above {n_special}, the number of special tokens, and at most {MOST_TOKENS:,}."
            raise ValueError(msg)
        medians[:n_special] = np.nan
        for name, array in (("ids", ids), ("medians", medians), ("symbols", symbols)):
            if array is not None:
                array.flags.writeable = False  # the hash is computed once
            object.__setattr__(self, name, array)
        object.__setattr__(self, "max_length", int(self.max_length))

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return (
            f"Vocabulary {self.name!r}: {len(self) - self.n_special:,} genes, {self.n_special} special tokens, "
            f"cells of at most {self.max_length:,} tokens, hash {self.hash[:12]}"
        )

    @property
    def pad_id(self) -> int:
        """Padding token."""
        return 0

    @property
    def mask_id(self) -> int:
        """Token of masked genes."""
        return 1

    @property
    def cls_id(self) -> int | None:
        """Token at the start of every cell (V2, CellFM), or None."""
        return 2 if self.has_cls else None

    @property
    def eos_id(self) -> int | None:
        """Token at the end of every cell (V2), or None."""
        return 3 if self.n_special == 4 else None

    @property
    def has_cls(self) -> bool:
        """Whether cells begin with ``<cls>``."""
        return self.n_special > 2

    @property
    def n_enclosing(self) -> int:
        """Number of special tokens of every cell."""
        return self.n_special - 2

    @cached_property
    def n_special(self) -> int:
        """Number of special tokens, and the first token of a gene."""
        return int(np.isin(self.ids[:4], SPECIAL_TOKENS).sum())

    @property
    def special_ids(self) -> np.ndarray:
        """Special tokens, int64."""
        return np.arange(self.n_special)

    @cached_property
    def hash(self) -> str:
        """Hexadecimal SHA-256 of all that determines tokens: ids, medians, maximum length, and whether they have values."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        digest.update(np.nan_to_num(self.medians, nan=-1.0).astype("<f8").tobytes())
        digest.update(str(self.max_length).encode())
        digest.update(b"values" if self.values else b"")
        return digest.hexdigest()

    @cached_property
    def _token_of_id(self) -> dict[str, int]:
        return {gene: token for token, gene in enumerate(self.ids.tolist()) if token >= self.n_special}

    @cached_property
    def _token_of_name(self) -> dict[str, int]:
        """Tokens by normalised id or alias; ids take precedence."""
        tokens = {alias: self._token_of_id[gene] for alias, gene in self.aliases.items() if gene in self._token_of_id}
        return tokens | {normalise(gene): token for gene, token in self._token_of_id.items()}

    def token_of(self, ids: Sequence[str]) -> np.ndarray:
        """Tokens, int32, of genes by their exact id; -1 if not in the vocabulary."""
        return np.array([self._token_of_id.get(gene, -1) for gene in ids], dtype=np.int32)

    def tokens_of(self, genes: Sequence[str]) -> np.ndarray:
        """Tokens, int32, of genes by Ensembl id, symbol, alias or retired id, version and case aside; -1 if not in the vocabulary."""
        token_of = self._token_of_name
        # most names are normalised already
        tokens = [token_of.get(gene if gene in token_of else normalise(gene), -1) for gene in genes]
        return np.array(tokens, dtype=np.int32)

    def n_named_by_id(self, genes: Sequence[str]) -> int:
        """Number of `genes` named by an id of this vocabulary, version and case aside, rather than by an alias."""
        ids = self._names_that_are_ids
        return sum(gene in ids or normalise(gene) in ids for gene in genes)

    @cached_property
    def _names_that_are_ids(self) -> frozenset[str]:
        return frozenset(map(normalise, self._token_of_id))

    @classmethod
    @checked
    def from_official(
        cls,
        token_file: str | Path,
        median_file: str | Path,
        *,
        mapping_file: str | Path | None = None,
        name_file: str | Path | None = None,
        name: str,
        max_length: int,
    ) -> Vocabulary:
        """Read the dictionaries of an official model, which are pickles, without executing code from them.

        Parameters
        ----------
        token_file
            ``token_dictionary_*.pkl``: token of each gene and special token.
        median_file
            ``gene_median_dictionary_*.pkl``: non-zero median of each gene.
        mapping_file
            ``ensembl_mapping_dict_*.pkl``: symbols, aliases and retired ids. V1's maps ids to themselves only.
        name_file
            ``gene_name_id_dict_*.pkl``: symbols for display, which are also aliases unless `mapping_file` has another id for them.
        name
            Name of the vocabulary.
        max_length
            Maximum number of tokens per cell, special tokens included: 2,048 for V1, 4,096 for V2.

        Raises
        ------
        pickle.UnpicklingError
            If a file has anything but strings and numbers.
        ValueError
            If the tokens are not 0, 1, 2, ... or a gene has no median.
        """
        ids, medians, aliases, symbols = read_official(token_file, median_file, mapping_file, name_file)
        return cls(name, ids, medians, max_length, aliases, symbols)

    @classmethod
    @checked
    def from_adata(
        cls,
        adatas: Any,
        *,
        name: str,
        max_length: int,
        layer: str | None = None,
        gene_ids: str | None = None,
        total_counts: str | None = None,
        special_tokens: bool = True,
        min_cells: int = 1,
        method: Literal["exact", "tdigest"] = "exact",
    ) -> Vocabulary:
        """Make the vocabulary of a new corpus: its genes, and their medians over the cells that express them.

        Counts are scaled to 10,000 per cell. The median of a gene is that of its non-zero scaled values in all cells of all files, as in
        the published vocabularies (Theodoris 2023, Methods).

        Parameters
        ----------
        adatas
            AnnData or path of an h5ad file with raw counts, or a sequence of these. Files are read in blocks of cells.
        name
            Name of the vocabulary.
        max_length
            Maximum number of tokens per cell, special tokens included.
        layer
            Layer with the counts; ``None`` for ``.X``.
        gene_ids
            Column of ``.var`` with Ensembl ids, or ``"var_names"``. By default the column with the largest share of Ensembl ids, or
            ``var_names`` if no column has half. The other names become aliases.
        total_counts
            Column of ``.obs`` with total counts of cells; by default the sums of the counts.
        special_tokens
            Whether cells begin with ``<cls>`` and end with ``<eos>``, as in V2.
        min_cells
            Minimum number of cells in which a gene is expressed; other genes are left out.
        method
            ``"exact"`` reads the data once for each group of genes whose values fit in 1 GB. ``"tdigest"`` reads them once and estimates
            medians by t-digests (Dunning 2019), as in the official vocabularies; needs crick
            (``pip install "scgeneformer[tdigest]"``).

        Raises
        ------
        ValueError
            If values are negative, not finite or look log-normalised, or if no gene is expressed in `min_cells` cells.
        """
        ids, medians, aliases, symbols = corpus_medians(
            adatas,
            layer=layer,
            gene_ids=gene_ids,
            total_counts=total_counts,
            min_cells=min_cells,
            method=method,
        )
        special = SPECIAL_TOKENS if special_tokens else SPECIAL_TOKENS[:2]
        pad = [""] * len(special)
        medians = np.r_[[np.nan] * len(special), medians]
        return cls(name, np.array([*special, *ids]), medians, max_length, aliases, np.array([*pad, *symbols]))

    @checked
    def save(self, path: str | Path) -> None:
        """Write to a ``.json``, ``.json.gz`` or ``.parquet`` file (the last needs pyarrow), to be read by `load`."""
        head = {
            "name": self.name,
            "max_length": self.max_length,
            "hash": self.hash,
            "has_symbols": self.symbols is not None,
            **({"values": True} if self.values else {}),
        }
        columns = {
            "ids": self.ids.tolist(),
            # JSON has no nan; floats are written with all digits needed to read the same number
            "medians": [None if np.isnan(median) else median for median in self.medians.tolist()],
            "symbols": [""] * len(self) if self.symbols is None else self.symbols.tolist(),
        }
        _store.write(Path(path), head, columns, dict(self.aliases))

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a file written by `save`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file was not written by `save`, is damaged, or was altered.
        """
        content = _store.read(Path(path))
        vocabulary = cls(
            name=content["name"],
            ids=np.array(content["ids"]),
            medians=np.array([np.nan if median is None else median for median in content["medians"]]),
            max_length=content["max_length"],
            aliases=content["aliases"],
            symbols=np.array(content["symbols"]) if content["has_symbols"] else None,
            values=content.get("values", False),
        )
        if vocabulary.hash != content["hash"]:
            msg = f"{path} was altered after it was written: its hash is {vocabulary.hash}, not {content['hash']}."
            raise ValueError(msg)
        return vocabulary
