"""The gate to the slots: a run replaces what it wrote before under the same key, and nothing else. Networks and embeddings are also read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from . import _keys as keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

COMPARED = ("weights_sha256", "vocabulary_hash", "pooling", "emb_layer")  # of two embeddings
# Results that names and values alone identify, as number of dimensions and type (object for any): `ad.concat` keeps them and drops
# their `uns`.
WITHOUT_UNS: dict[tuple[str, str], dict[str, tuple[int, type]]] = {
    ("pp.tokenize", keys.TOKENS): {
        f"obsm/{keys.TOKENS}": (2, np.number),  # no longer integers after an outer join
        f"obsm/{keys.counts_key(keys.TOKENS)}": (2, np.floating),
        f"obsm/{keys.values_key(keys.TOKENS)}": (2, np.floating),
        f"obs/{keys.N_TOKENS}": (1, np.integer),
        f"obs/{keys.TOKEN_VOCABULARY}": (1, object),
        f"var/{keys.TOKEN_ID}": (1, np.number),
    },
    ("tl.network", keys.NETWORK): {f"obs/{keys.cells_key(keys.NETWORK)}": (1, np.bool_)},
    ("tl.embed", keys.GENEFORMER): {
        f"obsm/{keys.embedding_key(keys.GENEFORMER)}": (2, np.float32),
        f"varm/{keys.GENEFORMER}": (2, np.float32),
    },
}


def check_free(adata: AnnData, verb: str, key: str, slots: Iterable[str]) -> None:
    """Refuse to write to `slots` unless each is free or was written by an earlier run of `verb` under `key`.

    Parameters
    ----------
    adata
        Where the results are to be written.
    verb
        Public function, such as ``"tl.embed"``.
    key
        Its `key_added`.
    slots
        All slots that it will write, such as ``"obsm/X_geneformer"``.

    Raises
    ------
    ValueError
        If a slot holds something else, a result of another run or data of the user's.
    """
    replaceable = _slots_of(adata, verb, key)
    for slot in slots:
        if slot in replaceable or not _is_there(adata, slot):
            continue
        place, name = slot.split("/", 1)
        owner = _owner(adata, slot)
        origin = f"was written by `sg.{owner[0]}` under {owner[1]!r}" if owner else "is not a result of scgeneformer"
        msg = (
            f".{place}[{name!r}] {origin}, and `sg.{verb}` does not overwrite it with its results under {key!r}. "
            f"Choose another `key_added`, or delete it first: `del adata.{place}[{name!r}]`."
        )
        raise ValueError(msg)


def write(adata: AnnData, verb: str, key: str, values: Mapping[str, Any], **params: Any) -> None:
    """Replace the earlier run of `verb` under `key` by `values`, by slot, and its parameters, which list these slots."""
    for slot in _slots_of(adata, verb, key) - {*values, f"uns/{key}"}:
        _remove(adata, slot)
    _set(adata, values)
    keys.write_params(adata, key, verb=verb, slots=[*values, f"uns/{key}"], **params)


def add(adata: AnnData, key: str, values: Mapping[str, Any]) -> None:
    """Write further `values`, by slot, of the run under `key`, which lists them among its slots from now on."""
    _set(adata, values)
    params = _params(adata, key)
    slots = dict.fromkeys([*map(str, params.get("slots", ())), *values])
    adata.uns[key]["params"] = {**params, "slots": np.array(list(slots), dtype=object)}


def read_network(adata: AnnData, key: str, group: str | None = None) -> tuple[str, Any]:
    """Name in ``.varp`` of a network, of a group of cells if any, and its CSR matrix of sources and targets.

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If it is empty, or `group` is not one of its groups.
    """
    run = keys.params(adata, key, cure="sg.tl.network(adata)")
    groups = [str(name) for name in run.get("groups", ())]
    if (groups and group is None) or (group is not None and group not in groups):
        msg = f"group={group!r}: .uns[{key!r}] has a network for each of the groups {groups or '(none)'}. Set `group=` to one of them."
        raise ValueError(msg)
    name = key if group is None else keys.group_key(key, group)
    if name not in adata.varp:
        msg = f"No network in .varp[{name!r}]. Run `sg.tl.network(adata)` first."
        raise KeyError(msg)
    matrix = sparse.csr_matrix(adata.varp[name])
    if matrix.nnz == 0:
        msg = f"The network in .varp[{name!r}] has no edges between the genes of .var. Run `sg.tl.network(adata)` on these genes."
        raise ValueError(msg)
    return name, matrix


def cells_of_edges(
    adata: AnnData, name: str, matrix: sparse.csr_matrix, min_cells: int | None = None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Number of cells behind each edge of a network, (nnz,), None for a score that is not of cells; and which edges have enough, bool (nnz,).

    Raises
    ------
    ValueError
        If `min_cells` is given for a score that is not of cells.
    """
    pairs = matrix.tocoo()
    if keys.pairs_key(name) not in adata.varp:
        if min_cells is not None:
            msg = (
                f"min_cells={min_cells} has no meaning for .varp[{name!r}], whose score does not come from cells. "
                "Leave it out."
            )
            raise ValueError(msg)
        return None, np.ones(pairs.nnz, dtype=bool)
    numbers = sparse.csr_matrix(adata.varp[keys.pairs_key(name)])
    n_cells = np.asarray(numbers[pairs.row, pairs.col]).ravel()
    return n_cells, n_cells >= (0 if min_cells is None else min_cells)


