"""Files of a corpus, which are looked up, checked, and read in blocks of cells."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from anndata.io import read_elem
from scipy import sparse

from scgeneformer import tokens
from scgeneformer._files import check_no_pipe
from scgeneformer.model.data._digest import digest, digest_of_all
from scgeneformer.tokens._genes import FEW_COUNTS, TOO_FEW_COUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer.tokens import Vocabulary

_HDF5 = (".h5ad", ".h5")
SUFFIXES = (*_HDF5, ".zarr")
_SAMPLES, _SAMPLE_ROWS = 4, 256


def find_files(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """Paths of all h5ad and zarr files that are given as files, folders of them, or patterns such as ``"atlas/*.h5ad"``.

    Raises
    ------
    FileNotFoundError
        If a path or pattern matches no file.
    ValueError
        If a file is given twice, or is a pipe.
    """
    paths = []
    for name in [files] if isinstance(files, str | Path) else files:
        path = Path(name).expanduser()
        if path.suffix in SUFFIXES and path.exists():
            matches = [path]
        elif path.is_dir():
            matches = list(path.iterdir())
        else:
            matches = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        matches = sorted(match for match in matches if match.suffix in SUFFIXES)
        if not matches:
            msg = f"No h5ad or zarr file at {str(path)!r}: name files, a folder that holds them, or a pattern such as 'atlas/*.h5ad'."
            raise FileNotFoundError(msg)
        paths += matches
    for path in paths:
        check_no_pipe(path)
    resolved = [path.resolve() for path in paths]
    repeated = sorted({str(path) for path in resolved if resolved.count(path) > 1})
    if repeated:
        msg = f"Files are named twice in the corpus: {repeated}."
        raise ValueError(msg)
    return paths


def open_file(path: Path) -> Any:
    """Open the file, as a group of h5py, which closes it when it is no longer used, or of zarr."""
    if path.suffix in _HDF5:
        import h5py

        return h5py.File(path, "r")
    import zarr

    return zarr.open_group(str(path), mode="r")


@dataclass(frozen=True)
class CorpusFile:
    """Counts in one file, which are read and ranked in blocks of cells.

    Attributes
    ----------
    path
        Path of an h5ad or zarr file.
    slot
        ``"X"`` or ``"layers/<name>"``.
    token_id
        Token of each gene, -1 if it has none; int32 (n_vars,).
    vocabulary, counts, log_base, max_length
        As in :func:`scgeneformer.tokens.encode`.
    bounds
        Maximum number of tokens of each cell, from the number of its stored values; int32 (n_obs,).
    digest
        Hash of the numbers of stored values of all cells, of the values that were inspected, among them the first and the last, and of how
        they are read.
    """

    path: Path
    slot: str
    token_id: np.ndarray
    vocabulary: Vocabulary
    counts: Literal["linear", "log1p"]
    log_base: float | None
    max_length: int | None
    bounds: np.ndarray
    digest: str

    @classmethod
    def checked(
        cls,
        path: Path,
        vocabulary: Vocabulary,
        *,
        layer: str | None,
        gene_ids: str | None,
        counts: Literal["raw", "linear", "log1p"],
        max_length: int | None,
    ) -> CorpusFile:
        """Inspect a file: its genes, the number of stored values of each cell, and a sample of the values.

        Raises
        ------
        KeyError
            If there is no such layer or column of ``.var``.
        ValueError
            If the counts are not stored by cells (CSR), do not look like counts, or have almost no genes in the vocabulary.

        Warns
        -----
        UserWarning
            If less than half of the counts are of genes in the vocabulary.
        """
        file = open_file(path)
        slot = "X" if layer is None else f"layers/{layer}"
        if slot not in file:
            layers = [] if "layers" not in file else list(file["layers"])
            msg = f"{path} has no {slot}. Name one of its layers {layers} by `layer=`."
            raise KeyError(msg)
        stored, label = file[slot], f"{slot} of {path}"
        if (kind := dict(stored.attrs).get("encoding-type", "")) != "csr_matrix":
            form = {"array": "as a dense array", "csc_matrix": "by genes (CSC)"}.get(
                kind, f"as {kind or 'something unknown'}"
            )
            msg = (
                f"{label} is stored {form}; a corpus is read cell by cell. Store it as CSR: `adata.X = "
                "scipy.sparse.csr_matrix(adata.X)`, and write the file again."
            )
            raise ValueError(msg)
        log_base = read_elem(file["uns/log1p"]).get("base") if counts == "log1p" and "uns/log1p" in file else None
        some, var = _sample(stored), read_elem(file["var"])
        genes = tokens.resolve_genes(var, vocabulary, gene_ids=gene_ids)
        seen = tokens.inspect(some, genes.token_id, counts=counts, log_base=log_base, slot=label)
        _check_coverage(label, vocabulary, genes, seen.fraction_mapped)
        tokens.encode(  # as each block will be
            some,
            genes.token_id,
            vocabulary,
            counts=counts,
            inspection=seen,
            log_base=log_base,
            max_length=max_length,
            slot=label,
        )
        n_stored = np.diff(np.asarray(stored["indptr"][:], dtype=np.int64))
        bounds = np.minimum(n_stored + vocabulary.n_enclosing, max_length or vocabulary.max_length)
        # the sample has decided whether values are counts; a single block could look otherwise
        counts = "linear" if counts == "raw" else counts
        content = digest(n_stored, some.data, some.indices, some.indptr, genes.token_id)
        identity = digest_of_all([content, repr((slot, counts, log_base, max_length))])
        bounds = bounds.astype(np.int32)
        return cls(path, slot, genes.token_id, vocabulary, counts, log_base, max_length, bounds, identity)

    def read(self, file: Any, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the tokens of cells `start` to `stop` (exclusive) of an open file: uint16 (stop - start, L), right-padded, and lengths.

        Raises
        ------
        ValueError
            If there are negative or infinite values.
        """
        rows = _rows(file[self.slot], start, stop)
        encoded = tokens.encode(
            rows,
            self.token_id,
            self.vocabulary,
            counts=self.counts,
            log_base=self.log_base,
            max_length=self.max_length,
            slot=f"{self.slot} of {self.path}",
        )
        return np.asarray(encoded.tokens), encoded.lengths


