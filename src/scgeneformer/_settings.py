"""Settings that hold for the whole process, each also readable from the environment (``SCGENEFORMER_<NAME>``)."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ._arguments import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENVIRONMENT_PREFIX = "SCGENEFORMER_"
TYPES = {
    "device": "str",
    "precision": "Literal['auto', 'float32', 'bfloat16']",
    "token_budget": "int | None",
    "cache_dir": "str | Path",
    "mirror": "str | Path | None",
    "data": "str | Path | None",
    "offline": "bool",
    "progress": "bool | Literal['auto']",
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "scgeneformer"


def _parse_bool(text: str) -> bool:
    if text.strip().lower() not in (*_TRUE, *_FALSE):
        raise ValueError
    return text.strip().lower() in _TRUE


def _parse_progress(text: str) -> bool | Literal["auto"]:
    return "auto" if text.strip().lower() == "auto" else _parse_bool(text)


def _parse_optional_int(text: str) -> int | None:
    return int(text) if text.strip() else None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "device": str,
    "precision": str,
    "token_budget": _parse_optional_int,
    "cache_dir": Path,
    "mirror": lambda text: text or None,
    "data": lambda text: text or None,
    "offline": _parse_bool,
    "progress": _parse_progress,
}


class _Progress:
    """The setting `progress`: set to True, False or ``"auto"``, it reads as whether progress bars are shown."""

    @overload
    def __get__(self, instance: None, owner: type[Settings]) -> Literal["auto"]: ...
    @overload
    def __get__(self, instance: Settings, owner: type[Settings]) -> bool: ...
    def __get__(self, instance: Settings | None, owner: type[Settings]) -> bool | Literal["auto"]:
        if instance is None:
            return "auto"  # the default
        value = vars(instance)["progress"]
        return _has_viewer() if value == "auto" else bool(value)

    def __set__(self, instance: Settings, value: bool | Literal["auto"]) -> None:  # noqa: FBT001 - a descriptor's signature
        vars(instance)["progress"] = value


def _has_viewer() -> bool:
    """Whether standard error is a terminal, or this is a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return (shell is not None and "IPKernelApp" in shell.config) or (sys.stderr is not None and sys.stderr.isatty())


@dataclass
class Settings:
    """Process-wide settings of how to compute and where to find files.

    Each can also be set by an environment variable, such as ``SCGENEFORMER_DEVICE``, before the package is imported.

    Attributes
    ----------
    device
        A torch device name such as ``"cuda:1"``, or ``"auto"``: CUDA if available, then MPS, then the CPU.
    precision
        Precision of matrix products: ``"float32"``, ``"bfloat16"`` or ``"auto"`` (bfloat16 on CUDA, float32 elsewhere).
    token_budget
        Maximum number of tokens, padding included, in one forward pass. ``None`` chooses by device and is halved when memory runs out.
    cache_dir
        Folder for downloaded models and dictionaries.
    mirror
        URL or local folder with the file tree of the official model repository, used in its place. Hashes are checked all the same.
    data
        Local folder with files of :mod:`scgeneformer.datasets`, public or converted, used in place of downloads. Both are verified all the same.
    offline
        Never access the network: files must be in the cache or in a mirror folder.
    progress
        Show progress bars: True, False, or ``"auto"``, where standard error is a terminal or in a notebook. It reads as True or False.

    Examples
    --------
    `scgeneformer.settings` is the instance that all functions read:

    >>> sg.settings.token_budget = 16_384
    >>> with sg.settings.override(device="cpu", precision="float32"):
    ...     sg.settings.device
    'cpu'
    >>> sg.settings.token_budget = None
    """

    device: str = "auto"
    precision: str = "auto"
    token_budget: int | None = None
    cache_dir: Path = field(default_factory=_default_cache_dir)
    mirror: str | None = None
    data: str | None = None
    offline: bool = False
    progress: _Progress = _Progress()

    @classmethod
    def from_environment(cls) -> Settings:
        """Defaults, overridden by the environment variables that are set."""
        values = {}
        for name, parse in _PARSERS.items():
            variable = ENVIRONMENT_PREFIX + name.upper()
            if variable in os.environ:
                text = os.environ[variable]
                try:
                    values[name] = check(name, TYPES[name], parse(text))
                except ValueError as error:
                    msg = f"The environment variable {variable}={text!r} is not a value of the setting {name!r}. {error}".strip()
                    raise ValueError(msg) from None
        return cls(**values)

    def __setattr__(self, name: str, value: Any) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            msg = f"No setting {name!r}. Settings are: {', '.join(known)}."
            raise AttributeError(msg)
        check(name, TYPES[name], value)
        super().__setattr__(name, Path(value).expanduser() if name == "cache_dir" else value)

    @contextmanager
    def override(self, **values: Any) -> Iterator[Settings]:
        """Set `values` within a ``with`` block and restore the old ones after it."""
        before = {name: vars(self)[name] for name in values if name in vars(self)}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)


settings = Settings.from_environment()


def engine_options(**given: Any) -> dict[str, Any]:
    """Options of the engine: device, precision, token budget and progress bars are the settings' where they are None or not given.

    Raises
    ------
    TypeError, ValueError
        If one of these is given that the setting cannot have.
    """
    names = ("device", "precision", "token_budget", "progress")
    for name in names:
        if given.get(name) is not None:
            check(name, TYPES[name], given[name])
    return given | {name: getattr(settings, name) for name in names if given.get(name) is None}
