"""Arguments of public functions: a wrong one is refused by name before anything is computed or written.

Types and choices are read from a function's own annotations. What annotations cannot say, ranges above all, is in `RULES` by the name
of the parameter, so that a name means the same in all functions.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import os
import re
import reprlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
Predicate = Callable[[Any], bool]

# What a value of a numeric or text parameter must fulfil, and how an error says so.
AT_LEAST_0: tuple[str, Predicate] = ("of at least 0", lambda value: value >= 0)
AT_LEAST_1: tuple[str, Predicate] = ("of at least 1", lambda value: value >= 1)
AT_LEAST_2: tuple[str, Predicate] = ("of at least 2", lambda value: value >= 2)
ABOVE_0: tuple[str, Predicate] = ("above 0", lambda value: value > 0)
SHARE: tuple[str, Predicate] = ("from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1: tuple[str, Predicate] = ("from 0 to below 1", lambda value: 0 <= value < 1)
BETWEEN: tuple[str, Predicate] = ("between 0 and 1", lambda value: 0 < value < 1)
SLOT: tuple[str, Predicate] = ("that is not empty and has no slash", lambda value: value != "" and "/" not in value)

RULES: dict[str, tuple[str, Predicate]] = {
    **dict.fromkeys(
        ("n_bootstrap", "n_reference", "n_random", "n_top", "refine", "rng", "freeze", "pad_id", "bos_id", "eos_id"),
        AT_LEAST_0,
    ),
    **dict.fromkeys(("n_decoder_layers", "learning_rate", "weight_decay", "warmup", "gradient_clip"), AT_LEAST_0),
    **dict.fromkeys(("max_length", "batch_size", "token_budget", "block_cells", "blocks_in_memory"), AT_LEAST_1),
    **dict.fromkeys(("max_epochs", "max_steps", "accumulate", "checkpoint_every", "lora"), AT_LEAST_1),
    **dict.fromkeys(("n_latent", "n_hidden"), AT_LEAST_1),
    **dict.fromkeys(("l0_weight", "prior_weight", "independence_weight"), AT_LEAST_0),
    **dict.fromkeys(("n_layers", "width", "n_heads", "feed_forward", "vocab_size", "n_segments"), AT_LEAST_1),
    **dict.fromkeys(("n_kv_heads", "head_width"), AT_LEAST_1),
    **dict.fromkeys(
        (
            "max_cells",
            "max_pairs",
            "max_targets",
            "min_cells",
            "min_genes",
            "n_edges",
            "n_genes",
            "top_k",
            "n_bins",
            "n_matched",
            "n_neighbors",
            "ncols",
            "ranks",
        ),
        AT_LEAST_1,
    ),
    "time_step": ABOVE_0,
    **dict.fromkeys(("n_contexts", "max_queries"), AT_LEAST_1),
    "penalty": AT_LEAST_0,
    "p_time": SHARE,
    **dict.fromkeys(("n_repeats", "n_trials", "grace_period", "max_concurrent", "jobs"), AT_LEAST_1),
    **dict.fromkeys(("r", "lora_alpha"), ABOVE_0),
    **dict.fromkeys(("n_folds", "n_passes"), AT_LEAST_2),
    "max_state_cells": ("of at least 2, since a single cell is not a centroid", lambda value: value >= 2),
    "n_permutations": ("of at least 20, since fewer give no reliable standard deviation", lambda value: value >= 20),
    "emb_layer": ("of at most 0 (0 is the last layer, -1 the second to last)", lambda value: value <= 0),
    **dict.fromkeys(
        ("size", "vmax", "layer_norm_eps", "norm_eps", "rope_theta", "initializer_range", "factor"), ABOVE_0
    ),
    "reduction_factor": ("above 1", lambda value: value > 1),
    **dict.fromkeys(("train_size", "validation_size", "test_size", "min_score", "max_fdr"), SHARE),
    **dict.fromkeys(("dropout", "attention_dropout", "lora_dropout", "validation", "corruption"), BELOW_1),
    **dict.fromkeys(("mask_probability", "unknown"), BETWEEN),
    "key_added": SLOT,
    "device": (
        "such as 'auto', 'cpu', 'cuda', 'mps' or, with an index, 'cuda:1'",
        lambda value: re.fullmatch(r"auto|(cpu|cuda|mps)(:\d+)?", value) is not None,
    ),
}

_NUMBERS = {"int": (int, np.integer), "float": (int, float, np.integer, np.floating)}
_CLASSES: dict[str, tuple[Any, str]] = {
    "Hashable": (Hashable, "a label"),
    "Mapping": (Mapping, "a mapping"),
    "dict": (dict, "a dict"),
    "Path": (os.PathLike, "a path"),
    "Generator": (np.random.Generator, "a numpy.random.Generator"),
}
_SCALARS = (str, bytes, int, float, complex, np.generic)
ANYTHING = ("Any", "object")


@dataclass(frozen=True)
class Allowed:
    """Values that one member of a union allows.

    Attributes
    ----------
    text
        The values in words.
    is_type, is_value
        Whether a value has the type, and whether one of the type is in the range.
    """

    text: str
    is_type: Predicate
    is_value: Predicate = lambda value: True


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse wrong arguments of a public function before it is entered; numpy scalars reach it as Python's.

    Raises
    ------
    TypeError
        If an argument is not of the type in the annotation; the error names it, its value and what is allowed.
    ValueError
        The same for an argument that is not among the choices, or out of the range in `RULES`.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        parameters = parameters_of(function)
        values = [parameter.check(value) for parameter, value in zip(parameters.values(), args, strict=False)]
        named = {n: parameters[n].check(value) if n in parameters else value for n, value in kwargs.items()}
        return function(*values, *args[len(values) :], **named)  # type: ignore[arg-type]

    return wrapper


def check_keywords(function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Check `keywords` that are to be passed to a public function later."""
    parameters = parameters_of(function)
    for name, value in keywords.items():
        if name in parameters:
            parameters[name].check(value)


