"""Seconds of each tutorial, run from top to bottom, and its errors.

    python benchmarks/time_tutorials.py [NAME ...]
    python benchmarks/time_tutorials.py --wheel dist/scgeneformer-0.1.0-py3-none-any.whl [--python python3.12] [--environments FOLDER]

The first command runs in the environment of this interpreter. The second runs each notebook as a reader in Colab would: in a new environment that
holds what the notebook's first cell installs, with the built package instead of the repository's address, and the notebook's kernel. Notebooks that
install the same share an environment.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DEFAULT_FOLDER = Path(__file__).parents[1] / "tutorials"
KERNEL = ("ipykernel", "nbclient", "nbformat")  # present in Colab


def requirements(notebook: nbformat.NotebookNode, wheel: Path) -> list[str]:
    """What the first code cell installs, with the package from `wheel`."""
    cell = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    line = re.search(r'f"install -q (.*)"', cell)
    if line is None:
        msg = "The first cell installs nothing."
        raise ValueError(msg)
    return [word.replace("{address}", wheel.resolve().as_uri()) for word in shlex.split(line[1])]


def environment(wanted: list[str], folder: Path, python: str) -> Path:
    """Interpreter of an environment with these packages only, made if it is not in `folder` yet."""
    name = "-".join(sorted(re.sub(r"[^a-z,]+", "", word.split("@")[0].removeprefix("scgeneformer")) for word in wanted))
    interpreter = folder / (name or "plain") / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([python, "-m", "venv", interpreter.parents[1]], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", *wanted, *KERNEL], check=True)
    return interpreter


def run(path: Path) -> None:
    """Print the seconds of a notebook, and one line for each of its errors."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        resources = {"metadata": {"path": empty}}
        NotebookClient(notebook, timeout=1800, resources=resources, allow_errors=True).execute()
    print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if output["output_type"] == "error":
            print(f"  {output['ename']}: {output['evalue']}", flush=True)


def main() -> None:
    """Run the notebooks one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of notebooks, by default all")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--wheel", type=Path, help="install this package as the first cells do, in new environments")
    parser.add_argument("--python", default="python3", help="interpreter of the new environments")
    parser.add_argument(
        "--environments", type=Path, help="folder that keeps the new environments, by default a temporary one"
    )
    args = parser.parse_args()
    paths = [args.folder / f"{name}.ipynb" for name in args.names] or sorted(args.folder.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as temporary:
        for path in paths:
            if args.wheel is None:
                run(path)
                continue
            wanted = requirements(nbformat.read(path, as_version=4), args.wheel)
            interpreter = environment(wanted, args.environments or Path(temporary), args.python)
            subprocess.run([interpreter, __file__, path.stem, "--folder", args.folder], check=True)


if __name__ == "__main__":
    main()
