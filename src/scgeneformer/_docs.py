"""Parameters that several functions share, documented once."""

from __future__ import annotations

import functools
import inspect
import textwrap
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def doc_params(**texts: str) -> Callable[[Any], Any]:
    """Put texts in place of ``{name}`` in the docstring of a function or class, indented as the place is.

    Parameters
    ----------
    **texts
        Entries of a numpydoc section, one text for each name.
    """

    def decorate(documented: Any) -> Any:
        lines = []
        for line in inspect.cleandoc(documented.__doc__ or "").splitlines():
            name = line.strip()[1:-1] if line.strip().startswith("{") and line.strip().endswith("}") else None
            if name in texts:
                indent = line[: len(line) - len(line.lstrip())]
                lines += [f"{indent}{text}".rstrip() for text in textwrap.dedent(texts[name]).strip().splitlines()]
            else:
                lines.append(line)
        documented.__doc__ = "\n".join(lines)
        return documented

    return decorate


def section(documented: Any, title: str) -> str:
    """Entries of one numpydoc section of a docstring.

    Parameters
    ----------
    documented
        Class or function.
    title
        Title of the section, such as ``"Attributes"``.
    """
    lines = (inspect.getdoc(documented) or "").splitlines()
    start = lines.index(title) + 2
    titles = [i for i in range(start, len(lines) - 1) if lines[i + 1] and not lines[i + 1].strip("-")]
    return "\n".join(lines[start : titles[0] if titles else len(lines)]).strip()


def shared_options(
    options: type, *, defaults: Mapping[str, Any], rest: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function with ``**kwargs: Unpack[options]`` the signature and documentation of all options, and their defaults.

    Parameters
    ----------
    options
        TypedDict whose Attributes section documents its keys. It replaces ``{options}`` in the docstring.
    defaults
        Default of each key; the function is called with all of them.
    rest
        Name of the keyword arguments that are in neither.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_defaults(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**defaults, **kwargs})

        signature = inspect.signature(function)
        explicit = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in explicit}
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation)
            for name, annotation in get_type_hints(options).items()
            if name not in names
        ]
        others = inspect.Parameter(rest, inspect.Parameter.VAR_KEYWORD, annotation="Any")
        documented: Any = with_defaults
        documented.__signature__ = signature.replace(parameters=[*explicit, *shared, others])
        documented.__annotations__ = {
            **{name: value for name, value in function.__annotations__.items() if name != "options"},
            **{parameter.name: parameter.annotation for parameter in shared},
        }
        return doc_params(options=section(options, "Attributes"))(documented)

    return decorate
