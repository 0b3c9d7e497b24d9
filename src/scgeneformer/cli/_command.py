"""Commands: a function that reads, calls and writes, with the options of the functions that it calls."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scgeneformer import _settings
from scgeneformer._arguments import check, parameters_of
from scgeneformer._process import threads

from ._options import EMPTY, Option, function_named, options_of, parameter_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SETTINGS = "Settings"
CONFIG = Option(
    "config",
    "Path | None",
    None,
    "YAML file with options by command; those on the command line take precedence.",
    SETTINGS,
)
OWN = {  # options that commands have beside those of the functions they call
    "input": "Cells: .h5ad, .zarr, .h5mu, or .h5 of Cell Ranger.",
    "output": "File to write: .h5ad, .zarr or .h5mu.",
    "folder": "Folder to write.",
    "overwrite": "Replace an existing output, which may be the input.",
    "table": "File for a table, .csv or .tsv.",
}
JOBS = Option("jobs", "int | None", None, "Maximum number of threads. Defaults to the available cores.", SETTINGS)


@dataclass(frozen=True)
class Command:
    """A command, whose options are made when it is run: only then the functions that it calls are imported.

    Attributes
    ----------
    function
        What it does. Its keyword arguments ``**options`` are those that the user gave, and text that it returns goes to standard output.
    names
        Functions that it calls.
    without
        Parameters of these that get no option.
    chosen
        Names of the functions that it calls with certain options.
    """

    function: Callable[..., str | None]
    names: tuple[str, ...]
    without: tuple[str, ...]
    chosen: Callable[[Mapping[str, Any]], tuple[str, ...]]

    @property
    def summary(self) -> str:
        """First line of the help."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    def with_options(self) -> Callable[..., str | None]:
        """The function with its options, in the form that Cyclopts reads."""
        functions = list(map(function_named, self.names))
        explicit = inspect.signature(self.function).parameters.values()
        texts = OWN | parameter_texts(self.function)
        own = {
            p.name: Option(p.name, p.annotation, p.default, texts[p.name]).parameter(p.kind)
            for p in explicit
            if p.kind is not p.VAR_KEYWORD
        }
        derived = options_of(functions, {*self.without, *own})
        settings = {name: o for name, o in settings_options().items() if name not in {*own, *derived}}
        more = [option.parameter() for option in (*settings.values(), JOBS, CONFIG)]
        parameters = [*own.values(), *derived.values(), *more]

        @functools.wraps(self.function)
        def run(*args: Any, **given: Any) -> str | None:
            given.pop("config", None)
            jobs = check("jobs", JOBS.annotation, given.pop("jobs", None))
            execution = {name: value for name in settings if (value := given.pop(name, None)) is not None}
            check_options(derived, given, self.chosen(given))
            with (
                _settings.settings.override(**execution),
                nullcontext() if jobs is None else threads(jobs),
                redirect_stdout(sys.stderr),
                warnings.catch_warnings(),
            ):
                warnings.showwarning = lambda message, *_, **__: say(f"scgeneformer: warning: {message}")
                return self.function(*args, **given)

        described: Any = run
        described.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: (p.kind, p.default is not EMPTY)))
        described.__annotations__ = {p.name: p.annotation for p in parameters}
        called = ", ".join(f"sg.{name}" for name in self.names if not name.startswith("_"))
        described.__doc__ = (
            f"{self.summary}\n\nFor details, see the documentation of {called}." if called else self.summary
        )
        return run


def calls(
    *names: str,
    without: tuple[str, ...] = (),
    chosen: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., str | None]], Command]:
    """Make a function a command with the options of the functions that it calls, see :class:`Command`."""
    return lambda function: Command(function, names, without, chosen or (lambda options: names))


def settings_options() -> dict[str, Option]:
    """Options for `sg.settings`."""
    texts = parameter_texts(_settings.Settings, "Attributes")
    types = _settings.TYPES
    return {name: Option(name, types[name], None, texts[name], SETTINGS) for name in types}


def check_options(names: Iterable[str], given: Mapping[str, Any], functions: Iterable[str]) -> None:
    """Raise before any file is read, if a given option fits none of the functions or is not allowed by them, or one is lacking.

    Parameters
    ----------
    names
        Options that come from functions.
    given
        Values of those that were given.
    functions
        Names of the functions that are going to be called.

    Raises
    ------
    TypeError, ValueError
        If so.
    """
    parameters = {name: parameters_of(function_named(name)) for name in functions}
    words = " and ".join(parameters)
    for name in names:
        taking = [of_one[name] for of_one in parameters.values() if name in of_one]
        if name in given and not taking:
            msg = f"--{name.replace('_', '-')} is not an option of {words}."
            raise ValueError(msg)
        if name in given:
            for parameter in taking:
                parameter.check(given[name])
        elif any(parameter.default is EMPTY for parameter in taking):
            msg = f"{words} needs --{name.replace('_', '-')}."
            raise ValueError(msg)


def call(function: Callable[..., Any], *args: Any, options: Mapping[str, Any], **bound: Any) -> Any:
    """Call a function with those of `options` that it has, and with `bound`."""
    return function(*args, **{name: options[name] for name in parameters_of(function) if name in options} | bound)


def say(text: str) -> None:
    """Tell the user something that is not a result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
