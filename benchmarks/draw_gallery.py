"""Draw the pictures of the page "Plots" by running its code.

    python benchmarks/draw_gallery.py [--out docs/_static/gallery] [--dpi 80]

Runs every block of ``docs/gallery.md`` in order, and saves each plot to the file named below its block. Data come from
``sg.datasets``. Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import matplotlib.pyplot as plt
import scanpy as sc

import scgeneformer as sg

DOCS = Path(__file__).parents[1] / "docs"
PART = re.compile(r"^```python\n(.*?)^```|^```\{figure\} _static/gallery/(\S+)", flags=re.DOTALL | re.MULTILINE)


def draw(out: Path, dpi: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    sg.settings.progress = False
    sc.settings.autoshow = False
    names = {"sg": sg, "sc": sc}
    for code, file in PART.findall((DOCS / "gallery.md").read_text(encoding="utf-8")):
        if code:
            exec(compile(code, "gallery.md", "exec"), names)
            continue
        figure = plt.figure(plt.get_fignums()[-1])
        figure.savefig(out / file, dpi=dpi, bbox_inches="tight", pil_kwargs={"optimize": True})
        plt.close("all")
        print(f"{file}: {(out / file).stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "_static" / "gallery")
    parser.add_argument("--dpi", type=int, default=80)
    args = parser.parse_args()
    draw(args.out, args.dpi)
