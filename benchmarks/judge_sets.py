"""Scores of gene sets in the embedding, compared with the expression of the same genes.

    python benchmarks/judge_sets.py [--model default] [--counts 0 500 200] [--out TABLE.md]

Sets: the fifty strongest markers of each sorted type of blood cells (Zheng et al. 2017, by scanpy's t-test), and genes induced by interferon. Cells: Kang's
PBMC, from another laboratory and chemistry; types are scored in cells without interferon, interferon within each type. With `--counts`, cells are also
thinned to that number of counts (binomially); this is where a score from genes that the cell itself does not express should help. AUROC of the right cells against
all others, averaged over the sets, with a 95 % bootstrap over cells.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
TYPES = {  # a sorted type, and the same type in Kang's data
    "CD14+ Monocyte": ("CD14+Mono",),
    "CD19+ B": ("B",),
    "CD56+ NK": ("NK",),
    "CD8+ Cytotoxic T": ("CD8T",),
    "CD4+/CD25 T Reg": ("CD4T",),
}
INTERFERON = """ISG15 ISG20 IFI6 IFI27 IFI35 IFI44 IFI44L IFIT1 IFIT2 IFIT3 IFIT5 IFITM1 IFITM2 IFITM3 MX1 MX2 OAS1 OAS2 OAS3 OASL STAT1 STAT2 IRF1
IRF7 IRF9 USP18 RSAD2 HERC5 SAMD9L EPSTI1 CXCL10 CXCL11 LY6E BST2 XAF1 DDX58 IFIH1 PARP9 TRIM22 UBE2L6""".split()


def marker_sets(data: Path, types: dict[str, str], genes: set[str]) -> dict[str, list[str]]:
    """The fifty strongest markers of each sorted type, among `genes`."""
    sorted_cells = sc.read_h5ad(data / "pbmc_facs_zheng" / "pbmc_facs_train.h5ad")
    sorted_cells = sorted_cells[:, sorted_cells.var_names.isin(genes)].copy()
    sc.pp.normalize_total(sorted_cells)
    sc.pp.log1p(sorted_cells)
    sc.tl.rank_genes_groups(sorted_cells, "celltype", method="t-test", n_genes=50)
    names = sorted_cells.uns["rank_genes_groups"]["names"]
    return {name: list(names[name]) for name in types if name in names.dtype.names}


def thinned(counts: sparse.csr_matrix, total: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """Cells with about `total` counts; 0 keeps all counts."""
    if total == 0:
        return counts
    per_cell = np.asarray(counts.sum(1)).ravel()
    kept = np.minimum(total / per_cell, 1).repeat(np.diff(counts.indptr))
    values = rng.binomial(counts.data.astype(np.int64), kept)
    result = sparse.csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    result.eliminate_zeros()
    return result


def auroc(truths: list[np.ndarray], scores: list[np.ndarray], n_bootstrap: int = 200) -> str:
    """Mean over sets, with an interval over cells."""
    rng, drawn = np.random.default_rng(0), []
    for _ in range(n_bootstrap):
        values = []
        for truth, score in zip(truths, scores, strict=True):
            some = rng.integers(0, len(truth), len(truth))
            values.append(roc_auc_score(truth[some], score[some]))
        drawn.append(np.mean(values))
    mean = np.mean([roc_auc_score(truth, score) for truth, score in zip(truths, scores, strict=True)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{mean:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    """Evaluate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 500, 200])
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sc.settings.verbosity, sg.settings.progress = 0, False
    kang = sc.read_h5ad(args.data / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")
    kang.X = sparse.csr_matrix(kang.X, dtype=np.float32)
    types, condition = kang.obs["cell_type"].astype(str), kang.obs["condition"].astype(str)
    sets = marker_sets(args.data, TYPES, set(kang.var_names))
    sets["interferon"] = INTERFERON
    lines = ["| counts of a cell | sets of | embedding | expression | rank correlation |", "|" + "---|" * 5]
    for total in args.counts:
        cells = ad.AnnData(thinned(kang.X, total, np.random.default_rng(0)), obs=kang.obs[[]], var=kang.var)
        sg.pp.tokenize(cells, args.model)
        sg.tl.embed(cells, args.model, genes=True, pooling="mean")
        sg.tl.score_sets(cells, sets)
        scores = {row: cells.obsm[f"set_scores{end}"] for row, end in (("e", ""), ("x", "_expression"))}
        correlation = cells.uns["set_scores"]["sets"]["spearman"]
        control = (condition == "control").to_numpy()
        markers = [name for name in sets if name in TYPES]
        truths = [np.isin(types[control], TYPES[name]) for name in markers]
        shown = [
            auroc(truths, [table[name.replace("/", "|")].to_numpy()[control] for name in markers])
            for table in scores.values()
        ]
        median = np.sum(cells.X.toarray(), axis=1).mean()
        rho = correlation[[name.replace("/", "|") for name in markers]].mean()
        lines.append(f"| {median:.0f} | markers of {len(markers)} types | {' | '.join(shown)} | {rho:.2f} |")
        groups = [np.flatnonzero((types == name).to_numpy()) for name in sorted(set(types))]
        truths = [(condition == "stimulated").to_numpy()[rows] for rows in groups]
        shown = [auroc(truths, [table["interferon"].to_numpy()[rows] for rows in groups]) for table in scores.values()]
        lines.append(f"| {median:.0f} | interferon | {' | '.join(shown)} | {correlation['interferon']:.2f} |")
        print(total, "done", flush=True)
    text = "\n".join(lines)
    print(f"\n{text}\n\n{args.model}, {kang.n_obs} cells.")
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
