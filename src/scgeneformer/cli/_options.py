"""Options of commands, made from the signatures and docstrings of the functions that the commands call."""

from __future__ import annotations

import ast
import inspect
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import UNSET, Group, Parameter

from scgeneformer._arguments import check, choices_of, members_of, name_of, parameters_of
from scgeneformer._docs import section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cyclopts import Token

EMPTY = inspect.Parameter.empty
NEVER = {"self", "adata", "copy", "registry"}  # what a command gives itself
ALSO = {"pretrained": "--model"}  # other names of options
_NUMBERS, _LISTS = {"int", "float"}, {"Sequence", "list", "tuple"}
_WORDS = {"str", "Hashable", "Path", "bool", "Literal", "Mapping", "dict", "DataFrame", *_NUMBERS}
_SHOWN = {"bool": bool, "int": int, "float": float, "Path": Path}
_MARKUP = re.compile(r":\w+:`~?([^`<]*?)(?: *<[^`]*>)?`|``(.+?)``|`([^`]+)`")


class Unchecked:
    """Mark of a type that stands for an option in help only: Cyclopts lets pydantic check values and defaults against it if anything has imported pydantic."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return handler(Any)


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes
    ----------
    name, annotation, default
        Of the parameter that it is made from; the annotation as written.
    help
        What the docstring says.
    group
        Heading of the help under which it is listed, if it has one of its own.
    """

    name: str
    annotation: str
    default: Any
    help: str
    group: str = ""

    @property
    def scalars(self) -> list[ast.expr]:
        """Types of the union that one word can express."""
        return [m for m in self._members if name_of(m) in _WORDS or name_of(m) == "Any"]

    @property
    def items(self) -> list[ast.expr]:
        """Types of the items of lists."""
        slices = [m.slice for m in self._members if name_of(m) in _LISTS and isinstance(m, ast.Subscript)]
        types = [part for node in slices for part in (node.elts if isinstance(node, ast.Tuple) else [node])]
        return [m for node in types for m in members_of(node) if name_of(m) in _WORDS]

    @property
    def _members(self) -> list[ast.expr]:
        return members_of(ast.parse(self.annotation, mode="eval").body)

    @property
    def is_expressible(self) -> bool:
        """Whether there is a value, other than the default, that text can express."""
        if name_of(self._members[0]) == "Any":
            return isinstance(self.default, str)
        return bool(self.scalars or self.items)

    def parameter(self, kind: Any = inspect.Parameter.KEYWORD_ONLY) -> inspect.Parameter:
        """The option as a parameter that Cyclopts reads."""
        hints = Parameter(
            help=self.help,
            alias=ALSO.get(self.name),
            converter=None if self._shown is bool else self.convert,
            group=Group(self.group, sort_key=99) if self.group else None,
            consume_multiple=True,
            negative_iterable=(),
            accepts_keys=False,
        )
        return inspect.Parameter(
            self.name, kind, default=self.default, annotation=Annotated[self._shown, hints, Unchecked()]
        )

    @property
    def _shown(self) -> Any:
        """Type that stands for the option in help: that of the command line, not always that of the value."""
        names = {name_of(member) for member in self.scalars}
        if self.items:
            return list[str]
        if names == {"Literal"}:
            return Literal[tuple(choice for member in self.scalars for choice in choices_of(member))]
        return _SHOWN.get(names.pop(), str) if len(names) == 1 else str

    def convert(self, tokens: Sequence[Token]) -> Any:
        """Value of words of the command line, or the one that a file of options has."""
        if tokens[0].implicit_value is not UNSET:
            return tokens[0].implicit_value
        texts = [token.value for token in tokens]
        if self.scalars and len(texts) == 1:
            with suppress(*([TypeError, ValueError] if self.items else [])):
                return self._value(texts[0], self.scalars)
        if not self.items:
            return self._value(texts[-1], self.scalars)
        return check(self.name, self.annotation, [self._value(text, self.items) for text in texts])

    def _value(self, text: str, members: list[ast.expr]) -> Any:
        """The first reading of `text` that has one of the types.

        Raises
        ------
        TypeError, ValueError
            If there is none.
        """
        annotation = " | ".join(ast.unparse(member) for member in members)
        readings = list(_readings(text, {name_of(member) for member in members}))
        for value in readings:
            with suppress(TypeError, ValueError):
                return check(self.name, annotation, value)
        return check(self.name, annotation, readings[0])


def _readings(text: str, types: set[str]) -> Iterator[Any]:
    """What `text` may mean, the likeliest first: a label or name stays text, even if it looks like a number."""
    numbers = [number(text) for number in (int, float) if _is(number, text)]
    yield from (*numbers, text) if types & _NUMBERS else (text, *numbers)
    if "Path" in types:
        yield Path(text)
    elif "DataFrame" in types:
        yield read_table(Path(text))
    if types & {"Mapping", "dict"} and text.lstrip().startswith("{"):
        yield read_yaml(text)
    if text.lower() in ("true", "false"):
        yield text.lower() == "true"


def _is(number: type, text: str) -> bool:
    try:
        number(text)
    except ValueError:
        return False
    return True


def read_yaml(text: str) -> Any:
    """Plain values in YAML, of which JSON is a part.

    Raises
    ------
    ValueError
        If the text is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        msg = f"This is not YAML: {error}"
        raise ValueError(msg) from error


def read_table(path: Path) -> Any:
    """A table of a CSV file, or of one separated by tabs if it ends in ``.tsv`` or ``.txt``."""
    import pandas as pd

    return pd.read_csv(path, sep="\t" if {".tsv", ".txt"} & set(path.suffixes) else ",")


def function_named(name: str) -> Callable[..., Any]:
    """A function, class or method by its name, such as ``"tl.embed"`` or ``"atlas.Reference.query"``."""
    room, *path = name.split(".")
    found: Any = import_module(f"scgeneformer.{room}")
    for part in path:
        found = getattr(found, part)
    return found


def options_of(functions: Iterable[Callable[..., Any]], without: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
    """Options for all parameters that text can express; where functions share a name, the first one's.

    Parameters
    ----------
    functions
        Public functions, or classes for the arguments of their constructors.
    without
        Names that get no option.
    """
    options: dict[str, inspect.Parameter] = {}
    for function in functions:
        texts = parameter_texts(function)
        for name, parameter in parameters_of(function).items():
            if name not in {*NEVER, *without, *options}:
                option = Option(name, parameter.annotation, parameter.default, texts.get(name, ""))
                if option.is_expressible:
                    options[name] = option.parameter()
    return options


def parameter_texts(documented: Any, title: str = "Parameters") -> dict[str, str]:
    """Text of each parameter in a numpydoc docstring, on one line and without markup; none if it has no such section."""
    if title not in (inspect.getdoc(documented) or "").splitlines():
        return {}
    names: list[str] = []
    texts: dict[str, str] = {}
    for line in section(documented, title).splitlines():
        if line and not line[0].isspace():
            names = [name.strip().lstrip("*") for name in line.split(",")]
        else:
            texts |= {name: f"{texts.get(name, '')} {line.strip()}".strip() for name in names}
    return {name: plain(text) for name, text in texts.items()}


def choices_in(annotation: str) -> list[Any]:
    """Values of the first ``Literal`` of an annotation."""
    literal = [m for m in members_of(ast.parse(annotation, mode="eval").body) if name_of(m) == "Literal"]
    return choices_of(literal[0]) if literal else []


def plain(text: str) -> str:
    """Text without the markup of reStructuredText."""
    return _MARKUP.sub(lambda match: next(part for part in match.groups() if part is not None), text)