def _rows(stored: Any, start: int, stop: int) -> sparse.csr_matrix:
    """A block of rows of a stored CSR matrix; only its parts of the three arrays are read."""
    indptr = np.asarray(stored["indptr"][start : stop + 1], dtype=np.int64)
    values = slice(int(indptr[0]), int(indptr[-1]))
    shape = (stop - start, int(stored.attrs["shape"][1]))
    return sparse.csr_matrix((stored["data"][values], stored["indices"][values], indptr - indptr[0]), shape=shape)


def _sample(stored: Any) -> sparse.csr_matrix:
    """A few groups of rows at equal distances in the matrix."""
    n = int(stored.attrs["shape"][0])
    starts = np.unique(np.linspace(0, max(n - _SAMPLE_ROWS, 0), _SAMPLES).astype(int))
    ends = np.minimum(np.r_[starts[1:], n], starts + _SAMPLE_ROWS)
    return sparse.vstack([_rows(stored, int(a), int(b)) for a, b in zip(starts, ends, strict=True)], format="csr")


def _check_coverage(label: str, vocabulary: Vocabulary, genes: tokens.GeneMap, fraction: float) -> None:
    fraction = genes.n_mapped / max(1, len(genes.token_id)) if np.isnan(fraction) else fraction
    if genes.n_mapped and fraction >= FEW_COUNTS:
        return
    msg = (
        f"Vocabulary {vocabulary.name!r} knows the genes of {fraction:.1%} of the counts in {label} ({genes.n_mapped:,} of "
        f"{len(genes.token_id):,} genes, named by {genes.source}). Name the column of .var with Ensembl ids by `gene_ids=`."
    )
    if genes.n_mapped == 0 or fraction < TOO_FEW_COUNTS:
        raise ValueError(msg)
    warnings.warn(msg, UserWarning, stacklevel=5)
