"""Commands whose result is a table, on standard output unless a file is named."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from scgeneformer import _files
from scgeneformer._arguments import parameters_of

from ._command import Command, call, calls, say
from ._data import check_table, read, tabulate
from ._options import choices_in, function_named, plain

if TYPE_CHECKING:
    from pathlib import Path


def getters() -> dict[str, Command]:
    """A command for each table of results."""
    from scgeneformer import get

    return {name: _getter(f"get.{name}") for name in get.__all__}


def _getter(name: str) -> Command:
    def run(input: Path, *, table: Path | None = None, overwrite: bool = False, **options: Any) -> str | None:
        check_table(table, overwrite=overwrite)
        return tabulate(call(function_named(name), read(input), options=options), table)

    run.__doc__ = _first_line(name)
    return calls(name)(run)


def _first_line(name: str) -> str:
    text = inspect.getdoc(function_named(name)) or ""
    return plain(text.splitlines()[0])


@calls()
def models(*, csv: bool = False) -> str:
    """List the named models.

    Parameters
    ----------
    csv
        Print comma-separated values.
    """
    from scgeneformer import hub

    table = hub.available()
    return table.to_csv() if csv else f"{table.to_string()}\n"


@calls()
def datasets(name: str | None = None, output: Path | None = None, *, overwrite: bool = False) -> str | None:
    """List the public data sets, or fetch one.

    Parameters
    ----------
    name
        What to fetch.
    output
        File to write: .csv for lists and pairs of genes (standard output by default), .h5ad for cells.
    """
    import pandas as pd

    names = _datasets()
    if name is None:
        return tabulate(pd.DataFrame([{"name": n, "content": _first_line(f)} for n, (f, _) in names.items()]))
    if name not in names:
        msg = f"There is no data set {name!r}. Choose one of: {', '.join(names)}."
        raise ValueError(msg)
    check_table(output, overwrite=overwrite)
    function, arguments = names[name]
    data = function_named(function)(*arguments)
    if isinstance(data, pd.DataFrame):
        return tabulate(data, output)
    if isinstance(data, dict):
        rows = [(group, gene) for group, genes in data.items() for gene in genes]
        return tabulate(pd.DataFrame(rows, columns=["source", "target"]), output)
    if output is None or output.suffix not in _files.FORMATS:
        msg = f"{name!r} has cells. Name a file to write that ends in one of {_files.FORMATS}."
        raise ValueError(msg)
    _files.write(data, output)
    say(f"wrote {output}")
    return None


def _datasets() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Function and arguments for each name: a function has one name, or as many as its first argument has choices."""
    from scgeneformer import datasets

    names: dict[str, tuple[str, tuple[str, ...]]] = {}
    for function in datasets.__all__:
        first = next(iter(parameters_of(getattr(datasets, function)).values()), None)
        if first is None:
            names[function] = (f"datasets.{function}", ())
        else:
            names |= {choice: (f"datasets.{function}", (choice,)) for choice in choices_in(first.annotation)}
    return names
