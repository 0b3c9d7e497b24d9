"""Options have the names, defaults and texts of the parameters of the functions that a command calls."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

import scgeneformer as sg
from scgeneformer._arguments import parameters_of
from scgeneformer.cli import _main
from scgeneformer.cli._command import Command
from scgeneformer.cli._options import NEVER, Option, function_named, plain


def commands() -> dict[str, Command]:
    found = {}
    for name, command in _main.COMMANDS.items():
        parts = {name: command} if isinstance(command, Command) else command.commands()
        found |= parts if isinstance(command, Command) else {f"{name} {part}": one for part, one in parts.items()}
    return found


@pytest.mark.parametrize("name", commands())
def test_no_option_is_lost_or_drifts(name) -> None:
    command = commands()[name]
    options = inspect.signature(command.with_options()).parameters
    seen = set()
    for function in map(function_named, command.names):
        documented = plain(inspect.getdoc(function).replace("\n", " "))
        for parameter in parameters_of(function).values():
            if parameter.name in {*NEVER, *command.without, *seen}:
                continue
            if parameter.name not in options:
                assert not Option(parameter.name, parameter.annotation, parameter.default, "").is_expressible
                continue
            seen.add(parameter.name)
            if parameter.name in inspect.signature(command.function).parameters:
                continue
            option = options[parameter.name]
            assert option.default == parameter.default
            help_ = get_args(option.annotation)[1].help
            assert help_
            assert " ".join(help_.split())[:60] in " ".join(documented.split())
    assert set(sg.settings.__dataclass_fields__) <= options.keys()
    assert all(get_args(option.annotation)[1].help for option in options.values())


def test_every_function_that_commands_promise_has_one() -> None:
    called = {name for command in commands().values() for name in command.names}
    assert {"pp.tokenize", "tl.embed", "tl.annotate", "tl.transfer", "tl.evaluate", "tl.perturb"} <= called
    assert {f"get.{name}" for name in sg.get.__all__} <= called


@pytest.mark.parametrize(
    ("annotation", "words", "value"),
    [
        ("str", ["1"], "1"),
        ("Hashable | None", ["1"], "1"),
        ("int | Literal['all']", ["2"], 2),
        ("int | Literal['all']", ["all"], "all"),
        ("int | np.random.Generator | None", ["3"], 3),
        ("float", ["1e-4"], 1e-4),
        ("Sequence[str] | Literal['vocabulary'] | None", ["vocabulary"], "vocabulary"),
        ("Sequence[str] | Literal['vocabulary'] | None", ["G1"], ["G1"]),
        ("str | Sequence[str] | None", ["disease"], "disease"),
        ("str | Sequence[str] | None", ["disease", "cell_type"], ["disease", "cell_type"]),
        ("bool | Sequence[Literal['probe', 'hvg']]", ["false"], False),
        ("bool | Sequence[Literal['probe', 'hvg']]", ["probe"], ["probe"]),
        ("Sequence[int] | None", ["0", "-1"], [0, -1]),
        ("tuple[int, int] | None", ["0", "4"], [0, 4]),
        ("Literal['balanced'] | Mapping[str, Any] | None", ["balanced"], "balanced"),
        ("Literal['balanced'] | Mapping[str, Any] | None", ["{a: 2}"], {"a": 2}),
        ("float | str | Path | Sequence[str | Path]", ["0.05"], 0.05),
        ("float | str | Path | Sequence[str | Path]", ["held_out.h5ad"], "held_out.h5ad"),
    ],
)
def test_words_are_read_as_the_annotation_says(annotation, words, value) -> None:
    from cyclopts import Token

    option = Option("name", annotation, None, "")
    assert option.convert([Token(value=word) for word in words]) == value


@pytest.mark.parametrize("annotation", ["AnnData | MuData", "Logger | list[Logger] | None", "Any", "Pretrained | None"])
def test_objects_have_no_option(annotation) -> None:
    assert not Option("name", annotation, None, "").is_expressible
