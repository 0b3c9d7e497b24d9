"""Commands about the installation and about results: what there is, and whether it works."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgeneformer._settings import TYPES, settings

from ._command import call, calls, say
from ._data import check_new_folder, read

if TYPE_CHECKING:
    from collections.abc import Iterator


@calls()
def doctor() -> str:
    """Show what this machine computes on, what is installed, and which models are on disk."""
    return "".join(f"{name:<24} {value}\n" for name, value in _findings())


def _findings() -> Iterator[tuple[str, object]]:
    import torch

    from scgeneformer import engine, hub
    from scgeneformer.tokens._threads import n_threads

    yield "scgeneformer", version("scgeneformer")
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    device = engine.resolve_device(settings.device)
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    yield "device", f"{device}{gpu}"
    yield "precision", str(engine.resolve_precision(settings.precision, device)).removeprefix("torch.")
    yield "threads", f"{torch.get_num_threads()} (torch), {n_threads()} (numba), {os.cpu_count()} cores"
    yield from ((f"settings.{name}", getattr(settings, name)) for name in TYPES)
    cache = Path(settings.cache_dir)
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    yield "cache", f"{size / 1e6:,.1f} MB in {cache}"
    table = hub.available()
    yield "models on disk", ", ".join(table.index[table["cached"].astype(bool)])
    for text in requires("scgeneformer") or ():
        name = re.split(r"[^\w-]", text)[0]
        extra = re.search(r"extra == ['\"](\w+)", text)
        otherwise = f"not installed (extra {extra[1]})" if extra else "not installed"
        yield name, torch.__version__ if name == "torch" else _version(name, otherwise)  # with what it was built for


def _version(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


@calls("_demo.run", without=("folder", "say", "show"))
def demo(*, out: Path = Path("demo"), overwrite: bool = False, **options: Any) -> str:
    """Run all steps on real cells, offline, in a few minutes.

    Parameters
    ----------
    out
        Folder to write.
    """
    import matplotlib as mpl

    from scgeneformer._demo import run

    mpl.use("agg")
    check_new_folder(out, overwrite=overwrite)
    return run(out, say=say, **options)


@calls("reporting.report", without=("path",))
def report(input: Path, page: Path, *, overwrite: bool = False, **options: Any) -> None:
    """Write one HTML page of results, for people who do not open the cells.

    Parameters
    ----------
    page
        File to write, .html.
    """
    import matplotlib as mpl

    from scgeneformer import _files, reporting

    mpl.use("agg")
    _files.check_output(page, overwrite=overwrite)
    call(reporting.report, read(input), page, options=options, overwrite=overwrite)
    say(f"wrote {page}")
