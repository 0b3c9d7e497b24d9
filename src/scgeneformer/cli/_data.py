"""Files that commands read and write, checked before the work."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scgeneformer import _files

from ._command import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


@dataclass
class Cells:
    """Cells that a command works on.

    Attributes
    ----------
    data
        The cells.
    output
        Where they go.
    """

    data: AnnData | MuData
    output: Path

    def write(self) -> None:
        """Write them."""
        _files.write(self.data, self.output)
        say(f"wrote {self.output}")


@contextmanager
def cells(path: Path, output: Path, table: Path | None = None, *, overwrite: bool) -> Iterator[Cells]:
    """Read cells, after checking that outputs can be written, and write them at the end.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or an output cannot be written, exists or is of another format.
    """
    check_suffix(path, _files.READABLE)
    check_suffix(output, _files.FORMATS)
    if (path.suffix == ".h5mu") != (output.suffix == ".h5mu"):
        msg = f"{path} and {output} must both be .h5mu, or neither."
        raise ValueError(msg)
    if table is not None and table.resolve() in (path.resolve(), output.resolve()):
        msg = f"--table {table} would replace the cells. Choose another name."
        raise ValueError(msg)
    outputs = [output] if table is None else [output, table]
    for note in [note for name in dict.fromkeys([path, *outputs]) for note in _files.recover(name)]:
        say(note)
    check_input(path)
    for name in outputs:
        _files.check_output(name, overwrite=overwrite)
    held = Cells(_files.read(path), output)
    yield held
    held.write()


def read(path: Path) -> AnnData | MuData:
    """Read cells that are not written again."""
    check_suffix(path, _files.READABLE)
    check_input(path)
    return _files.read(path)


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise if a name ends in none of `suffixes`.

    Raises
    ------
    ValueError
        If so.
    """
    if path.suffix not in suffixes:
        msg = f"{path} does not end in one of {suffixes}."
        raise ValueError(msg)


def check_input(path: Path) -> None:
    """Raise if there is no such file.

    Raises
    ------
    FileNotFoundError
        If so.
    """
    if not path.exists():
        msg = f"There is no {path}."
        raise FileNotFoundError(msg)


def check_table(path: Path | None, *, overwrite: bool) -> None:
    """Raise if a table cannot be written, or exists.

    Raises
    ------
    OSError, ValueError
        If so.
    """
    if path is not None:
        _files.check_output(path, overwrite=overwrite)


def check_new_folder(path: Path, *, overwrite: bool) -> None:
    """Raise if a folder cannot be written, or has something in it.

    Raises
    ------
    OSError, ValueError
        If so.
    """
    _files.check_folder(path)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise FileExistsError(_files.EXISTS.format(path))


def tabulate(table: pd.DataFrame, path: Path | None = None) -> str | None:
    """Write a table, or return its text for standard output; row names are kept where there are any."""
    import pandas as pd

    options: dict[str, Any] = {"index": not isinstance(table.index, pd.RangeIndex)}
    if path is None:
        return table.to_csv(**options)
    separator = "\t" if path.suffix == ".tsv" else ","
    _files.replace(path, lambda new: table.to_csv(new, sep=separator, **options))
    say(f"wrote {path}")
    return None
