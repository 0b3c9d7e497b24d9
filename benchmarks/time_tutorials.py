"""Seconds of each tutorial, run from top to bottom in the environment of this interpreter, and its errors.

To reproduce what a reader in Colab sees, run this on a copy of the notebooks, in an environment with what their first cells install, and nbclient.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DEFAULT_FOLDER = Path(__file__).parents[1] / "tutorials"


def main() -> None:
    """Print one line for each notebook, and one for each of its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of notebooks, by default all")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    args = parser.parse_args()
    for name in args.names or sorted(path.stem for path in args.folder.glob("*.ipynb")):
        notebook = nbformat.read(args.folder / f"{name}.ipynb", as_version=4)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as empty:
            resources = {"metadata": {"path": empty}}
            NotebookClient(notebook, timeout=1800, resources=resources, allow_errors=True).execute()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        for output in outputs:
            if output["output_type"] == "error":
                print(f"  {output['ename']}: {output['evalue']}", flush=True)


if __name__ == "__main__":
    main()
