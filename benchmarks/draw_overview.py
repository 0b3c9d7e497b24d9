"""Draw the picture of the README: an embedding, a ranking of deletions, and a network, by the bundled model.

    python benchmarks/draw_overview.py [--cells 60] [--out docs/_static/overview.png]

PBMC of Kang et al., control and treated with interferon beta. Left: all cells. Middle: deletion of every gene of treated CD14+ monocytes, towards
untreated ones, by the screen. Right: contextual states of genes in the same monocytes. Takes a few minutes on one core. Each panel is also saved separately, as ``card_*.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import scanpy as sc
from judge_null import DATA
from matplotlib.transforms import Bbox

import scgeneformer as sg

OUT = Path(__file__).parents[1] / "docs" / "_static" / "overview.png"
CENTRE = "ISG15"
THUMBNAILS = ("card_embedding", "card_shifts", "card_network")


def draw(n_cells: int, out: Path) -> None:
    adata = ad.read_h5ad(DATA / "kang_ifnb_scgen/kang_ifnb_valid.h5ad")
    sg.pp.tokenize(adata)
    sg.tl.embed(adata)
    sc.pp.neighbors(adata, use_rep="X_geneformer")
    sc.tl.umap(adata)

    monocytes = adata[adata.obs["cell_type"] == "CD14+Mono"].copy()
    states = {"groupby": "condition", "source": "stimulated", "target": "control"}
    sg.tl.screen(monocytes, **states, max_cells=n_cells)
    sg.tl.rank_shifts(monocytes)
    sg.tl.network(monocytes, score="contextual")

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=[1.15, 1.1, 1.1])
    sc.pl.umap(adata, color="cell_type", ax=axes[0], show=False, size=14, frameon=False, title="Embedding of cells")
    sg.pl.shift(monocytes, kind="rank", n_top=14, ax=axes[1], show=False)
    axes[1].set_title("Deletions in treated monocytes", pad=24)  # above the legend
    sg.pl.network(monocytes, CENTRE, n_top=12, ax=axes[2], show=False)
    axes[2].set_title("Network of genes")
    low, high = axes[2].get_xlim()
    axes[2].set_xlim(low - 0.1 * (high - low), high)  # space for names on the left
    out.parent.mkdir(parents=True, exist_ok=True)
    options = {"pil_kwargs": {"optimize": True}}
    figure.savefig(out, dpi=90, **options)
    for ax, name in zip(axes, THUMBNAILS, strict=True):  # each panel separately, for the cards of the documentation
        parts = [ax, *(other for other in figure.axes if other not in axes and ax is axes[2])]  # with the colour bar
        extent = Bbox.union([part.get_tightbbox() for part in parts]).transformed(figure.dpi_scale_trans.inverted())
        figure.savefig(out.with_name(f"{name}.png"), dpi=60, bbox_inches=extent.padded(0.1), **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60, help="maximum number of monocytes to perturb")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    draw(args.cells, args.out)
