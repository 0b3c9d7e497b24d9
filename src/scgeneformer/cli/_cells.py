"""Commands that read cells, let a function write its results to them, and write them to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgeneformer import _files
from scgeneformer._arguments import parameters_of

from ._command import Command, call, calls, say
from ._data import cells, check_new_folder, read, tabulate
from ._options import function_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._data import Cells


def on_cells(name: str, summary: str) -> Command:
    """The command for a function that writes to cells."""

    def run(input: Path, output: Path, *, overwrite: bool = False, **options: Any) -> None:
        with cells(input, output, overwrite=overwrite) as held:
            call(function_named(name), held.data, options=options)

    run.__doc__ = summary
    return calls(name)(run)


def with_table(name: str, getter: str, summary: str) -> Command:
    """The command for a function that writes to cells what another one tabulates."""

    def run(input: Path, output: Path, *, table: Path | None = None, overwrite: bool = False, **options: Any) -> None:
        with cells(input, output, table, overwrite=overwrite) as held:
            call(function_named(name), held.data, options=options)
        write_table(held, name, getter, options, table)

    run.__doc__ = summary
    return calls(name)(run)


def write_table(held: Cells, name: str, getter: str, options: Mapping[str, Any], path: Path | None) -> None:
    """Write the table of what a function has written to cells, if one is wanted."""
    if path is not None:
        where = {name: options[name] for name in ("mod",) if name in options}
        tabulate(function_named(getter)(held.data, key=key_of(name, options), **where), path)


def key_of(name: str, options: Mapping[str, Any]) -> str:
    """Slot to which a function writes."""
    parameters = parameters_of(function_named(name))
    slot = "key_added" if "key_added" in parameters else "key"
    return str(options.get(slot, parameters[slot].default))


tokenize = on_cells("pp.tokenize", "Rank the genes of each cell.")
annotate = on_cells("tl.annotate", "Predict labels of cells by a trained classifier.")
classify_genes = on_cells("tl.classify_genes", "Predict classes of genes by a trained classifier.")
evaluate = with_table("tl.evaluate", "get.evaluation", "Compare a classifier with baselines on labelled cells.")
rank = with_table("tl.rank_shifts", "get.shifts", "Rank and test genes by the shifts of perturbed cells.")
network = with_table("tl.network", "get.edges", "Score pairs of genes for a network.")
centrality = on_cells("tl.centrality", "Compute how central genes are in a network.")
evaluate_network = with_table("tl.evaluate_network", "get.evaluation", "Compare a network with known edges.")
evaluate_shifts = with_table(
    "tl.evaluate_shifts", "get.evaluation", "Compare ranked genes with the outcome of an experiment."
)
integrate = on_cells("tl.integrate", "Bring cells of several batches together in an embedding.")
compare_embeddings = with_table(
    "tl.compare_embeddings", "get.embedding_scores", "Score embeddings by labels and batches."
)
state_score = on_cells("tl.state_score", "Place each cell on the axis between two states.")
score_sets = on_cells("tl.score_sets", "Score cells by how near they lie to sets of genes.")
likelihood = on_cells("tl.likelihood", "Score cells by the likelihood of their genes under the model.")
complete = on_cells("tl.complete", "Keep the first genes of each cell and let a decoder draw the others.")


@calls("tl.embed", "pp.tokenize")
def embed(input: Path, output: Path, *, overwrite: bool = False, **options: Any) -> None:
    """Embed cells, after tokenizing them if they have no tokens."""
    from scgeneformer import _keys, pp, tl

    with cells(input, output, overwrite=overwrite) as held:
        mod, slot = options.get("mod", "rna"), options.get("tokens_key", _keys.TOKENS)
        if slot not in _keys.as_adata(held.data, mod).obsm:
            say("no tokens yet: tokenizing first")
            call(pp.tokenize, held.data, options=options, key_added=slot)
        else:
            unused = sorted(parameters_of(pp.tokenize).keys() & options.keys() - parameters_of(tl.embed).keys())
            if unused:
                msg = f"{input} has tokens already, so {unused} would do nothing. Leave them out, or run `scgeneformer tokenize`."
                raise ValueError(msg)
        call(tl.embed, held.data, options=options)


@calls("tl.transfer")
def transfer(input: Path, output: Path, reference: str, *, overwrite: bool = False, **options: Any) -> None:
    """Label cells by the most similar cells of a reference.

    Parameters
    ----------
    reference
        Labelled cells (a file), or the folder of `scgeneformer reference build`.
    """
    from scgeneformer import tl

    with cells(input, output, overwrite=overwrite) as held:
        of_cells = Path(reference).suffix in _files.READABLE
        call(tl.transfer, held.data, read(Path(reference)) if of_cells else reference, options=options)


@calls("atlas.Reference.query")
def query(input: Path, output: Path, reference: Path, *, overwrite: bool = False, **options: Any) -> None:
    """Label cells by a saved reference, and find those unlike all of its cells.

    Parameters
    ----------
    reference
        Folder of the reference.
    """
    from scgeneformer.atlas import Reference

    with cells(input, output, overwrite=overwrite) as held:
        call(Reference.load(reference).query, held.data, options=options)


@calls("atlas.Reference.from_adata")
def build(input: Path, folder: Path, *, overwrite: bool = False, **options: Any) -> None:
    """Make a reference of labelled and embedded cells."""
    from scgeneformer.atlas import Reference

    check_new_folder(folder, overwrite=overwrite)
    call(Reference.from_adata, read(input), options=options).save(folder, overwrite=overwrite)
    say(f"wrote {folder}")


def _verb(options: Mapping[str, Any]) -> str:
    """The function that perturbs with these options."""
    if options.get("screen"):
        return "tl.screen"
    return "tl.perturb" if options.get("sets") is None else "tl.perturb_sets"


@calls(
    "tl.perturb",
    "tl.perturb_sets",
    "tl.screen",
    "tl.rank_shifts",
    without=("key",),
    chosen=lambda options: (_verb(options), "tl.rank_shifts"),
)
def perturb(
    input: Path,
    output: Path,
    *,
    screen: bool = False,
    table: Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Perturb genes, or sets of genes, in tokenized cells, and rank them by their effect.

    Parameters
    ----------
    screen
        Estimate all genes from one backward pass per cell (`tl.screen`).
    """
    name = _verb(options | {"screen": screen})
    if options.get("checkpoint") is not None:
        _files.check_folder(Path(options["checkpoint"]))
    with cells(input, output, table, overwrite=overwrite) as held:
        call(function_named(name), held.data, options=options)
        try:
            call(function_named("tl.rank_shifts"), held.data, options=options, key=key_of(name, options))
        except Exception:
            held.write()  # what took long; `scgeneformer rank` can be run on it
            raise
    write_table(held, name, "get.shifts", options, table)