def _params(adata: AnnData, key: str) -> Mapping[str, Any]:
    run = adata.uns.get(key)
    params = run.get("params") if isinstance(run, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _slots_of(adata: AnnData, verb: str, key: str) -> set[str]:
    """Slots of the earlier run of `verb` under `key`."""
    params = _params(adata, key)
    if params.get("verb", verb) == verb and "slots" in params:
        return set(map(str, params["slots"]))
    if key in adata.uns:
        return set()
    return {slot for slot, form in WITHOUT_UNS.get((verb, key), {}).items() if _has_form(adata, slot, *form)}


def _owner(adata: AnnData, slot: str) -> tuple[str, str] | None:
    """Verb and key of the run that wrote a slot."""
    for key in adata.uns:
        params = _params(adata, key)
        if "verb" in params and slot in map(str, params.get("slots", ())):
            return str(params["verb"]), key
    return None


def _is_there(adata: AnnData, slot: str) -> bool:
    place, name = slot.split("/", 1)
    return name in getattr(adata, place)


def _has_form(adata: AnnData, slot: str, n_dims: int, kind: type) -> bool:
    if not _is_there(adata, slot):
        return False
    place, name = slot.split("/", 1)
    value = getattr(adata, place)[name]
    dtype = getattr(value, "dtype", None)
    fits = kind is object or (isinstance(dtype, np.dtype) and np.issubdtype(dtype, kind))
    return fits and value.ndim == n_dims


def _set(adata: AnnData, values: Mapping[str, Any]) -> None:
    for slot, value in values.items():
        place, name = slot.split("/", 1)
        getattr(adata, place)[name] = value


def _remove(adata: AnnData, slot: str) -> None:
    place, name = slot.split("/", 1)
    if not _is_there(adata, slot):
        return
    if place in ("obs", "var"):
        getattr(adata, place).drop(columns=name, inplace=True)  # unlike `del`, also known to views
    else:
        del getattr(adata, place)[name]


def read_embedding(
    adata: AnnData, use_rep: str, *, name: str = "", like: Mapping[str, Any] | None = None
) -> np.ndarray:
    """An embedding of cells in memory, float32 or float64 (n_obs, d).

    Parameters
    ----------
    adata
        Cells.
    use_rep
        Slot in ``.obsm``.
    name
        What errors call the cells.
    like
        `provenance` of an embedding that this one is to be like.

    Raises
    ------
    KeyError
        If there is none; the error says how to make it.
    ValueError
        If it is not a matrix of numbers.
    """
    if use_rep not in adata.obsm:
        call = embed_call(name or "adata", use_rep, like or {})
        msg = f"No representation in {name}.obsm[{use_rep!r}]. Run {call} first, or set `use_rep` to another."
        raise KeyError(msg)
    stored = adata.obsm[use_rep]
    stored = stored.compute() if hasattr(stored, "compute") else stored
    values = np.asarray(stored.toarray() if sparse.issparse(stored) else stored)
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        msg = f"{name}.obsm[{use_rep!r}] must be a matrix of numbers, but has shape {values.shape} and type {values.dtype}. Set `use_rep` to an embedding."
        raise ValueError(msg)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def provenance(adata: AnnData, use_rep: str) -> dict[str, Any]:
    """How ``.obsm[use_rep]`` was made: the name of the model, and what `COMPARED` lists, as far as it is known."""
    params = adata.uns.get(keys.embedding_name(use_rep), {}).get("params", {})
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name in ("model", *COMPARED)
        if (value := params.get(name)) is not None
    }


def check_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any], use_rep: str, whose: str) -> None:
    """Raise if a query, `ours`, was embedded in another way than `theirs`, those of `whose`: the numbers would be meaningless.

    Raises
    ------
    ValueError
        If so.
    """
    for name in COMPARED:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            call = embed_call("adata", use_rep, theirs)
            msg = (
                f".obsm[{use_rep!r}] was made with {name}={ours[name]!r} in adata, {theirs[name]!r} in {whose}. Embed "
                f"both in the same way: {call}."
            )
            raise ValueError(msg)


def embed_call(name: str, use_rep: str, provenance: Mapping[str, Any]) -> str:
    """The call of `sg.tl.embed` that makes an embedding of `name` like another."""
    model = [repr(provenance["model"])] if "model" in provenance else []
    options = [f"{option}={provenance[option]!r}" for option in ("pooling", "emb_layer") if option in provenance]
    key = keys.embedding_name(use_rep)
    arguments = [name, *model, *options, *([] if key == keys.GENEFORMER else [f"key_added={key!r}"])]
    return f"`sg.tl.embed({', '.join(arguments)})`"
