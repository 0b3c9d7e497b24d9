"""The response of the package to a hostile input: a clean error, a documented result, or something else."""

from __future__ import annotations

import hashlib
import linecache
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

import scgeneformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PACKAGE = Path(scgeneformer.__file__).parent
CLEAN, DOCUMENTED, OTHER = "clean error", "documented answer", "other"
OURS = (ValueError, TypeError, KeyError, OSError, FloatingPointError, ImportError, AttributeError)


@dataclass
class Case:
    """A hostile input.

    Attributes
    ----------
    name
        What is wrong with it.
    call
        What is done with it.
    data
        Annotated data that a failing call has to leave as they are.
    answer
        Tells from the result whether it is the documented one; without it only an error will do.
    """

    name: str
    call: Callable[[], Any]
    data: Any = None
    answer: Callable[[Any], bool] | None = None


@dataclass
class Tally:
    """Verdicts of an area, and the cases that were neither clean nor documented."""

    area: str
    counts: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)

    def add(self, cases: Iterable[Case]) -> Tally:
        for case in cases:
            verdict, why = judge(case)
            self.counts[verdict] += 1
            if verdict == OTHER:
                self.others.append(f"{self.area}: {case.name}: {why}")
        return self


def judge(case: Case) -> tuple[str, str]:
    """Verdict on a case, and why."""
    before = None if case.data is None else fingerprint(case.data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of NumPy, about numbers that are none
        try:
            result = case.call()
        except Exception as error:  # noqa: BLE001 - whatever it is
            return _of_error(error, before, case)
    if case.answer is None:
        return OTHER, f"was taken, and gave {type(result).__name__}"
    try:
        right = case.answer(result)
    except Exception as error:  # noqa: BLE001
        return OTHER, f"its answer cannot be read: {error!r}"
    return (DOCUMENTED, "") if right else (OTHER, "gave another answer")


def _of_error(error: Exception, before: str | None, case: Case) -> tuple[str, str]:
    if before is not None and fingerprint(case.data) != before:
        return OTHER, f"the data were changed before {error!r}"
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    raised = linecache.getline(last.filename, last.lineno or 0).strip().startswith("raise")
    if PACKAGE in Path(last.filename).parents and raised and isinstance(error, OURS) and len(str(error)) > 20:
        return CLEAN, ""
    return OTHER, f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"


def fingerprint(data: Any) -> str:
    """Digest of all slots of an AnnData."""
    digest = hashlib.sha256()

    def put(name: str, value: Any) -> None:
        digest.update(name.encode())
        if isinstance(value, dict) or hasattr(value, "items") and not isinstance(value, pd.DataFrame | pd.Series):
            for key in sorted(value, key=str):
                put(f"{name}/{key}", value[key])
        elif sparse.issparse(value):
            for part in ("data", "indices", "indptr"):
                digest.update(np.ascontiguousarray(getattr(value, part, np.empty(0))).tobytes())
        elif isinstance(value, pd.DataFrame | pd.Series):
            digest.update(value.to_csv().encode())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())

    for place in ("X", "obs", "var", "obsm", "varm", "layers", "obsp", "varp", "uns"):
        value = getattr(data, place)
        put(place, dict(value) if place in ("obsm", "varm", "layers", "obsp", "varp") else value)
    return digest.hexdigest()
