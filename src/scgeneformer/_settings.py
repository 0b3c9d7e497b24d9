"""Settings that hold for the whole process, each also readable from the environment (``SCGENEFORMER_<NAME>``)."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENVIRONMENT_PREFIX = "SCGENEFORMER_"
_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("auto", "float32", "bfloat16")


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "scgeneformer"


def _parse_bool(text: str) -> bool:
    return text.strip().lower() in {"1", "true", "yes", "on"}


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
    offline: bool = False
    progress: _Progress = _Progress()

    @classmethod
    def from_environment(cls) -> Settings:
        """Defaults, overridden by the environment variables that are set."""
        values = {
            name: parse(os.environ[ENVIRONMENT_PREFIX + name.upper()])
            for name, parse in _PARSERS.items()
            if ENVIRONMENT_PREFIX + name.upper() in os.environ
        }
        return cls(**values)

    def __setattr__(self, name: str, value: Any) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            msg = f"No setting {name!r}. Settings are: {', '.join(known)}."
            raise AttributeError(msg)
        if name == "device" and str(value).split(":")[0] not in _DEVICES:
            msg = f"device={value!r} is not one of {_DEVICES} (an index may follow, as in 'cuda:1')."
            raise ValueError(msg)
        if name == "precision" and value not in _PRECISIONS:
            msg = f"precision={value!r} is not one of {_PRECISIONS}."
            raise ValueError(msg)
        if name == "token_budget" and value is not None and value < 1:
            msg = f"token_budget={value!r} must be a positive number of tokens, or None."
            raise ValueError(msg)
        if name == "progress" and value not in (True, False, "auto"):
            msg = f"progress={value!r} must be True, False or 'auto'."
            raise ValueError(msg)
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
    """Options of the engine: device, precision, token budget and progress bars are the settings' where they are None or not given."""
    names = ("device", "precision", "token_budget", "progress")
    return given | {name: getattr(settings, name) for name in names if given.get(name) is None}