def check(name: str, annotation: str, value: Any) -> Any:
    """The `value` of a parameter, if its annotation and `RULES` allow it; numpy scalars as Python's.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    members = allowed(name, annotation)
    if members is None:
        return value
    of_type = [member for member in members if member.is_type(value)]
    if any(member.is_value(value) for member in of_type):
        return value.item() if isinstance(value, np.generic) else value
    *texts, last = [member.text for member in members]
    msg = f"{name}={_SHORT.repr(value)} must be {', '.join(texts)}{' or ' if texts else ''}{last}."
    raise (ValueError if of_type else TypeError)(msg)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, with its annotation as written."""

    name: str
    annotation: str
    default: Any

    def check(self, value: Any) -> Any:
        """The `value`, if it is allowed or the default."""
        return value if value is self.default else check(self.name, self.annotation, value)


@functools.cache
def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters of a function by name, without those of ``*args`` and ``**kwargs``."""
    named = [
        p for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return {p.name: Parameter(p.name, _text(p.annotation), p.default) for p in named}


def _text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "Any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


@functools.cache
def allowed(name: str, annotation: str) -> tuple[Allowed, ...] | None:
    """What a parameter may be, by member of its union; None if anything.

    Parameters
    ----------
    name
        Name of the parameter, for `RULES`.
    annotation
        Its annotation as written.
    """
    members = members_of(ast.parse(annotation, mode="eval").body)
    if any(name_of(member) in ANYTHING for member in members):
        return None
    choices = [c for m in members if name_of(m) == "Literal" for c in choices_of(m)]
    found = [_allowed(name, member) for member in members if name_of(member) not in ("Literal", "None")]
    found += map(_choice, choices)
    if any(name_of(member) == "None" for member in members):
        found.append(Allowed("None", lambda value: value is None))
    return tuple(found)


def members_of(node: ast.expr) -> list[ast.expr]:
    """Types of a union; a single type is its only member."""
    if isinstance(node, ast.BinOp):
        return [*members_of(node.left), *members_of(node.right)]
    return [node]


def name_of(node: ast.expr) -> str:
    """Last part of the name of a type: ``Sequence`` of ``Sequence[str]``, ``Generator`` of ``np.random.Generator``."""
    base = node.value if isinstance(node, ast.Subscript) else node
    return ast.unparse(base).rsplit(".", 1)[-1]


def choices_of(node: ast.expr) -> list[Any]:
    """Values of a ``Literal``."""
    inner = ast.literal_eval(node.slice) if isinstance(node, ast.Subscript) else ()
    return list(inner) if isinstance(inner, tuple) else [inner]


def _choice(choice: Any) -> Allowed:
    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else value

    return Allowed(
        repr(choice), lambda value: type(plain(value)) is type(choice), lambda value: bool(plain(value) == choice)
    )


def _allowed(name: str, node: ast.expr) -> Allowed:
    """What one member of a union other than None and choices allows."""
    kind = name_of(node)
    range_text, in_range = RULES.get(name, ("", lambda value: True))
    if kind in _NUMBERS:
        types, noun = _NUMBERS[kind], "an integer" if kind == "int" else "a finite number"
        is_number = lambda value: isinstance(value, types) and not isinstance(value, bool)
        return Allowed(
            f"{noun} {range_text}".strip(), is_number, lambda value: math.isfinite(value) and in_range(value)
        )
    if kind == "str":
        return Allowed(f"a string {range_text}".strip(), lambda value: isinstance(value, str), in_range)
    if kind == "bool":
        return Allowed("True or False", lambda value: isinstance(value, bool | np.bool_))
    if kind in ("Sequence", "list") and isinstance(node, ast.Subscript):
        items = allowed(name, ast.unparse(node.slice))
        return Allowed(f"a list of: {_either(items)}", _is_list(items), _all_in(items))
    if kind == "tuple" and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
        of_each = [_allowed(name, item) for item in node.slice.elts]
        return Allowed(
            f"a tuple of {len(of_each)}: {', '.join(item.text for item in of_each)}",
            lambda value: isinstance(value, tuple | list),
            lambda value: len(value) == len(of_each) and all(map(_fits, of_each, value)),
        )
    if kind in _CLASSES:
        base, text = _CLASSES[kind]
        return Allowed(text, lambda value: isinstance(value, base))
    article = "an" if kind[0] in "AEIOU" else "a"
    return Allowed(f"{article} {kind}", lambda value: value is not None and not isinstance(value, _SCALARS))


def _fits(allowed: Allowed, value: Any) -> bool:
    return allowed.is_type(value) and allowed.is_value(value)


def _either(items: tuple[Allowed, ...] | None) -> str:
    return "anything" if items is None else " or ".join(item.text for item in items)


def _parts(value: Any) -> Sequence[Any]:
    """Items of a list; a string stands for itself, and arrays are left to the function."""
    return [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []


def _is_list(items: tuple[Allowed, ...] | None) -> Predicate:
    def is_list(value: Any) -> bool:
        if isinstance(value, Mapping | bytes) or not (isinstance(value, str) or hasattr(value, "__len__")):
            return False
        return items is None or all(any(item.is_type(part) for item in items) for part in _parts(value))

    return is_list


def _all_in(items: tuple[Allowed, ...] | None) -> Predicate:
    def all_in(value: Any) -> bool:
        parts = _parts(value)
        return items is None or all(any(_fits(item, part) for item in items) for part in parts)

    return all_in


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
