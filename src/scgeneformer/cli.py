"""Command line: ``scgeneformer demo``, ``models``, ``tokenize``, ``embed``, ``perturb``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

FORMATS = (".h5ad", ".h5mu", ".zarr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 after an error that is the caller's, told in one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (KeyError, ValueError, TypeError, OSError, FloatingPointError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"scgeneformer: error: {text}\n")
        return 2
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _demo(arguments: argparse.Namespace) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from ._demo import run

    run(arguments.out, model=arguments.model, max_cells=arguments.max_cells, say=_say)


def _models(arguments: argparse.Namespace) -> None:
    from .hub import available

    table = available()
    _say(table.to_csv() if arguments.csv else table.to_string())


def _tokenize(arguments: argparse.Namespace) -> None:
    from . import pp

    data = _read(arguments.input, arguments.output)
    pp.tokenize(
        data,
        arguments.model,
        layer=arguments.layer,
        gene_ids=arguments.gene_ids,
        counts=arguments.counts,
        mod=arguments.mod,
    )
    _write(data, arguments.output)


def _embed(arguments: argparse.Namespace) -> None:
    from . import _keys, pp, tl

    data = _read(arguments.input, arguments.output)
    if _keys.TOKENS not in _keys.as_adata(data, arguments.mod).obsm:
        _say("no tokens yet: tokenizing first")
        pp.tokenize(data, arguments.model, mod=arguments.mod)
    tl.embed(
        data,
        arguments.model,
        pooling=arguments.pooling,
        emb_layer=arguments.emb_layer,
        genes=arguments.genes,
        device=arguments.device,
        precision=arguments.precision,
        mod=arguments.mod,
    )
    _write(data, arguments.output)


def _perturb(arguments: argparse.Namespace) -> None:
    from . import get, tl

    data = _read(arguments.input, arguments.output)
    tl.perturb(
        data,
        arguments.model,
        arguments.genes,
        groupby=arguments.groupby,
        source=arguments.source,
        target=arguments.target,
        others=arguments.others,
        max_cells=arguments.max_cells,
        device=arguments.device,
        precision=arguments.precision,
        mod=arguments.mod,
    )
    tl.rank_shifts(data, min_cells=arguments.min_cells, mod=arguments.mod)
    _write(data, arguments.output)
    if arguments.table is not None:
        get.shifts(data, mod=arguments.mod).to_csv(arguments.table, index=False)
        _say(f"wrote {arguments.table}")


def _read(path: Path, output: Path) -> AnnData | MuData:
    """Read a file by its suffix, after checking that the output's is known too: that is cheaper before than after the work."""
    for name in (path, output):
        if name.suffix not in FORMATS:
            msg = f"{name} does not end in one of {FORMATS}."
            raise ValueError(msg)
    if (path.suffix == ".h5mu") != (output.suffix == ".h5mu"):
        msg = f"{path} and {output} must both be .h5mu, or neither."
        raise ValueError(msg)
    if not path.exists():
        msg = f"There is no {path}."
        raise FileNotFoundError(msg)
    if path.suffix == ".h5mu":
        import mudata

        return mudata.read_h5mu(path)
    import anndata

    return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)


def _write(data: AnnData | MuData, path: Path) -> None:
    if path.suffix == ".h5mu":
        data.write(path)
    elif path.suffix == ".zarr":
        data.write_zarr(path)
    else:
        data.write_h5ad(path)
    _say(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scgeneformer", description="Geneformer on AnnData files.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="the whole way on real cells, offline, in minutes; writes a folder")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (%(default)s)")
    demo.add_argument("--max-cells", type=int, default=40, help="monocytes to perturb (%(default)s)")
    _add_model(demo)
    demo.set_defaults(command=_demo)

    models = commands.add_parser("models", help="list the models that are known by name")
    models.add_argument("--csv", action="store_true", help="as comma-separated values")
    models.set_defaults(command=_models)

    tokenize = commands.add_parser("tokenize", help="rank the genes of each cell")
    _add_files(tokenize)
    tokenize.add_argument("--layer", help="layer with counts (X)")
    tokenize.add_argument("--gene-ids", help="column of var with gene ids (found automatically)")
    tokenize.add_argument("--counts", choices=("raw", "linear", "log1p"), default="raw", help="what the values are")
    tokenize.set_defaults(command=_tokenize)

    embed = commands.add_parser("embed", help="embed cells; tokenizes raw counts first where that was not done")
    _add_files(embed)
    embed.add_argument("--pooling", choices=("mean", "cls"), help="what stands for a cell (as the model's generation)")
    embed.add_argument("--emb-layer", type=int, help="0 is the last layer, -1 the second to last (as the model says)")
    embed.add_argument("--genes", action="store_true", help="embed genes too")
    _add_compute(embed)
    embed.set_defaults(command=_embed)

    perturb = commands.add_parser("perturb", help="delete genes of tokenized cells one by one, and rank them")
    _add_files(perturb)
    perturb.add_argument("--genes", nargs="+", help="genes to delete (every gene of a cell)")
    perturb.add_argument("--groupby", help="column of obs with states of cells")
    perturb.add_argument("--source", help="state of the cells to perturb (all cells)")
    perturb.add_argument("--target", help="state to measure the way towards")
    perturb.add_argument("--others", nargs="+", default=(), help="further states to measure the way towards")
    perturb.add_argument("--max-cells", type=int, help="perturb at most so many cells")
    perturb.add_argument("--min-cells", type=int, default=5, help="test genes deleted in at least so many cells")
    perturb.add_argument("--table", type=Path, help="also write the ranking as CSV")
    _add_compute(perturb)
    perturb.set_defaults(command=_perturb)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, help=".h5ad, .zarr or .h5mu")
    parser.add_argument("output", type=Path, help="the same with results")
    parser.add_argument("--mod", default="rna", help="modality of a MuData (%(default)s)")
    _add_model(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="default", help="name or path of a model (%(default)s)")


def _add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"))


if __name__ == "__main__":
    sys.exit(main())
