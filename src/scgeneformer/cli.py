"""Command line: ``scgeneformer demo``, ``models``, ``tokenize``, ``embed``, ``perturb``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import _files
from ._settings import settings
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData


# of wrong arguments, files and weights, missing packages and small machines; any other error is a defect and keeps its traceback
_EXPECTED = (OSError, ValueError, KeyError, TypeError, FloatingPointError, ImportError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 after an error that a user can mend, which is told in one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        with settings.override(**_compute_settings(arguments)):
            arguments.command(arguments)
    except _EXPECTED as error:
        text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        sys.stderr.write(f"scgeneformer: error: {text or type(error).__name__}\n")
        return 2
    return 0


def _compute_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings that the command line gives."""
    given = {name: getattr(arguments, name, None) for name in ("device", "precision")}
    return {name: value for name, value in given.items() if value is not None}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _demo(arguments: argparse.Namespace) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    _files.check_folder(arguments.out)
    from ._demo import run

    run(arguments.out, model=arguments.model, max_cells=arguments.max_cells, say=_say)


def _models(arguments: argparse.Namespace) -> None:
    from .hub import available

    table = available()
    _say(table.to_csv() if arguments.csv else table.to_string())


def _tokenize(arguments: argparse.Namespace) -> None:
    from . import pp

    data = _read(arguments)
    pp.tokenize(
        data,
        arguments.model,
        layer=arguments.layer,
        gene_ids=arguments.gene_ids,
        counts=arguments.counts,
        mod=arguments.mod,
    )
    _files.write(data, arguments.output)
    _say(f"wrote {arguments.output}")


def _embed(arguments: argparse.Namespace) -> None:
    from . import _keys, pp, tl

    data = _read(arguments)
    if _keys.TOKENS not in _keys.as_adata(data, arguments.mod).obsm:
        _say("no tokens yet: tokenizing first")
        pp.tokenize(data, arguments.model, mod=arguments.mod)
    tl.embed(
        data,
        arguments.model,
        pooling=arguments.pooling,
        emb_layer=arguments.emb_layer,
        genes=arguments.genes,
        mod=arguments.mod,
    )
    _files.write(data, arguments.output)
    _say(f"wrote {arguments.output}")


def _perturb(arguments: argparse.Namespace) -> None:
    from . import get, tl

    if arguments.checkpoint is not None:
        _files.check_folder(arguments.checkpoint)
    data = _read(arguments, arguments.table)
    tl.perturb(
        data,
        arguments.model,
        arguments.genes,
        groupby=arguments.groupby,
        source=arguments.source,
        target=arguments.target,
        others=arguments.others,
        max_cells=arguments.max_cells,
        checkpoint=arguments.checkpoint,
        mod=arguments.mod,
    )
    tl.rank_shifts(data, min_cells=arguments.min_cells, mod=arguments.mod)
    _files.write(data, arguments.output)
    _say(f"wrote {arguments.output}")
    if arguments.table is not None:
        table = get.shifts(data, mod=arguments.mod)
        _files.replace(arguments.table, lambda path: table.to_csv(path, index=False))
        _say(f"wrote {arguments.table}")


def _read(arguments: argparse.Namespace, table: Path | None = None) -> AnnData | MuData:
    """Read the input, after checking that the output, and the `table` if there is one, can be written."""
    path, output = arguments.input, arguments.output
    for name in (path, output):
        if name.suffix not in _files.FORMATS:
            msg = f"{name} does not end in one of {_files.FORMATS}."
            raise ValueError(msg)
    if (path.suffix == ".h5mu") != (output.suffix == ".h5mu"):
        msg = f"{path} and {output} must both be .h5mu, or neither."
        raise ValueError(msg)
    if table is not None and table.resolve() in (path.resolve(), output.resolve()):
        msg = f"--table {table} would replace the cells. Choose another name."
        raise ValueError(msg)
    outputs = [output] if table is None else [output, table]
    for note in [note for name in dict.fromkeys([path, *outputs]) for note in _files.recover(name)]:
        _say(note)
    if not path.exists():
        msg = f"There is no {path}."
        raise FileNotFoundError(msg)
    for name in outputs:
        _files.check_output(name)
    return _files.read(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scgeneformer", description="Geneformer on AnnData files.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser(
        "demo", help="run all steps on real cells, offline, in a few minutes, and write a folder"
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (%(default)s)")
    demo.add_argument("--max-cells", type=int, default=40, help="maximum number of monocytes to perturb (%(default)s)")
    _add_model(demo)
    demo.set_defaults(command=_demo)

    models = commands.add_parser("models", help="list the models that have a name")
    models.add_argument("--csv", action="store_true", help="print comma-separated values")
    models.set_defaults(command=_models)

    tokenize = commands.add_parser("tokenize", help="rank the genes of each cell")
    _add_files(tokenize)
    tokenize.add_argument("--layer", help="layer with the counts (default: X)")
    tokenize.add_argument("--gene-ids", help="column of var with gene ids or symbols (default: detected)")
    tokenize.add_argument(
        "--counts", choices=("raw", "linear", "log1p"), default="raw", help="scale of the values (%(default)s)"
    )
    tokenize.set_defaults(command=_tokenize)

    embed = commands.add_parser("embed", help="embed cells; raw counts are tokenized first if there are no tokens")
    _add_files(embed)
    embed.add_argument(
        "--pooling",
        choices=("mean", "cls", "eos"),
        help="pooling of the gene embeddings of a cell (default: the model's)",
    )
    embed.add_argument(
        "--emb-layer", type=int, help="layer: 0 is the last, -1 the second to last (default: the model's)"
    )
    embed.add_argument("--genes", action="store_true", help="also embed genes")
    _add_compute(embed)
    embed.set_defaults(command=_embed)

    perturb = commands.add_parser(
        "perturb", help="delete genes of tokenized cells one by one and rank them by their effect"
    )
    _add_files(perturb)
    perturb.add_argument("--genes", nargs="+", help="genes to delete (default: all genes of each cell)")
    perturb.add_argument("--groupby", help="column of obs with the states of cells")
    perturb.add_argument("--source", help="state of the cells to perturb (default: all cells)")
    perturb.add_argument("--target", help="state towards which shifts are measured")
    perturb.add_argument("--others", nargs="+", default=(), help="further states towards which shifts are measured")
    perturb.add_argument("--max-cells", type=int, help="maximum number of cells to perturb")
    perturb.add_argument(
        "--min-cells", type=int, default=5, help="minimum number of cells for a gene to be tested (%(default)s)"
    )
    perturb.add_argument("--table", type=Path, help="file to which the ranking is also written as CSV")
    perturb.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="folder for finished parts: the same command resumes from them",
    )
    _add_compute(perturb)
    perturb.set_defaults(command=_perturb)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, help=".h5ad, .zarr or .h5mu")
    parser.add_argument("output", type=Path, help=".h5ad, .zarr or .h5mu to write; may be the input")
    parser.add_argument("--mod", default="rna", help="modality of .h5mu (%(default)s)")
    _add_model(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="default", help="name or path of a model (%(default)s)")


def _add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"))
