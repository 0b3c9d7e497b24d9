"""The program: its commands, how errors are reported, and files of options."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, Token

from scgeneformer._version import __version__

from . import _cells, _machine, _tables, _training
from ._options import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cyclopts import ArgumentCollection

    from ._command import Command


@dataclass(frozen=True)
class Group:
    """Commands of one subject, which are listed when they are needed."""

    summary: str
    commands: Callable[[], dict[str, Command]]


REFERENCE = {"build": _cells.build, "query": _cells.query}
TRAIN = {"cells": _training.cells, "genes": _training.genes}
COMMANDS: dict[str, Command | Group] = {
    "tokenize": _cells.tokenize,
    "embed": _cells.embed,
    "annotate": _cells.annotate,
    "transfer": _cells.transfer,
    "reference": Group("Keep labelled cells as a reference, and query it.", lambda: REFERENCE),
    "evaluate": _cells.evaluate,
    "integrate": _cells.integrate,
    "compare-embeddings": _cells.compare_embeddings,
    "state-score": _cells.state_score,
    "score-sets": _cells.score_sets,
    "likelihood": _cells.likelihood,
    "complete": _cells.complete,
    "perturb": _cells.perturb,
    "rank": _cells.rank,
    "evaluate-shifts": _cells.evaluate_shifts,
    "network": _cells.network,
    "centrality": _cells.centrality,
    "evaluate-network": _cells.evaluate_network,
    "train": Group("Train a classifier.", lambda: TRAIN),
    "classify-genes": _cells.classify_genes,
    "tune": _training.tune,
    "vocabulary": _training.vocabulary,
    "pretrain": _training.pretrain,
    "get": Group("Print a table of results.", _tables.getters),
    "report": _machine.report,
    "models": _tables.models,
    "datasets": _tables.datasets,
    "demo": _machine.demo,
    "doctor": _machine.doctor,
}

# of wrong arguments, files and weights, missing packages and small machines; any other error is a defect and keeps its traceback
_EXPECTED = (OSError, ValueError, KeyError, TypeError, FloatingPointError, ImportError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 after an error that a user can fix, which is reported in one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        check_named(words)
        text = application(*words[:1])(words, exit_on_error=False, print_error=False, result_action="return_value")
        if isinstance(text, str):
            sys.stdout.write(text)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123
    except (CycloptsError, *_EXPECTED) as error:
        text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        sys.stderr.write(f"scgeneformer: error: {text or type(error).__name__}\n")
        return 2
    return 0


def check_named(words: Sequence[str]) -> None:
    """Raise if no command is named: in a pipeline, help would pass for a result.

    Raises
    ------
    ValueError
        If so.
    """
    group = COMMANDS.get(words[0]) if len(words) == 1 else None
    if not words or isinstance(group, Group):
        msg = f"Name a command: {', '.join(group.commands() if isinstance(group, Group) else COMMANDS)}. See --help."
        raise ValueError(msg)


def application(name: str = "") -> App:
    """The program, with the options of the command of this name; others have none yet, since making them takes seconds of imports."""
    app = App("scgeneformer", help="Geneformer on files of cells.", version=__version__, help_format="plaintext")
    app.config = (from_file,)
    for other, command in COMMANDS.items():
        if isinstance(command, Group):
            group = App(other, help=command.summary)
            app.command(group)
            for part, of_group in command.commands().items() if other == name else ():
                group.command(of_group.with_options(), name=part)
        elif other == name:
            app.command(command.with_options(), name=other)
        else:
            app.command(App(other, help=command.summary))
    return app


def from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take options that are not on the command line from the file of ``--config``, where they are below the name of the command.

    Raises
    ------
    ValueError
        If the file has another form, or unknown options or commands.
    """
    named = {argument.name.lstrip("-").replace("-", "_"): argument for argument in arguments}
    if "config" not in named or not named["config"].tokens:
        return
    path = Path(named["config"].tokens[0].value)
    content = read_yaml(path.read_text(encoding="utf-8"))
    _check_names(path, content, COMMANDS)
    for command in commands:
        content = content.get(command) or {}
    _check_names(path, content, named)
    for name, value in content.items():
        argument = named[name.replace("-", "_")]
        if not argument.tokens:
            argument.tokens.extend(_tokens(name, value, str(path)))


def _check_names(path: Path, content: Any, names: Any) -> None:
    if not isinstance(content, dict):
        msg = f"{path} has {content!r} where names and values are expected."
        raise ValueError(msg)
    unknown = [name for name in content if str(name) not in names and str(name).replace("-", "_") not in names]
    if unknown:
        msg = f"{path} has {unknown[0]!r}, which is none of: {', '.join(names)}."
        raise ValueError(msg)


def _tokens(name: str, value: Any, source: str) -> list[Token]:
    """Text is read as on the command line, and other values are taken as they are."""
    texts = value if isinstance(value, list) else [value]
    if texts and all(isinstance(text, str) for text in texts):
        return [Token(keyword=name, value=text, source=source, index=i) for i, text in enumerate(texts)]
    return [Token(keyword=name, source=source, implicit_value=value)]
